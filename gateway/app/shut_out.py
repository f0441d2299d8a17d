"""Who may come in at all: disable a person at once, or let them sign in again."""

from dataclasses import replace
from datetime import datetime

from gateway.app import journal
from gateway.app.authorise import authorise
from gateway.app.context import Context
from gateway.app.ports import UnitOfWork
from gateway.core.decision import Action, Facts
from gateway.core.errors import Conflict, NotFound, Refusal
from gateway.core.grant import Grant, revoke
from gateway.core.principal import User

_SIGN_INS = ("cli", "web")
_EVERY = 100_000
_UNDER_WAY = ("ticket", "device", "step-up", "emergency")  # what a sign-in made, or is about to


def disable_user(ctx: Context, user: User, name: str, reason: str = "") -> User:
    """Shut a person out: credentials gone now, live sessions ended by the supervisor within a second."""
    at = ctx.clock.now()
    authorise(ctx, user, Action.ADMINISTER, None, Facts(at))
    with ctx.store.begin() as uow:
        found = _by_name(uow, name)
        if not found.is_enabled():
            raise Conflict(Refusal("user-disabled-already", f"{found.name} is disabled already."))
        gone = replace(found, disabled_at=at)
        uow.users.upsert(gone)
        removed = put_out(uow, found, user.id, at, "account disabled")
        data = {"user": found.name, "reason": reason.strip()[:500], **removed}
        noted = journal.append(ctx, uow, "user:disabled", principal=user.name, data=data)
    ctx.wake()
    journal.confirm_logged(ctx, noted)
    return gone


def put_out(uow: UnitOfWork, gone: User, by: str, at: datetime, why: str, *, sign_ins: bool = True) -> dict[str, int]:
    """End all that a person has: credentials, and grants with their live sessions. Who comes back asks anew.

    `sign_ins` False leaves the sign-ins. The caller wakes the supervisor once it has committed.
    """
    purposes = _UNDER_WAY + (_SIGN_INS if sign_ins else ())
    removed = sum(uow.credentials.remove_for(gone.id, purpose) for purpose in purposes)
    if sign_ins:
        for session in uow.provider_sessions.alive(user=gone.id):
            uow.provider_sessions.save(replace(session, ended_at=at, sealed_token="", next_check_at=None))
    # One that was given since `at` was read, or by a gateway whose clock is ahead, begins after it and is theirs, too.
    ended = [revoke(g, at, by, why) for g in uow.grants.list(holder=gone.id, unfinished_at=at, limit=_EVERY)]
    revoked = sum(uow.grants.save(grant) for grant in ended if isinstance(grant, Grant))
    return {"credentials_removed": removed, "grants_revoked": revoked}


def enable_user(ctx: Context, user: User, name: str) -> User:
    """Let a person sign in again. Nothing that was removed comes back."""
    authorise(ctx, user, Action.ADMINISTER, None, Facts(ctx.clock.now()))
    with ctx.store.begin() as uow:
        found = _by_name(uow, name)
        if found.is_enabled():
            raise Conflict(Refusal("user-enabled-already", f"{found.name} is enabled already."))
        back = replace(found, disabled_at=None)
        uow.users.upsert(back)
        noted = journal.append(ctx, uow, "user:enabled", principal=user.name, data={"user": found.name})
    journal.confirm_logged(ctx, noted)
    return back


def _by_name(uow: UnitOfWork, name: str) -> User:
    found = uow.users.by_name(name)
    if found is None:
        raise NotFound(Refusal("unknown-user", f"Nobody called {name[:60]!r} has ever signed in here."))
    return found
