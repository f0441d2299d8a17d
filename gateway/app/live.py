"""The connections that this process holds, by session id. Thread-safe; knows nothing of any protocol."""

from threading import Lock

from gateway.app.ports import LiveSession
from gateway.core.session import EndReason


class LiveSessions:
    """A registry that the supervisor ends sessions through."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._sessions: dict[str, LiveSession] = {}

    def add(self, session_id: str, live: LiveSession) -> None:
        """Register once the session is open."""
        with self._lock:
            self._sessions[session_id] = live

    def discard(self, session_id: str) -> None:
        """Forget; unknown ids are fine."""
        with self._lock:
            self._sessions.pop(session_id, None)

    def ids(self) -> frozenset[str]:
        """What is held now."""
        with self._lock:
            return frozenset(self._sessions)

    def terminate(self, session_id: str, reason: EndReason, detail: str = "") -> bool:
        """Tell one session to end; False when it is not held here."""
        with self._lock:
            live = self._sessions.get(session_id)
        if live is None:
            return False
        live.terminate(reason, detail)
        return True

    def warn(self, session_id: str, sentence: str) -> None:
        """Say a sentence on one session's terminal."""
        with self._lock:
            live = self._sessions.get(session_id)
        if live is not None:
            live.warn(sentence)
