"""The key revocation list, kept for a moment: anybody may ask for it as often as they like."""

from datetime import datetime, timedelta
from threading import Lock

from gateway.app import publish_krl
from gateway.app.context import Context

KEPT_FOR = timedelta(seconds=5)


class KeptKrl:
    """One list for everybody who asks within `KEPT_FOR`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._krl = b""
        self._made_at: datetime | None = None

    def read(self, ctx: Context) -> bytes:
        """The list; a failure to make a new one is not hidden behind the old one."""
        at = ctx.clock.now()
        with self._lock:
            if self._made_at is None or abs(at - self._made_at) >= KEPT_FOR:
                self._krl = publish_krl.krl(ctx)
                self._made_at = at
            return self._krl
