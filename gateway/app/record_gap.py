"""What a best-effort recording could not keep is an event, never silence."""

from collections.abc import Mapping

from gateway.app import journal
from gateway.app.context import Context


def record_gap(ctx: Context, session_id: str, gap: Mapping[str, object]) -> None:
    """Store `session:recording-gap`. Raises Unavailable when it cannot be stored: the recorder tries again."""
    with ctx.store.read() as uow:
        session = uow.sessions.get(session_id)
    about: journal.About = journal.about_session(session) if session else {"session": session_id}
    journal.record(ctx, "session:recording-gap", "failed", gap, **about)
