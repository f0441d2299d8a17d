"""Let one connection in: authenticate, find the grant, decide again, lease, record, store the event, or no session."""

from dataclasses import dataclass

from gateway.app.context import Context
from gateway.app.ports import DatabaseLogin, Recording
from gateway.core.grant import Grant
from gateway.core.principal import User
from gateway.core.session import EndReason, Session
from gateway.core.target import Level, Target


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that may run. `login` is set for databases (secret), None for SSH."""

    session: Session
    grant: Grant
    target: Target
    level: Level
    recording: Recording
    login: DatabaseLogin | None


def user_of_ticket(ctx: Context, user_name: str, ticket: str, target: str) -> tuple[User, Grant]:
    """The person and grant behind a ticket presented at the database door; Denied when it is worth nothing."""
    raise NotImplementedError


def grant_for(ctx: Context, user: User, target: str, level: str = "") -> Grant:
    """The user's active grant for a target: of that level, else of the highest rank; Denied says how to get one."""
    raise NotImplementedError


def open_session(ctx: Context, user: User, grant: Grant, client: str) -> Opened:
    """Decide again with fresh facts, lease, open the recording, store `session:started`.

    The caller registers its `LiveSession` with `ctx.live.add(session.id, …)` at once and calls `end_session`
    exactly once afterwards. Raises Denied, NotFound or Unavailable; nothing is left behind then.
    """
    raise NotImplementedError


def end_session(ctx: Context, session: Session, recording: Recording, reason: EndReason, detail: str = "") -> None:
    """Seal the recording and store the end with its digest. Idempotent: the first reason stands."""
    raise NotImplementedError
