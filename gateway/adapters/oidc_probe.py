"""Is a provider there? Asked by whoever wants to come in without it, so it must not cost the gateway its threads."""

from datetime import datetime, timedelta
from threading import BoundedSemaphore, Lock
from time import monotonic

import httpx2
from authlib.oidc.discovery import get_well_known_url

from gateway.adapters.oidc_transport import PLAIN, Borrowed
from gateway.app.ports import Clock
from gateway.core.errors import Refusal, Unavailable

_TRIES = 2  # before a provider is said to be down, each of at most:
_TIMEOUT = httpx2.Timeout(5.0)
_GOOD_FOR = timedelta(seconds=1)  # so that many who ask at once ask once
_DOWN_FOR = timedelta(minutes=1)  # longer than one probe of a provider that hangs: meanwhile its last result stands
_AT_ONCE = 8  # who ask or wait for the answer; everybody else reads the last one

_LONGEST_S = 40.0  # of a probe; by then whoever is still asked does not answer as a provider does, head or body

_NOT_KNOWN = Refusal(
    "provider-not-known",
    "Whether the identity provider answers is being found out.",
    next_steps=("Try again in half a minute, with another touch of the passkey.",),
)


class Probe:
    """Asks for the discovery document, past everything that is remembered. Thread-safe."""

    def __init__(self, issuer: str, transport: httpx2.BaseTransport, clock: Clock) -> None:
        self._issuer = issuer
        self._transport = transport
        self._clock = clock
        self._places = BoundedSemaphore(_AT_ONCE)
        self._lock = Lock()
        self._known: tuple[datetime, bool] | None = None
        self._asked_since: float | None = None

    def is_reachable(self) -> bool:
        """True when it answers as a provider does. Unavailable when too many people ask and nobody knows."""
        if self._is_overdue():
            return False
        if not self._places.acquire(blocking=False):
            return self._last()
        try:
            if not self._lock.acquire(timeout=_LONGEST_S):
                return False
            try:
                return self._found_out()
            finally:
                self._lock.release()
        finally:
            self._places.release()

    def _is_overdue(self) -> bool:
        """A provider that drips its answer holds whoever asks it, and nobody else."""
        since = self._asked_since
        return since is not None and monotonic() - since > _LONGEST_S

    def _found_out(self) -> bool:
        if self._known is None or not timedelta(0) <= self._clock.now() - self._known[0] <= _GOOD_FOR:
            self._asked_since = monotonic()
            try:
                found = any(self._answers() for _ in range(_TRIES))
            finally:
                self._asked_since = None
            self._known = (self._clock.now(), found)
        return self._known[1]

    def _last(self) -> bool:
        """A stranger who keeps all places must not hold the door shut, and a result of long ago must not open it."""
        known = self._known
        good_for = _GOOD_FOR if known is None or known[1] else _DOWN_FOR
        if known is None or not timedelta(0) <= self._clock.now() - known[0] <= good_for:
            raise Unavailable(_NOT_KNOWN)
        return known[1]

    def _answers(self) -> bool:
        lent = Borrowed(self._transport)
        try:
            with httpx2.Client(transport=lent, timeout=_TIMEOUT, follow_redirects=False, trust_env=False) as client:
                found = client.get(get_well_known_url(self._issuer, external=True), headers=PLAIN)
                document = found.json() if found.status_code == 200 else None
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, RecursionError):
            return False
        return isinstance(document, dict) and document.get("issuer") == self._issuer
