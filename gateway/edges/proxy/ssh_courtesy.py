"""Streams make way for keystrokes: in one process all connections share the interpreter's lock.

A thread that carries a stream takes and gives up that lock hundreds of times for each burst, and a thread that has a
keystroke to pass on waits for it at each of its own few steps. So the connections of terminals say when they are at
work, and a stream waits for them between two bursts. It waits for YIELD_AT_MOST: terminals that never rest, because
much is printed on them, slow streams down and do not stop them.

A terminal's thread looks whether there is something to read before it reads, so that what came is to be seen here
already while that thread still waits for the lock.
"""

import select
import time
from contextlib import suppress
from threading import Lock

YIELD = 0.0003  # seconds: about what a keystroke takes
YIELD_AT_MOST = 0.003


class Courtesy:
    """The terminals' connections of one process, by descriptor."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._terminals: set[int] = set()
        self._readable = select.epoll()
        self._at_work: set[int] = set()

    def add(self, number: int) -> None:
        """A connection has a terminal from here on. OSError when it is closed."""
        with self._lock:
            self._readable.register(number, select.EPOLLIN)
            self._terminals.add(number)

    def forget(self, number: int) -> None:
        """It is about to be closed."""
        with self._lock:
            self._terminals.discard(number)
            self._at_work.discard(number)
            with suppress(OSError):
                self._readable.unregister(number)

    def begin(self, number: int) -> None:
        """There is something to read on a terminal's connection."""
        with self._lock:
            if number in self._terminals:  # else it was closed meanwhile
                self._at_work.add(number)

    def end(self, number: int) -> None:
        """It was passed on."""
        self._at_work.discard(number)

    def make_way(self) -> None:
        """Called by streams between bursts."""
        if self._terminals:
            until = time.monotonic() + YIELD_AT_MOST
            while (self._at_work or self._readable.poll(0, 1)) and time.monotonic() < until:
                time.sleep(YIELD)


COURTESY = Courtesy()
