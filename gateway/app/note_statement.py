"""What the door did to a session because of its level's rules or budget: an event, after the fact, never in its way."""

from collections.abc import Mapping

from gateway.app import journal
from gateway.app.context import Context
from gateway.core.session import Session


def note_statement(ctx: Context, session: Session, type: str, data: Mapping[str, object]) -> None:
    """Store it. Raises Unavailable; the recording holds the statement in any case."""
    outcome = "denied" if type == "statement:refused" else "ok"
    journal.record(ctx, type, outcome, data, **journal.about_session(session))
