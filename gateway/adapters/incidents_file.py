"""Incidents from a YAML file that people, or a pager's export, write."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gateway.adapters.yaml_source import SourceError, WatchedFile, document
from gateway.core.errors import Refusal, Unavailable
from gateway.core.incident import Incident

MAX_INCIDENTS = 10_000


@dataclass(frozen=True, slots=True)
class _Entry:
    id: str
    service: str
    title: str
    opened_at: datetime
    closed_at: datetime | None


class IncidentsFile:
    """The `IncidentSource` port on a file, parsed again only when it has changed."""

    def __init__(self, path: Path) -> None:
        self.name = f"incidents:{path}"
        self._file = WatchedFile(path, _entries)

    def fetch(self, at: datetime) -> Sequence[Incident]:
        """Every incident in the file, fetched now; Unavailable with file, line and key when it cannot be used."""
        try:
            entries = self._file.get()
        except SourceError as error:
            raise Unavailable(Refusal("incidents-unreadable", str(error))) from None
        return [Incident(e.id, e.service, e.title, e.opened_at, e.closed_at, self.name, at) for e in entries]


def _entries(content: bytes, file: str) -> tuple[_Entry, ...]:
    places = document(content, file, {"incidents"}, set())["incidents"].items()
    if len(places) > MAX_INCIDENTS:
        raise SourceError(f"{file}: more than {MAX_INCIDENTS} incidents")
    entries: dict[str, _Entry] = {}
    for place in places:
        keys = place.keys({"id", "service", "opened_at"}, {"title", "closed_at"})
        id_ = keys["id"].name()
        if id_ in entries:
            raise keys["id"].wrong(f"{id_!r} appears twice")
        opened_at = keys["opened_at"].instant()
        has_end = "closed_at" in keys and not keys["closed_at"].is_empty()
        closed_at = keys["closed_at"].instant() if has_end else None
        if closed_at is not None and closed_at < opened_at:
            raise keys["closed_at"].wrong("is before opened_at")
        title = keys["title"].text() if "title" in keys else ""
        entries[id_] = _Entry(id_, keys["service"].name(), title, opened_at, closed_at)
    return tuple(entries.values())
