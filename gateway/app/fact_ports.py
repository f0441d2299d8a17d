"""Where the facts that policy hears come from, and how they are stored."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from gateway.core.incident import Incident
from gateway.core.rota import Shift
from gateway.core.window import Window


class Shifts(Protocol):
    def replace(self, source: str, window: Window, shifts: Iterable[Shift]) -> None:
        """The snapshot of one source over a window takes the place of the one before."""
        ...

    def keep_only(self, sources: Sequence[str]) -> None:
        """Remove the snapshots of all other sources."""
        ...

    def covering(self, service: str, at: datetime, slack: timedelta) -> Sequence[Shift]: ...


class Incidents(Protocol):
    def get(self, incident_id: str) -> Incident | None: ...
    def replace(self, source: str, incidents: Iterable[Incident]) -> None: ...
    def keep_only(self, sources: Sequence[str]) -> None: ...
    def list(self) -> Sequence[Incident]: ...


class ShiftSource(Protocol):
    name: str

    def fetch(self, window: Window, at: datetime) -> Sequence[Shift]:
        """All shifts that overlap the window; Unavailable when the source does not answer or makes no sense."""
        ...


class IncidentSource(Protocol):
    name: str

    def fetch(self, at: datetime) -> Sequence[Incident]: ...
