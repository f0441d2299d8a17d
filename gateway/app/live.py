"""The connections that this process holds, by session id. Thread-safe; knows nothing of any protocol."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock

from gateway.app.session_ports import LiveSession
from gateway.app.statement_ports import Statement
from gateway.core.session import EndReason


@dataclass(frozen=True, slots=True)
class End:
    """How a session ended: why, and the records and digest of its recording."""

    reason: EndReason
    detail: str
    records: int
    digest: str


class LiveSessions:
    """A registry that the supervisor ends sessions through."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._sessions: dict[str, LiveSession] = {}
        self._deadlines: dict[str, datetime] = {}
        self._unstored: dict[str, End] = {}

    def add(self, session_id: str, live: LiveSession) -> None:
        """Register once the session is open."""
        with self._lock:
            self._sessions[session_id] = live

    def discard(self, session_id: str) -> None:
        """Forget; unknown ids are fine."""
        with self._lock:
            self._sessions.pop(session_id, None)
            self._deadlines.pop(session_id, None)

    def keep_end(self, session_id: str, end: End) -> None:
        """Remember an end that could not be stored, for the books to be closed later."""
        with self._lock:
            self._unstored[session_id] = end

    def take_end(self, session_id: str) -> End | None:
        """The end that was kept, once."""
        with self._lock:
            return self._unstored.pop(session_id, None)

    def expect_end(self, session_id: str, deadline: datetime) -> None:
        """Know a session's deadline without the store: it holds while the store is away, too."""
        with self._lock:
            self._deadlines[session_id] = deadline

    def overdue(self, at: datetime) -> tuple[str, ...]:
        """What should be over by now."""
        with self._lock:
            return tuple(session_id for session_id, deadline in self._deadlines.items() if deadline <= at)

    def ids(self) -> frozenset[str]:
        """What is held now."""
        with self._lock:
            return frozenset(self._sessions)

    def terminate(self, session_id: str, reason: EndReason, detail: str = "") -> bool:
        """Tell one session to end; False when it is not held here."""
        live = self._held(session_id)
        if live is None:
            return False
        live.terminate(reason, detail)
        return True

    def warn(self, session_id: str, sentence: str) -> None:
        """Say a sentence on one session's terminal."""
        live = self._held(session_id)
        if live is not None:
            live.warn(sentence)

    def lock(self, session_id: str, *, locked: bool) -> None:
        """Hold one session's input back, or let it through again."""
        live = self._held(session_id)
        if live is not None:
            live.lock(locked=locked)

    def idle_for(self, session_id: str) -> timedelta:
        """How long nothing came from its person; zero when it is not held here."""
        live = self._held(session_id)
        return timedelta(0) if live is None else live.idle_for()

    def statement(self, session_id: str) -> Statement | None:
        """What the target works on for one session, if it is held here."""
        live = self._held(session_id)
        return None if live is None else live.statement()

    def cancel(self, session_id: str, by: str, n: int) -> None:
        """Have one session's statement cancelled."""
        live = self._held(session_id)
        if live is not None:
            live.cancel(by, n)

    def _held(self, session_id: str) -> LiveSession | None:
        with self._lock:
            return self._sessions.get(session_id)
