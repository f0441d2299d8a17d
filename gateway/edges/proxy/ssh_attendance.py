"""What all channels of one connection share: when the person last did something, and whether input is held back."""

import time
from collections.abc import Callable
from datetime import timedelta
from threading import Event

_LOOK_EVERY = 1.0  # seconds; a channel that is over while it is held back is noticed then


class Attendance:
    """`seen` is called for every message that counts as activity, so it does next to nothing."""

    def __init__(self) -> None:
        self._seen = time.monotonic()
        self._unlocked = Event()
        self._unlocked.set()

    def seen(self) -> None:
        """The person did something, or waits for what is under way."""
        self._seen = time.monotonic()

    def idle_for(self) -> timedelta:
        """Since the last time."""
        return timedelta(seconds=time.monotonic() - self._seen)

    def lock(self, *, locked: bool) -> None:
        """Hold the person's input back, or let it through again."""
        if locked:
            self._unlocked.clear()
        else:
            self.seen()
            self._unlocked.set()

    def is_locked(self) -> bool:
        """True while nothing of the person's may reach the target."""
        return not self._unlocked.is_set()

    def wait_unlocked(self, is_over: Callable[[], bool]) -> None:
        """Return once input may pass, or when there is nobody left whose input it is."""
        while not self._unlocked.wait(_LOOK_EVERY) and not is_over():
            pass
