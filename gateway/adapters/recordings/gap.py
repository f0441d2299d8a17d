"""What a best-effort recording could not keep: counted while it lasts, told in the recording and in the log after."""

import json
from time import monotonic
from typing import Final

from gateway.audit.recording import iso

RETRY: Final = 1.0  # seconds; a failing disk is not asked more often


class Gap:
    """One stretch without recording, after the first `after` records. Guarded by the writer's lock."""

    def __init__(self, why: str, after: int) -> None:
        self.why = why
        self.after = after
        self.since_ns = 0
        self.until_ns = 0
        self.records = 0
        self.bytes = 0
        self.told: int | None = None  # number of the record that tells of it, once it is on its way
        self.is_reported = False  # its beginning, to the log
        self._retry_at = 0.0
        self.fail()

    def lose(self, at_ns: int, size: int) -> None:
        """One more record that is not kept."""
        self.since_ns = min(self.since_ns or at_ns, at_ns)
        self.until_ns = max(self.until_ns, at_ns)
        self.records += 1
        self.bytes += size

    def fail(self) -> None:
        """The last try did not succeed, or this is the beginning."""
        self.told = None
        self._retry_at = monotonic() + RETRY

    def hurry(self) -> None:
        """Try again now."""
        self._retry_at = 0.0

    def is_due(self) -> bool:
        """True when it is time for the next try."""
        return monotonic() >= self._retry_at

    def described(self) -> dict[str, object]:
        """For the log: what is missing, and after how many records."""
        return {
            "why": self.why,
            "after": self.after,
            "records": self.records,
            "bytes": self.bytes,
            "since": iso(self.since_ns) if self.since_ns else None,
            "until": iso(self.until_ns) if self.until_ns else None,
        }

    def payload(self) -> bytes:
        """The same as a record."""
        return json.dumps(self.described()).encode()
