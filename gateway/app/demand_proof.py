"""Fulfil the duties `@step_up` and `@max_auth_age`: no effect without the proof that policy demands of the caller."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.identity import SignedClaims
from gateway.app.passkey_ports import Passkey
from gateway.app.people_ports import Credential
from gateway.app.ports import UnitOfWork
from gateway.app.sign_ins import login_id
from gateway.core.authentication import Proof, proof_of, unmet, used_up
from gateway.core.errors import Denied, Refusal
from gateway.core.obligation import Obligations, StepUp
from gateway.core.principal import User

_KEPT_FOR = timedelta(days=1)  # longer than any sign-in lives
_MOST_METHODS = 10
PROOF = "proof"  # a credential of this purpose is what a proof by passkey leaves behind; it is claimed once


def missing_proof(ctx: Context, user: User, duties: Obligations, at: datetime) -> Refusal | None:
    """Why the caller must prove first who they are; None when they have. Uses nothing up."""
    missing = unmet(duties, user.proof, at)
    if missing is not None or duties.step_up is not StepUp.EACH:
        return missing
    with ctx.store.read() as uow:
        proof = uow.credentials.find(digest_of(user.proof.id), PROOF)
    return used_up() if proof is None or proof.used_at is not None else None


def spend_proof(uow: UnitOfWork, user: User, duties: Obligations, at: datetime) -> None:
    """Use up the proof where each request needs its own, with the effect; Denied when another request was faster."""
    if duties.step_up is StepUp.EACH and not uow.credentials.claim(digest_of(user.proof.id), PROOF, at):
        raise Denied(used_up())


# ---------------------------------------------------------------- what a sign-in keeps


def claimed_proof(claims: SignedClaims) -> dict[str, str]:
    """What a provider's claims say about the sign-in, as a credential keeps it: `auth_time` and `amr` (Core §2)."""
    at, methods = claims.get("auth_time"), claims.get("amr")
    kept: dict[str, str] = {}
    if isinstance(at, int) and not isinstance(at, bool) and 0 < at < 1 << 36:
        kept["provider_at"] = datetime.fromtimestamp(at, UTC).isoformat()
    if isinstance(methods, list):
        words = [m for m in methods[:_MOST_METHODS] if isinstance(m, str) and m.isascii() and m.isalnum()]
        kept["methods"] = " ".join(word[:16] for word in words)
    return kept


def kept_proof(sign_in: Credential) -> Proof:
    """What a sign-in credential knows of how its person has proved who they are."""
    data = sign_in.data or {}
    read = proof_of(data)
    methods = tuple(data.get("methods", "").split())
    passkey, proof = data.get("passkey", ""), data.get("proof", "")
    return replace(read, methods=methods, passkey=passkey, id=proof, sign_in=login_id(sign_in))


def inherited_proof(user: User) -> dict[str, str]:
    """For a terminal that a signed-in person confirms: when the provider asked them, but no proof of their passkey."""
    proof = user.proof
    kept = {"methods": " ".join(proof.methods)} if proof.methods else {}
    return kept | ({"provider_at": proof.provider_at.isoformat()} if proof.provider_at else {})


def passkey_proof(ctx: Context, uow: UnitOfWork, passkey: Passkey, at: datetime) -> dict[str, str]:
    """A new proof by a passkey, stored to be used up once where policy wants that; what the sign-in keeps of it."""
    proof = ctx.ids.new("prf")
    uow.credentials.add(Credential(digest_of(proof), PROOF, passkey.user, at, at + _KEPT_FOR, single_use=True))
    return {"passkey_at": at.isoformat(), "passkey": passkey.id, "proof": proof}
