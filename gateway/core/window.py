"""Half-open windows of time [not_before, not_after) in UTC."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True)
class Window:
    """A non-empty span, kept in UTC. Both ends are timezone-aware; ValueError otherwise."""

    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        if self.not_before.utcoffset() is None or self.not_after.utcoffset() is None:
            raise ValueError("a window needs timezone-aware instants")
        # Within one local zone Python compares and adds wall-clock time, wrong across a daylight saving change.
        object.__setattr__(self, "not_before", self.not_before.astimezone(UTC))
        object.__setattr__(self, "not_after", self.not_after.astimezone(UTC))
        if self.not_after <= self.not_before:
            raise ValueError("a window must end after it begins")

    def contains(self, at: datetime) -> bool:
        """True from the first instant up to, not including, the last."""
        return self.not_before <= at < self.not_after

    def remaining(self, at: datetime) -> timedelta:
        """Time left, never negative."""
        return max(self.not_after - at, timedelta(0))

    def clipped(self, latest: datetime) -> "Window | None":
        """The part before `latest`; None when nothing is left."""
        end = min(self.not_after, latest)
        return Window(self.not_before, end) if end > self.not_before else None
