"""Renew the secret of a sign-in while it is used, and find out when two have it.

The old secret still opens for a minute: a command may be under way, or the answer with the new one was lost. Then a
renewal is repeated, which takes the secret of the lost answer out of use. Whoever comes with a replaced secret later
has a copy, or is robbed of one: nobody can tell which of the two is the thief, so the sign-in ends for both
(RFC 9700 §4.14.2).
"""

from dataclasses import replace
from datetime import datetime, timedelta

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.identity import NotSignedIn
from gateway.app.ports import Credential, UnitOfWork
from gateway.app.sign_in import SignedIn
from gateway.app.sign_ins import PREFIXES, end_credentials, login_id
from gateway.core.errors import Refusal
from gateway.core.principal import User

GRACE = timedelta(minutes=1)
ROTATE_AFTER = timedelta(hours=1)
REUSED = Refusal(
    "sign-in-copied",
    "This sign-in was used from two places, so it is over in both.",
    next_steps=("Sign in again. If you did not copy the credential yourself, tell the gateway's operators.",),
)


def rotate(ctx: Context, credential: Credential, user: User) -> SignedIn:
    """A new secret for the same sign-in, which ends when it always did; the old one is good for a minute more.

    NotSignedIn when the sign-in is over, or is ended now because two have its secret.
    """
    secret = PREFIXES[credential.purpose] + ctx.ids.secret()
    with ctx.store.begin() as uow:
        is_copied = not _replace(uow, credential, digest_of(secret), ctx.clock.now())
    if is_copied:
        end_reused(ctx, credential, user)
        raise NotSignedIn(REUSED)
    return SignedIn(user, secret, credential.expires_at)


def _replace(uow: UnitOfWork, credential: Credential, digest: str, at: datetime) -> bool:
    """False when the secret that took this one's place was replaced itself: then its holder is not who asks now."""
    current = uow.credentials.find(credential.digest, credential.purpose)  # as others have left it
    if current is None:
        return False
    data = {**(current.data or {}), "login": login_id(current)}
    lost = data.pop("successor", "")
    unclaimed = uow.credentials.find(lost, current.purpose) if lost else None
    if unclaimed is not None and unclaimed.used_at is not None:
        return False
    if unclaimed is not None:
        uow.credentials.save(replace(unclaimed, used_at=at - GRACE))
    uow.credentials.save(replace(current, used_at=current.used_at or at, data={**data, "successor": digest}))
    uow.credentials.add(replace(current, digest=digest, issued_at=at, used_at=None, data=data))
    return True


def is_due(credential: Credential, at: datetime) -> bool:
    """True when its secret has been around for long enough."""
    return credential.used_at is None and at - credential.issued_at >= ROTATE_AFTER


def is_in_grace(credential: Credential, at: datetime) -> bool:
    """True for one in use, or replaced a moment ago."""
    return credential.used_at is None or at - credential.used_at < GRACE


def end_reused(ctx: Context, credential: Credential, user: User) -> None:
    """Somebody came with a secret that was replaced: end the sign-in, loudly."""
    with ctx.store.begin() as uow:
        ended = end_credentials(uow, user.id, "login", [login_id(credential)])
        if ended:
            data = {"via": credential.purpose, "login": login_id(credential)}
            journal.append(ctx, uow, "login:reused", "denied", principal=user.name, data=data)
