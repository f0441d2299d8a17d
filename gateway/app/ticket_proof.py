"""A ticket shown by SCRAM: the client proves that it has one; neither the door nor an impostor gets to see it.

A client does not say which ticket it has. All tickets of one person for one target share their salt, and the proof is
held against each that is good now: a ticket is 256 bits by chance, which neither a salt of its own nor many iterations
would make any better. The salt is made of the two names and is answered for any: who exists cannot be asked.
"""

from hashlib import sha256

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.open_session import Admitted, admit_ticket
from gateway.app.people_ports import Credential
from gateway.app.ports import UnitOfWork
from gateway.app.refuse_stranger import refuse_stranger
from gateway.core.errors import Refusal
from gateway.wire.postgres_scram_server import Misbound, Proof, Verifier

MOST_TICKETS = 200  # of a person for a target, newest first: bounds the work that a stranger's proof costs
VERIFIER = "scram"  # where a ticket's verifier stands in its `data`
_SALT_BYTES = 16
_MISBOUND = Refusal(
    "door-impersonated",
    "Your client is connected to another TLS certificate than this door's: somebody is between you and the gateway.",
    next_steps=(
        "Tell the gateway's operators. Nothing of your ticket was given away.",
        "If a proxy on the way opens TLS on purpose, the database door must be let through it unopened.",
    ),
)


def salt_of(user_name: str, target: str) -> bytes:
    """The salt of every ticket of that person for that target."""
    return sha256(f"gateway ticket\0{user_name}\0{target}".encode()).digest()[:_SALT_BYTES]


def verifier_for(secret: str, user_name: str, target: str) -> str:
    """What is kept of a ticket for SCRAM, as text. Costs some 4,096 hashes."""
    return Verifier.of(secret, salt_of(user_name, target)).text()


def user_of_proof(
    ctx: Context, user_name: str, proof: Proof | Misbound, target: str, client: str = ""
) -> tuple[Admitted, bytes]:
    """As `admit`, and the answer that proves to the client that its ticket is known here.

    A ticket for one connection is used up by a proof that is right, and by nothing else.
    """
    if isinstance(proof, Misbound):
        about: journal.About = {"principal": user_name, "target": target}
        raise refuse_stranger(ctx, client, "session:denied", _MISBOUND, about=about)
    at = ctx.clock.now()
    found: list[Verifier] = []

    def find(uow: UnitOfWork) -> Credential | None:
        for digest, text in uow.credentials.usable(user_name, target, VERIFIER, at, MOST_TICKETS):
            verifier = Verifier.parse(text)
            if proof.is_of(verifier):
                found.append(verifier)
                return uow.credentials.find(digest, "ticket")
        return None

    admitted = admit_ticket(ctx, find, user_name, target, client=client)
    return admitted, proof.answer(found[0])
