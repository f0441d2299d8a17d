"""Sessions that were too busy for the index while they ran are added when they are over, by a thread of its own."""

import logging
import queue
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from threading import Event, Thread
from time import thread_time

from gateway.audit.recording import Frame

log = logging.getLogger(__name__)
BURST_S = 0.005  # of processor time, as long as others may have to wait for the interpreter
REST = 3  # times as long: a quarter of a processor at most, however many statements there are

Paced = Callable[[Iterable[Frame]], Iterator[Frame]]


class LateIndex:
    """`index(session id, paced)` reads the session's frames through `paced`. Starts its thread at once."""

    def __init__(self, index: Callable[[str, Paced], None]) -> None:
        self._index = index
        self._sessions: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._is_urgent = Event()
        self._thread = Thread(target=self._run, name="recording-indexer", daemon=True)
        self._thread.start()

    def add(self, session_id: str) -> None:
        """Index this session when those before it are done."""
        self._sessions.put(session_id)

    def finish(self, timeout: timedelta) -> None:
        """Without rests from here on; end the thread."""
        self._is_urgent.set()
        self._sessions.put(None)
        self._thread.join(timeout.total_seconds())

    def _run(self) -> None:
        while (session_id := self._sessions.get()) is not None:
            try:
                self._index(session_id, lambda frames: paced(frames, self._is_urgent.wait))
            except Exception:  # the thread must live: there is a next session
                log.exception("the statements of %s could not be indexed", session_id)


def paced(frames: Iterable[Frame], rest: Callable[[float], object]) -> Iterator[Frame]:
    """The frames, with a rest whenever this thread has worked for long enough."""
    since = thread_time()
    for frame in frames:
        yield frame
        if (used := thread_time() - since) > BURST_S:
            rest(REST * used)
            since = thread_time()
