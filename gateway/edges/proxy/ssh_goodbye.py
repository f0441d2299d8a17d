"""How many sessions end at once: everybody is told and cut first, the books are closed afterwards, a few at a time.

A revocation may end hundreds. One thread says goodbye to all of them, without waiting for anybody; when no goodbye is
due it closes the targets' legs, one by one; who stays is cut by the same thread's clock. What is slow at an end
(sealing, storing) waits its turn, so that it does not hold up the goodbyes that are still due.

Between the sentence on a person's channels and SSH_MSG_DISCONNECT there is a pause: OpenSSH drops what it has read of
a channel and not yet written when it hears of the end, and with `-q` or behind a shared connection says nothing itself.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Condition, Thread
from time import monotonic
from typing import Protocol

LOG = logging.getLogger("gateway.ssh")
PAUSE = 0.1  # seconds for a client to write what its channels were told
LAST_WORDS_TIME = 0.5  # seconds for a client to read why its session ends
_BOOKS_AT_ONCE = 4
_BOOKS_WAIT = 3.0  # seconds at most for the goodbyes, and again for a turn: an end is late then, never lost


class Leaving(Protocol):
    """A connection that is to end."""

    def say_goodbye(self, sentence: str) -> None:
        """Tell the person on their channels, without waiting for anything."""
        ...

    def disconnect(self, sentence: str) -> None:
        """Tell the client, which has had its pause, and send nothing more; without waiting for anything."""
        ...

    def leave_target(self) -> None:
        """The target's leg ends now."""
        ...

    def cut(self) -> None:
        """End both legs without a word."""
        ...


class Goodbyes:
    """One for each door. Its thread starts with the first goodbye."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._due: deque[tuple[Leaving, str]] = deque()
        self._to_leave: deque[Leaving] = deque()  # this and the next two are the thread's own
        self._to_tell: deque[tuple[float, Leaving, str]] = deque()  # in the order of their time
        self._to_cut: deque[tuple[float, Leaving]] = deque()  # in the order of their time
        self._is_busy = False
        self._thread: Thread | None = None
        self._books = BoundedSemaphore(_BOOKS_AT_ONCE)

    def add(self, leaving: Leaving, sentence: str) -> None:
        """Say goodbye to this one soon, and cut it half a second later. Returns at once."""
        with self._changed:
            self._due.append((leaving, sentence))
            self._is_busy = True
            if self._thread is None:
                self._thread = Thread(target=self._work, name="ssh-goodbye", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    @contextmanager
    def books(self) -> Iterator[None]:
        """Close a session's books in its turn."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_busy, _BOOKS_WAIT)
        is_held = self._books.acquire(timeout=_BOOKS_WAIT)
        try:
            yield
        finally:
            if is_held:
                self._books.release()

    def _work(self) -> None:
        while True:
            self._wait()
            if self._due:
                leaving, sentence = self._due.popleft()
                _guarded(lambda leaving=leaving, sentence=sentence: leaving.say_goodbye(sentence))  # type: ignore[misc]
                self._to_leave.append(leaving)
                self._to_tell.append((monotonic() + PAUSE, leaving, sentence))
                self._to_cut.append((monotonic() + LAST_WORDS_TIME, leaving))
            elif self._to_tell and self._to_tell[0][0] <= monotonic():
                _at, leaving, sentence = self._to_tell.popleft()
                _guarded(lambda leaving=leaving, sentence=sentence: leaving.disconnect(sentence))  # type: ignore[misc]
            elif self._to_leave:
                _guarded(self._to_leave.popleft().leave_target)
            else:
                self._cut_who_stayed()

    def _wait(self) -> None:
        with self._changed:
            self._is_busy = bool(self._due or self._to_leave or self._to_tell)
            if not self._is_busy:
                self._changed.notify_all()
            if not self._due and not self._to_leave:
                self._changed.wait_for(lambda: self._due, self._until_next())

    def _until_next(self) -> float | None:
        times = [due[0][0] for due in (self._to_tell, self._to_cut) if due]
        return max(0.0, min(times) - monotonic()) if times else None

    def _cut_who_stayed(self) -> None:
        while self._to_cut and self._to_cut[0][0] <= monotonic():
            _guarded(self._to_cut.popleft()[1].cut)


def _guarded(work: Callable[[], None]) -> None:
    """One connection's trouble is no other's."""
    try:
        work()
    except Exception:  # the boundary of a thread that all connections need
        LOG.exception("a goodbye failed")
