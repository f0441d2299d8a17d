from datetime import UTC, datetime, timedelta
from threading import Lock

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class FakeClock:
    """A clock that stands still until it is told to move, in either direction. Thread-safe."""

    def __init__(self, at: datetime = START) -> None:
        self._lock = Lock()
        self._at = at

    def now(self) -> datetime:
        with self._lock:
            return self._at

    def set(self, at: datetime) -> datetime:
        with self._lock:
            self._at = at
            return at

    def advance(self, by: timedelta) -> datetime:
        with self._lock:
            self._at += by
            return self._at
