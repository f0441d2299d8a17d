"""The events, and the log that they become."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from gateway.core.event import Event


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What to look for; empty fields match everything. `text` is matched in type and data, case-insensitively.

    `before`: only events with a smaller index.
    """

    target: str = ""
    principal: str = ""
    type: str = ""
    session: str = ""
    grant: str = ""
    request: str = ""
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its place in the log; `index` None until it is sequenced. `leaf` are the bytes as hashed."""

    event: Event
    leaf: bytes
    index: int | None


class Events(Protocol):
    """Write side: the outbox of the log, committed with the state that it tells about."""

    def append(self, event: Event) -> None: ...
    def append_each(self, events: Sequence[Event]) -> None: ...


class EventLog(Protocol):
    """The Merkle tree over the events. Sequenced by one writer with group commit."""

    def wait_included(self, event_ids: Sequence[str], timeout: timedelta) -> bool:
        """True once all of them are leaves under a signed checkpoint; False when that took too long."""
        ...

    def search(self, filter: EventFilter) -> Sequence[StoredEvent]:
        """Newest first, on a handle that can only SELECT."""
        ...

    def get(self, event_id: str) -> StoredEvent | None: ...

    def checkpoint(self) -> str:
        """The newest signed checkpoint (a C2SP signed note)."""
        ...

    def inclusion_proof(self, event_id: str) -> str:
        """A C2SP tlog-proof (receipt) of the event against the newest checkpoint; NotFound when unsequenced."""
        ...

    def tile(self, path: str) -> bytes | None:
        """The bytes of `tile/<L>/<N>[.p/<W>]` or `tile/entries/<N>[.p/<W>]`; None when there is no such tile."""
        ...
