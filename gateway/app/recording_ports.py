"""What the use cases need of recordings."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from gateway.core.obligation import Record
from gateway.core.session import Session


class Recording(Protocol):
    """The second tier of evidence for one session: append-only, sequence-numbered, hash-chained."""

    def append(self, kind: str, at: datetime, data: bytes) -> int:
        """Queue one record, return its sequence number (from 0). Raises RecordingFailed when it cannot be kept.

        Blocks (bounded) when the spool is full: back-pressure, never loss.
        """
        ...

    def append_all(self, records: Sequence[tuple[str, int, bytes]]) -> int:
        """The same for (kind, unix nanoseconds, content) of several at one go; the number of the last, -1 for none."""
        ...

    def wait_durable(self, seq: int, timeout: timedelta) -> None:
        """Return once record `seq` is on disk; RecordingFailed otherwise."""
        ...

    def on_durable(self, seq: int, callback: Callable[[bool], None]) -> None:
        """The same for an event loop: `callback(ok)` is called once, from a thread of the recorder's; not ok, too, when
        the disk does not answer in time.
        """
        ...

    def digest(self) -> tuple[int, str]:
        """(number of records, hex of the running chain digest) of what is durable."""
        ...

    def seal(self) -> tuple[int, str]:
        """Flush, make the session's own file, return the final (count, digest). Idempotent."""
        ...


class RecordingFailed(Exception):
    """The recorder cannot keep a record: disk full, I/O error, closed. The session must end."""


class Recorder(Protocol):
    def open(self, session: Session, mode: Record, on_failure: Callable[[], None]) -> Recording:
        """Begin; RecordingFailed when it cannot. `on_failure` comes once, from another thread, if it fails later."""
        ...

    def recover(self) -> Sequence[tuple[str, int, str]]:
        """After a crash: seal every unfinished recording of this gateway; (session id, count, digest) of each."""
        ...

    def recover_all(self) -> Sequence[tuple[str, int, str]]:
        """The same for every other gateway on the same disk of which no process lives."""
        ...

    def sealed_digest(self, session_id: str) -> tuple[int, str] | None:
        """(count, digest) of a sealed recording, computed from its records; None when there is none."""
        ...
