"""What the log says of recordings that were destroyed on purpose."""

from collections.abc import Collection

from gateway.app.context import Context
from gateway.app.log_ports import EventFilter
from gateway.audit.leaf import format_instant
from gateway.audit.sealed_digests import DONE, ORDERED, SHREDDED, Shredding
from gateway.core.errors import Conflict, Refusal
from gateway.core.event import Event
from gateway.core.session import Session

MOST = 1000  # events of one session: an order, and what came of it


def require_not_shredded(ctx: Context, session: Session) -> None:
    """Conflict that says who ordered it, when and why. It holds also where a copy of the key is back on the disk."""
    if (found := shredding_of(ctx, session.id)) is not None:
        steps = (f"gw audit search --session {session.id} shows what the log knows of the session.",)
        raise Conflict(
            Refusal("recording-shredded", f"The recording of {session.id} {found.sentence()}", next_steps=steps)
        )


def shredding_of(ctx: Context, session_id: str) -> Shredding | None:
    """The first order to destroy this session's recording, and whether that was done."""
    found = ctx.log.search(EventFilter(session=session_id, type=SHREDDED, limit=MOST))
    orders = [told for told in found if _says(told.event, session_id)]
    if not orders:
        return None
    first = orders[-1]
    return Shredding(
        first.index,
        first.event.principal,
        format_instant(first.event.at),
        str(first.event.data.get("reason", "")),
        any(told.event.outcome == DONE for told in orders),
    )


def shredded_among(ctx: Context, sessions: Collection[str]) -> frozenset[str]:
    """Those whose recording was ordered destroyed. One question where none ever was."""
    if not sessions or not ctx.log.search(EventFilter(type=SHREDDED, limit=1)):
        return frozenset()
    return frozenset(each for each in sessions if shredding_of(ctx, each) is not None)


def _says(event: Event, session_id: str) -> bool:
    """By its leaf: it was found by columns, which nothing seals. A leaf that cannot be read has no such data."""
    is_it = (event.type, event.session) == (SHREDDED, session_id) and "recording" in event.data
    return is_it and event.outcome in (ORDERED, DONE)
