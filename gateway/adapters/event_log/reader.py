"""The port `EventLog` on a handle that can only SELECT."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from threading import Event as Flag
from time import monotonic
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, func, select

from gateway.adapters.event_log.sequencer import Sequencer
from gateway.adapters.event_log.tree import EVENTS, newest_head, stored_bytes, tile_bytes, tile_loader
from gateway.adapters.store.log_tables import column_text, instant_of, unix_microseconds
from gateway.adapters.store.readonly import ReadOnlyDatabase
from gateway.app.log_ports import EventFilter, EventLog, StoredEvent
from gateway.audit.leaf import decode_event, format_instant, parse_instant
from gateway.audit.merkle import inclusion_proof
from gateway.audit.proof import build_receipt
from gateway.audit.tiles import nodes_of, parse_path
from gateway.core.errors import NotFound, Refusal, Unavailable
from gateway.core.event import Event

MOST: Final = 10_000
MOST_SCANNED: Final = 200_000
POLL_SECONDS: Final = 0.05
_COLUMNS: Final = {
    "target": "target",
    "principal": "principal",
    "session": "session",
    "grant": "grant_id",
    "request": "request",
}


def newest_event_at(url: str) -> datetime | None:
    """When the newest stored event happened; None in an empty log. Time has passed that point."""
    database = ReadOnlyDatabase(url)
    try:
        with database.view() as connection:
            newest = connection.execute(select(func.max(EVENTS.c.at))).scalar()
    finally:
        database.close()
    return None if newest is None else instant_of(newest)


class EventLogReader(EventLog):
    """`sequencer` is the one of this process, if it has one: it is woken, and wakes who waits."""

    def __init__(self, url: str, sequencer: Sequencer | None = None) -> None:
        self._database = ReadOnlyDatabase(url)
        self._sequencer = sequencer
        self._closed = Flag()

    def close(self) -> None:
        """Give the connections back; nobody waits any longer."""
        self._closed.set()
        self._database.close()

    # ---------------------------------------------------------------- waiting

    def wait_included(self, event_ids: Sequence[str], timeout: timedelta) -> bool:
        """Works as well when another gateway sequences: what counts is what is stored."""
        wanted = set(event_ids)
        deadline = monotonic() + timeout.total_seconds()
        if self._sequencer is not None:
            self._sequencer.poke()
        while not (self._are_sequenced_here(wanted, deadline) or self._are_included(wanted)):
            if monotonic() >= deadline or self._closed.is_set() or (self._sequencer and self._sequencer.failure):
                return False
            if self._sequencer is None:
                self._closed.wait(min(deadline - monotonic(), POLL_SECONDS))
        return True

    def _are_sequenced_here(self, wanted: set[str], deadline: float) -> bool:
        """Nearly always it is this process that sequences: then no query is needed to know."""
        if self._sequencer is None:
            return False
        return self._sequencer.wait_for(wanted, min(deadline - monotonic(), POLL_SECONDS))

    def _are_included(self, wanted: set[str]) -> bool:
        # Positions are committed together with the checkpoint that covers them.
        query = select(func.count()).where(EVENTS.c.id.in_(wanted), EVENTS.c.position.is_not(None))
        with self._database.view() as connection:
            return connection.execute(query).scalar_one() == len(wanted)

    # ---------------------------------------------------------------- looking

    def search(self, filter: EventFilter) -> Sequence[StoredEvent]:
        """Unavailable when a search for text would read too much; `type` without a colon matches a whole subject."""
        query = select(EVENTS).where(*_conditions(filter)).order_by(EVENTS.c.ordinal.desc())
        limit = max(1, min(filter.limit, MOST))
        with self._database.view() as connection:
            if not filter.text:
                return [_stored(row) for row in connection.execute(query.limit(limit))]
            with connection.execution_options(yield_per=500).execute(query.limit(MOST_SCANNED + 1)) as rows:
                return list(_containing(rows, filter.text.casefold(), limit))

    def get(self, event_id: str) -> StoredEvent | None:
        """The event as stored, sequenced or not."""
        with self._database.view() as connection:
            row = connection.execute(select(EVENTS).where(EVENTS.c.id == event_id)).first()
        return None if row is None else _stored(row)

    # ---------------------------------------------------------------- proving

    def checkpoint(self) -> str:
        """The newest one; Unavailable before the log was begun."""
        with self._database.view() as connection:
            head = newest_head(connection)
        if head is None:
            raise Unavailable(
                Refusal("log-not-begun", "The log has no checkpoint yet.", next_steps=("Try again soon.",))
            )
        return head.note

    def inclusion_proof(self, event_id: str) -> str:
        """The receipt, with the event in its `extra` line."""
        with self._database.view() as connection:
            return _receipt(connection, event_id)

    def tile(self, path: str) -> bytes | None:
        """Any width that the tree has grown past is served: a narrower tile is a prefix of the wider."""
        tile = parse_path(path)
        if tile is None:
            return None
        with self._database.view() as connection:
            return tile_bytes(connection, tile)


def _receipt(connection: Connection, event_id: str) -> str:
    columns = EVENTS.c
    row = connection.execute(select(columns.leaf, columns.position).where(columns.id == event_id)).first()
    head = newest_head(connection)
    if row is None or row.position is None or head is None:
        raise NotFound(
            Refusal("event-not-in-log", "The log holds no such event (yet).", next_steps=("Try again in a moment.",))
        )
    with _damage_as_unavailable():
        steps = inclusion_proof(row.position, head.size, nodes_of(tile_loader(connection)))
    return build_receipt(stored_bytes(row.leaf), row.position, steps, head.note)


@contextmanager
def _damage_as_unavailable() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        text = "The log's tree is damaged, so nothing can be proved from it."
        raise Unavailable(
            Refusal("log-damaged", text, next_steps=("Run gw audit verify and call an auditor.",))
        ) from error


def _conditions(filter: EventFilter) -> Iterator[ColumnElement[bool]]:
    for field, column in _COLUMNS.items():
        if value := getattr(filter, field):
            yield EVENTS.c[column] == column_text(value)
    if filter.type:
        wanted = column_text(filter.type)
        is_subject = ":" not in wanted
        yield EVENTS.c.type.startswith(f"{wanted}:", autoescape=True) if is_subject else EVENTS.c.type == wanted
    if filter.since is not None:
        yield EVENTS.c.at >= unix_microseconds(filter.since)
    if filter.until is not None:
        yield EVENTS.c.at < unix_microseconds(filter.until)
    if filter.before is not None:
        yield EVENTS.c.position < filter.before


def _containing(rows: Any, needle: str, limit: int) -> Iterator[StoredEvent]:
    """Rows whose type or data hold the text. Case folding is the same on both databases here, and bounded."""
    found = 0
    written = json.dumps(needle, ensure_ascii=False)[1:-1]  # as it stands in a leaf
    for scanned, row in enumerate(rows):
        if scanned == MOST_SCANNED:
            text = f"More than {MOST_SCANNED} events would have to be read."
            raise Unavailable(
                Refusal("search-too-wide", text, next_steps=("Narrow it down by target, person or time.",))
            )
        if needle in row.type.casefold() or written in stored_bytes(row.leaf).decode(errors="replace").casefold():
            stored = _stored(row)
            if _holds(stored.event, needle):
                yield stored
                found += 1
        if found == limit:
            return


def _holds(event: Event, needle: str) -> bool:
    return needle in event.type.casefold() or any(needle in text.casefold() for text in _texts(event.data))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    else:
        yield str(value)


def _stored(row: Row[Any]) -> StoredEvent:
    leaf = stored_bytes(row.leaf)
    try:
        fields = decode_event(leaf)
    except ValueError as error:
        fields = _unreadable(row, str(error))
    event = Event(**{**fields, "at": parse_instant(str(fields["at"]))})  # type: ignore[arg-type]  # decode_event proved the types
    return StoredEvent(event, leaf, row.position)


def _unreadable(row: Row[Any], why: str) -> dict[str, object]:
    """A leaf that somebody tampered with must not hide the other events from a search."""
    names = ("id", "type", "source", "outcome", "principal", "target", "request", "session")
    fields: dict[str, object] = {name: getattr(row, name) for name in names}
    return {**fields, "grant": row.grant_id, "at": format_instant(instant_of(row.at)), "data": {"unreadable": why}}
