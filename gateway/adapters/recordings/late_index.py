"""Sessions that the index lacks are added when they are over, by a thread of its own: those that were too busy for it,
and those that could not be written.
"""

import logging
import queue
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from heapq import heappop, heappush
from threading import Event, Lock, Thread
from time import monotonic, thread_time

from gateway.audit.recording import Frame

log = logging.getLogger(__name__)
BURST_S = 0.005  # of processor time, as long as others may have to wait for the interpreter
REST = 3  # times as long: a quarter of a processor at most, however many statements there are
AGAIN_S = (10.0, 60.0, 600.0, 3600.0)  # until it is tried again; the last one from then on
MOST = 10_000  # sessions that wait

Paced = Callable[[Iterable[Frame]], Iterator[Frame]]


class LateIndex:
    """`index(session id, paced)` reads the session's frames through `paced`; what it says False of is tried again after
    a longer while each time. Starts its thread at once. Thread-safe.
    """

    def __init__(self, index: Callable[[str, Paced], bool]) -> None:
        self._index = index
        self._lock = Lock()
        self._lacking: set[str] = set()  # they wait for a try, the first or another, or are given up
        self._sessions: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._again: list[tuple[float, int, str]] = []  # when, after how many tries; the thread's own
        self._is_urgent = Event()
        self._thread = Thread(target=self._run, name="recording-indexer", daemon=True)
        self._thread.start()

    def add(self, session_id: str) -> None:
        """Index this session when those before it are done; nothing when it waits already, or too many do."""
        with self._lock:
            if session_id in self._lacking or len(self._lacking) >= MOST:
                return
            self._lacking.add(session_id)
        self._sessions.put(session_id)

    def finish(self, timeout: timedelta) -> frozenset[str]:
        """Without rests from here on, nor further tries; end the thread. The sessions that were not indexed."""
        self._is_urgent.set()
        self._sessions.put(None)
        self._thread.join(timeout.total_seconds())
        with self._lock:
            return frozenset(self._lacking)

    def _run(self) -> None:
        while (due := self._next()) is not None:
            session_id, tries = due
            try:
                is_done = self._index(session_id, lambda frames: paced(frames, self._is_urgent.wait))
            except Exception:  # the thread must live: there is a next session
                log.exception("the statements of %s could not be indexed", session_id)
                continue
            if is_done:
                with self._lock:
                    self._lacking.discard(session_id)
            else:
                pause = AGAIN_S[min(tries, len(AGAIN_S) - 1)]
                heappush(self._again, (monotonic() + pause, tries + 1, session_id))

    def _next(self) -> tuple[str, int] | None:
        """A session, and how often it was tried; None at the end."""
        while True:
            wait = self._again[0][0] - monotonic() if self._again and not self._is_urgent.is_set() else None
            if wait is not None and wait <= 0:
                _, tries, session_id = heappop(self._again)
                return session_id, tries
            try:
                new = self._sessions.get(timeout=wait)
            except queue.Empty:
                continue
            return None if new is None else (new, 0)


def paced(frames: Iterable[Frame], rest: Callable[[float], object]) -> Iterator[Frame]:
    """The frames, with a rest whenever this thread has worked for long enough."""
    since = thread_time()
    for frame in frames:
        yield frame
        if (used := thread_time() - since) > BURST_S:
            rest(REST * used)
            since = thread_time()
