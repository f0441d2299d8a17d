"""Incidents as facts: an id, the service that it is about, and whether it is open."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident as its source last told. `fetched_at` is the age of that knowledge."""

    id: str
    service: str
    title: str
    opened_at: datetime
    closed_at: datetime | None
    source: str
    fetched_at: datetime

    def is_open(self, at: datetime) -> bool:
        """Open at `at`: opened before, not closed by then."""
        return self.opened_at <= at and (self.closed_at is None or at < self.closed_at)
