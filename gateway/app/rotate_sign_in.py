"""Renew the secret of a command line's sign-in while it is used, and find out when two have it.

The answer with a new secret can be lost on its way, so the old one goes on until the new one was used for the first
time, and a minute longer, as a command may be under way. Until then a renewal is repeated, which takes the secret of
the lost answer out of use. Whoever comes with a replaced secret later has a copy, or is robbed of one: nobody can tell
which of the two is the thief, so the sign-in ends for both (RFC 9700 §4.14.2).
"""

from dataclasses import replace
from datetime import datetime, timedelta

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.identity import NotSignedIn
from gateway.app.people_ports import Credential
from gateway.app.ports import UnitOfWork
from gateway.app.sign_in import SignedIn
from gateway.app.sign_ins import PREFIXES, end_credentials, login_id
from gateway.core.errors import Conflict, Refusal
from gateway.core.principal import User

GRACE = timedelta(minutes=1)
_SUCCESSOR, _REPLACED_AT = "successor", "replaced_at"  # what a replaced secret keeps in its data
_UNCLAIMED, _CLAIMED_AT = "unclaimed", "claimed_at"  # and its successor: not used yet, or since when
_OF_ONE_SECRET = frozenset({_SUCCESSOR, _REPLACED_AT, _UNCLAIMED, _CLAIMED_AT})
RENEWED_ALREADY = Refusal(
    "renewed-already",
    "This secret was renewed, and the new one is in use.",
    next_steps=("Use the new one. The old one is good for less than a minute.",),
)
REUSED = Refusal(
    "sign-in-copied",
    "This sign-in was used from two places, so it is over in both.",
    next_steps=("Sign in again. If you did not copy the credential yourself, tell the gateway's operators.",),
)


def rotate(ctx: Context, credential: Credential, user: User) -> SignedIn:
    """A new secret for the same sign-in, which ends when it always did; the old one is good for a while more.

    NotSignedIn when the sign-in is over, or is ended now because two have its secret; Conflict when a newer one is in
    use already.
    """
    secret, at = PREFIXES[credential.purpose] + ctx.ids.secret(), ctx.clock.now()
    with ctx.store.begin() as uow:
        current = uow.credentials.find(credential.digest, credential.purpose)  # as others have left it
        successor = _successor_of(uow, current) if current else None
        is_copied = _is_copied(current, successor)
        if current is not None and not is_copied:
            if successor is not None and _UNCLAIMED not in (successor.data or {}):
                raise Conflict(RENEWED_ALREADY)
            _replace(uow, current, successor, digest_of(secret), at)
    if is_copied:
        end_reused(ctx, credential, user)
        raise NotSignedIn(REUSED)
    return SignedIn(user, secret, credential.expires_at)


def claim_renewed(ctx: Context, credential: Credential) -> None:
    """Note the first use of a new secret: from now on the one before it is on its way out."""
    if _UNCLAIMED not in (credential.data or {}):
        return
    with ctx.store.begin() as uow:
        fresh = uow.credentials.find(credential.digest, credential.purpose)
        data = dict(fresh.data or {}) if fresh else {}
        if fresh is not None and data.pop(_UNCLAIMED, ""):  # not one that signed out meanwhile
            uow.credentials.save(replace(fresh, data={**data, _CLAIMED_AT: ctx.clock.now().isoformat()}))


def is_current(uow: UnitOfWork, credential: Credential, at: datetime) -> bool:
    """True for one in use, and for one whose successor is not, or since less than a minute."""
    if credential.used_at is None:
        return True
    successor = _successor_of(uow, credential)
    if successor is None:
        return False  # its answer was lost, and another took its place
    claimed_at = _claimed_at(successor, credential.used_at)
    return claimed_at is None or at - claimed_at < GRACE


def _is_copied(current: Credential | None, successor: Credential | None) -> bool:
    """True when it is over, its answer was lost, or the secret that took its place was replaced itself."""
    if current is None or current.used_at is None:
        return current is None
    return successor is None or successor.used_at is not None


def _replace(uow: UnitOfWork, current: Credential, lost: Credential | None, digest: str, at: datetime) -> None:
    data = {key: value for key, value in (current.data or {}).items() if key not in _OF_ONE_SECRET}
    data["login"] = login_id(current)
    if lost is not None:
        uow.credentials.save(replace(lost, used_at=at))
    replaced = {**(current.data or {}), "login": data["login"], _SUCCESSOR: digest, _REPLACED_AT: at.isoformat()}
    uow.credentials.save(replace(current, used_at=at, data=replaced))
    uow.credentials.add(replace(current, digest=digest, issued_at=at, used_at=None, data={**data, _UNCLAIMED: "yes"}))


def _successor_of(uow: UnitOfWork, credential: Credential) -> Credential | None:
    digest = (credential.data or {}).get(_SUCCESSOR, "")
    return uow.credentials.find(digest, credential.purpose) if digest else None


def _claimed_at(successor: Credential, replaced_at: datetime) -> datetime | None:
    """When it was used first, None when it never was; what an older gateway has renewed counts from the renewal."""
    data = successor.data or {}
    told = data.get(_CLAIMED_AT, replaced_at.isoformat())
    return None if _UNCLAIMED in data else datetime.fromisoformat(told)


def end_reused(ctx: Context, credential: Credential, user: User) -> None:
    """Somebody came with a secret that was replaced: end the sign-in, loudly."""
    with ctx.store.begin() as uow:
        ended = end_credentials(uow, user.id, "login", [login_id(credential)])
        if ended:
            data = {"via": credential.purpose, "login": login_id(credential)}
            journal.append(ctx, uow, "login:reused", "denied", principal=user.name, data=data)
