"""Half-open windows of time [not_before, not_after) in UTC."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Window:
    """A non-empty span. Both ends are timezone-aware; ValueError otherwise."""

    not_before: datetime
    not_after: datetime

    def __post_init__(self) -> None:
        if self.not_before.tzinfo is None or self.not_after.tzinfo is None:
            raise ValueError("a window needs timezone-aware instants")
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
