"""Look into the audit log, and take proofs out of it. Who looks is in the log before the answer is given."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from gateway.app import journal
from gateway.app.api_tokens import READ_AUDIT, demand_scope
from gateway.app.authorise import authorise
from gateway.app.context import Context
from gateway.app.log_ports import EventFilter, StoredEvent
from gateway.core.decision import Action, Facts
from gateway.core.errors import NotFound, Refusal
from gateway.core.principal import Machine, User


def search_events(ctx: Context, user: User | Machine, filter: EventFilter) -> Sequence[StoredEvent]:
    """Newest first. Raises Denied, Unavailable."""
    _authorise(ctx, user)
    asked = {name: str(value)[:200] for name, value in asdict(filter).items() if value}
    _note(ctx, user, "audit:searched", {"in": "events", **asked})
    return ctx.log.search(filter)


def show_event(ctx: Context, user: User | Machine, event_id: str) -> StoredEvent:
    """One event. Raises Denied, NotFound, Unavailable."""
    _authorise(ctx, user)
    _note(ctx, user, "audit:searched", {"in": "events", "id": event_id[:200]})
    return _existing(ctx.log.get(event_id))


def receipt(ctx: Context, user: User | Machine, event_id: str) -> str:
    """The C2SP tlog-proof of an event: for auditors, and for whom the event is about. Raises Denied, NotFound."""
    stored = ctx.log.get(event_id)
    if stored is None or not _concerns(ctx, user, stored):
        _authorise(ctx, user)
        _note(ctx, user, "audit:exported", {"receipt": event_id[:200]})
    _existing(stored)
    return ctx.log.inclusion_proof(event_id)


def checkpoint(ctx: Context, user: User | Machine) -> str:
    """The newest signed checkpoint. Raises Denied."""
    _authorise(ctx, user)
    return ctx.log.checkpoint()


def tile(ctx: Context, user: User | Machine, path: str) -> bytes:
    """A tile of hashes or a bundle of entries, by its path from `tile/` on; the latter is noted in the log.

    Raises Denied, NotFound, Unavailable.
    """
    _authorise(ctx, user)
    if path.startswith("tile/entries/"):
        _note(ctx, user, "audit:exported", {"path": path[:200]})
    found = ctx.log.tile(path)
    if found is None:
        raise NotFound(Refusal("no-such-tile", "The log has no such tile under its newest checkpoint."))
    return found


def to_json(stored: StoredEvent) -> dict[str, object]:
    """An event as the API gives it."""
    event = stored.event
    return {
        "index": stored.index,
        "id": event.id,
        "at": event.at.isoformat(),
        "type": event.type,
        "source": event.source,
        "outcome": event.outcome,
        "principal": event.principal,
        "target": event.target,
        "request": event.request,
        "grant": event.grant,
        "session": event.session,
        "data": dict(event.data),
    }


def event_filter(
    *,
    target: str = "",
    principal: str = "",
    type: str = "",
    session: str = "",
    grant: str = "",
    request: str = "",
    text: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 100,
) -> EventFilter:
    """A filter within bounds: text of up to 200 characters, 1 to 1000 events."""
    return EventFilter(
        target=target,
        principal=principal,
        type=type,
        session=session,
        grant=grant,
        request=request,
        text=text[:200],
        since=since,
        until=until,
        limit=max(1, min(limit, 1000)),
    )


def _authorise(ctx: Context, user: User | Machine) -> None:
    if isinstance(user, Machine):
        demand_scope(user, READ_AUDIT)
        return
    authorise(ctx, user, Action.AUDIT, None, Facts(ctx.clock.now()))


def _note(ctx: Context, user: User | Machine, type: str, data: dict[str, object]) -> None:
    noted = journal.record(ctx, type, principal=user.name, data=data)
    journal.confirm_logged(ctx, noted)


def _concerns(ctx: Context, user: User | Machine, stored: StoredEvent) -> bool:
    """True for events of the user's own requests and grants: by the rows they name, not by names in the event."""
    with ctx.store.read() as uow:
        request = uow.requests.get(stored.event.request) if stored.event.request else None
        grant = uow.grants.get(stored.event.grant) if stored.event.grant else None
    return (request is not None and request.requester == user.id) or (grant is not None and grant.holder == user.id)


def _existing(stored: StoredEvent | None) -> StoredEvent:
    if stored is None:
        raise NotFound(Refusal("no-such-event", "The log holds no such event.", next_steps=("gw audit search",)))
    return stored
