"""Time and chance from the operating system."""

import secrets
import time
from base64 import urlsafe_b64encode
from datetime import UTC, datetime

from gateway.core.ids import ENTROPY_BYTES, Prefix, make_id


class SystemClock:
    """The wall clock, except that it never falls behind the time that has really passed since start.

    A clock set back would lengthen every grant; then the monotonic clock is believed. A clock set forward ends
    grants early, which is the safe side, and heals when it is set right again.
    """

    def __init__(self, not_before: datetime | None = None) -> None:
        """`not_before` is an instant known to be past (the newest stored event): a clock set back over a restart."""
        self._wall_at_start = max(time.time(), not_before.timestamp() if not_before else 0.0)
        self._steady_at_start = time.monotonic()

    def now(self) -> datetime:
        """The present, UTC."""
        steady = self._wall_at_start + (time.monotonic() - self._steady_at_start)
        return datetime.fromtimestamp(max(time.time(), steady), UTC)


class SystemIds:
    """Identifiers and secrets from the system's generator."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock

    def new(self, prefix: Prefix) -> str:
        """A fresh identifier."""
        return make_id(prefix, self._clock.now(), secrets.token_bytes(ENTROPY_BYTES))

    def secret(self) -> str:
        """256 bits, base64url without padding."""
        return urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
