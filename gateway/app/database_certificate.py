"""A certificate for the database door: proves who comes, as the SSH door's does, and gives no right by itself.

It belongs to one sign-in and ends with it. Whose it is says the row that is kept of its digest, not what stands in it.
"""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from gateway.app import journal
from gateway.app.certificate_ports import NoClientsError
from gateway.app.context import Context
from gateway.app.open_session import grant_for
from gateway.app.people_ports import Credential
from gateway.app.ports import UnitOfWork
from gateway.app.refuse_stranger import refuse_stranger
from gateway.app.sign_ins import login_id
from gateway.app.ssh_certificate import LONGEST_KEY, fingerprint_of
from gateway.core.errors import Denied, Refusal
from gateway.core.grant import Grant
from gateway.core.principal import User
from gateway.core.target import Kind

PURPOSE = "database-certificate"
_ENDED = Refusal(
    "certificate-ended",
    "This certificate is not valid any more: it has expired, or the sign-in that it belongs to is over.",
    ("a valid certificate",),
    ("gw connect TARGET --certificate fetches a new one; gw login signs in.",),
)
_NONE_HERE = Refusal(
    "no-certificates",
    "The database door of this gateway takes no certificates.",
    next_steps=("gw connect TARGET gives a ticket instead.", "Operators set postgres.client_certificates."),
)
_OTHER_NAME = Refusal(
    "certificate-of-another",
    "This certificate belongs to somebody else than the user name says.",
    next_steps=("The user is your own name, as gw whoami shows it.",),
)
_NO_DATABASE = Refusal("not-a-database", "There is no database of that name for you.", (), ("gw targets lists yours.",))


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """`der` is the certificate; `user_name` whom it lets in."""

    der: bytes
    user_name: str
    expires_at: datetime


def database_certificate(ctx: Context, user: User, sign_in: Credential, public_key: str) -> ClientCertificate:
    """Sign the public key of whoever holds `sign_in`; Denied for a bad key, and where there are none."""
    at = ctx.clock.now()
    expires_at = min(at + ctx.limits.ssh_certificate_lifetime, sign_in.expires_at)
    try:
        if len(public_key) > LONGEST_KEY:
            raise ValueError("That public key is too long.")  # noqa: TRY301 - refused as all others are
        der = ctx.clients.sign(user, public_key, at, expires_at)
    except NoClientsError as why:
        raise journal.refuse(ctx, "certificate:denied", _NONE_HERE, principal=user.name) from why
    except ValueError as why:
        refusal = Refusal("key-not-accepted", str(why), next_steps=("ssh-keygen -t ecdsa makes one that is.",))
        raise journal.refuse(ctx, "certificate:denied", refusal, principal=user.name) from why
    about = {"login": login_id(sign_in)}
    told = {"expires_at": expires_at.isoformat(), "key": fingerprint_of(public_key), "door": "database", **about}
    with ctx.store.begin() as uow:
        uow.credentials.add(Credential(digest_of_certificate(der), PURPOSE, user.id, at, expires_at, data=about))
        noted = journal.append(ctx, uow, "certificate:issued", principal=user.name, data=told)
    journal.confirm_logged(ctx, noted)
    return ClientCertificate(der, user.name, expires_at)


def digest_of_certificate(der: bytes) -> str:
    """SHA-256 hex of the whole certificate."""
    return sha256(der).hexdigest()


def user_of_certificate(
    ctx: Context, user_name: str, digest: str, target: str, level: str = "", client: str = ""
) -> tuple[User, Grant]:
    """The person whose certificate completed the handshake, and their grant; Denied or NotFound otherwise."""
    about: journal.About = {"principal": user_name, "target": target}
    at = ctx.clock.now()
    with ctx.store.read() as uow:
        user = _holder(uow, digest, at)
    if user is None or user.name != user_name:
        flaw = _ENDED if user is None else _OTHER_NAME
        raise refuse_stranger(ctx, client, "session:denied", flaw, about=about)
    known = ctx.catalogue.current().targets.get(target)
    if known is not None and known.kind is not Kind.POSTGRES:
        raise journal.refuse(ctx, "session:denied", _NO_DATABASE, Denied, **about)
    return user, grant_for(ctx, user, target, level)


def _holder(uow: UnitOfWork, digest: str, at: datetime) -> User | None:
    """Whose certificate it is, while it and its sign-in last."""
    held = uow.credentials.find(digest, PURPOSE)
    if held is None or not held.issued_at <= at < held.expires_at:
        return None
    user = uow.users.get(held.subject)
    if user is None or not user.is_enabled():
        return None
    login = (held.data or {}).get("login", "")
    sign_ins = uow.credentials.of_subject(user.id, "cli")
    lasts = any(login_id(each) == login and each.used_at is None and at < each.expires_at for each in sign_ins)
    return user if lasts else None
