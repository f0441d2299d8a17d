"""How fast one address may come back without logging in (CVE-2002-20001: each greeting costs us a key exchange)."""

from threading import Lock
from time import monotonic

MOST_ADDRESSES = 10_000  # remembered at once; an address that has rested is forgotten


class Strangers:
    """A bucket of `burst` connections for each address, refilled by `per_second`; who logs in gives its own back."""

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._lock = Lock()
        self._left: dict[str, tuple[float, float]] = {}  # connections, as of when

    def admit(self, address: str, now: float | None = None) -> bool:
        """Take one; False when there is none left."""
        at = monotonic() if now is None else now
        with self._lock:
            left = self._now_left(address, at)
            is_known = address in self._left or self._has_room(at)
            if left < 1 or not is_known:
                return False
            self._left[address] = (left - 1, at)
            return True

    def proven(self, address: str, now: float | None = None) -> None:
        """Somebody from there has logged in."""
        at = monotonic() if now is None else now
        with self._lock:
            if address in self._left:
                self._left[address] = (min(self._burst, self._now_left(address, at) + 1), at)

    def _now_left(self, address: str, at: float) -> float:
        left, since = self._left.get(address, (self._burst, at))
        return min(self._burst, left + (at - since) * self._per_second)

    def _has_room(self, at: float) -> bool:
        if len(self._left) >= MOST_ADDRESSES:
            self._left = {a: kept for a, kept in self._left.items() if self._now_left(a, at) < self._burst}
        return len(self._left) < MOST_ADDRESSES
