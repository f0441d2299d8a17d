"""What a session left at work on its target, and no cancel stops, is ended there by force, with an event of its own."""

import logging
from collections.abc import Mapping
from functools import partial

from gateway.app import journal
from gateway.app.context import Context
from gateway.core.errors import GatewayError, Unavailable
from gateway.core.session import Session
from gateway.core.target import Target

LOG = logging.getLogger(__name__)


def end_backend(ctx: Context, session: Session, target: Target, role: str, pid: int) -> None:
    """End it when it is still there; then the attempt is stored first. Unavailable when the target does not do it.

    A store that is down does not prevent it, as it prevents no end of access: what is left at work is under nobody's
    grant any more. The session's end is in the log, or will be once the store is back; the process's own log has this.
    """
    data = {"role": role, "pid": pid}
    tell = partial(_tell, ctx, session)
    try:
        was_there = ctx.roles.end_backend(target, role, pid, lambda: tell("attempt", data))
    except GatewayError as no:
        tell("failed", {**data, "code": no.refusal.code, "message": no.refusal.message})
        raise
    if was_there:
        tell("ok", data)


def _tell(ctx: Context, session: Session, outcome: str, data: Mapping[str, object]) -> None:
    try:
        journal.record(ctx, "session:backend-ended", outcome, data, **journal.about_session(session))
    except Unavailable as why:
        LOG.warning("session:backend-ended (%s) of %s is not stored: %s", outcome, session.id, why.refusal.message)
