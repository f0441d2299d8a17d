"""The poller's step: fetch rota and incidents, keep snapshots. A source that fails leaves its last word to age."""

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from threading import Lock

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.fact_ports import IncidentSource, ShiftSource
from gateway.core.errors import Unavailable
from gateway.core.incident import Incident
from gateway.core.rota import Shift
from gateway.core.window import Window

LOG = logging.getLogger(__name__)
PAST = timedelta(hours=24)
AHEAD = timedelta(days=14)


class Told:
    """What was said of each source last, so that a lasting failure is one event and an unchanged rota none."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._last: dict[tuple[str, str], str] = {}

    def is_new(self, gateway: str, source: str, saying: str) -> bool:
        """True when `saying` differs from what this gateway said of the source before."""
        with self._lock:
            return self._last.get((gateway, source)) != saying

    def remember(self, gateway: str, source: str, saying: str) -> None:
        """To be called once it is stored: what could not be stored is said again."""
        with self._lock:
            self._last[(gateway, source)] = saying


TOLD = Told()


def refresh_facts(
    ctx: Context,
    shift_sources: Sequence[ShiftSource],
    incident_sources: Sequence[IncidentSource],
    at: datetime,
    told: Told = TOLD,
) -> bool:
    """Ask every source once; True when any fact is different from before. One failing source stops no other."""
    _forget_the_unconfigured(ctx, shift_sources, incident_sources)
    changes = [_refresh_shifts(ctx, source, at, told) for source in shift_sources]
    changes += [_refresh_incidents(ctx, source, at, told) for source in incident_sources]
    return any(changes)


def _forget_the_unconfigured(
    ctx: Context, shift_sources: Sequence[ShiftSource], incident_sources: Sequence[IncidentSource]
) -> None:
    """What a source said counts for as long as it is configured, not until it has aged away."""
    with ctx.store.begin() as uow:
        uow.shifts.keep_only([source.name for source in shift_sources])
        uow.incidents.keep_only([source.name for source in incident_sources])


def _refresh_shifts(ctx: Context, source: ShiftSource, at: datetime, told: Told) -> bool:
    window = Window(at - PAST, at + AHEAD)
    try:
        shifts = tuple(source.fetch(window, at))
    except Unavailable as no:
        return _failed(ctx, source.name, no, told)
    shape = _shape(shifts, at)
    is_changed = told.is_new(ctx.gateway, source.name, shape)
    with ctx.store.begin() as uow:
        uow.shifts.replace(source.name, window, shifts)
        if is_changed:
            hashes = sorted({shift.source_hash for shift in shifts})
            services = sorted({shift.service for shift in shifts})
            data = {"source": source.name, "shifts": len(shifts), "services": services, "hashes": hashes[:10]}
            journal.append(ctx, uow, "rota:refreshed", data=data)
    told.remember(ctx.gateway, source.name, shape)
    return is_changed


def _shape(shifts: Iterable[Shift], at: datetime) -> str:
    """A digest of who is on call now and of the texts behind it: a handover is a change, time passing is none."""
    items = tuple(shifts)
    now = sorted(f"{s.service} {s.level} {s.subject} {s.window}" for s in items if s.window.contains(at))
    return sha256("\n".join((*now, *sorted({s.source_hash for s in items}))).encode()).hexdigest()


def _refresh_incidents(ctx: Context, source: IncidentSource, at: datetime, told: Told) -> bool:
    try:
        incidents = tuple(source.fetch(at))
    except Unavailable as no:
        return _failed(ctx, source.name, no, told)
    with ctx.store.begin() as uow:
        before = {i.id: i for i in uow.incidents.list() if i.source == source.name}
        changes = _changes(before, {i.id: i for i in incidents}, at)
        uow.incidents.replace(source.name, incidents)
        for kind, incident in changes:
            data = {
                "incident": incident.id,
                "service": incident.service,
                "title": incident.title,
                "source": source.name,
            }
            journal.append(ctx, uow, kind, data=data)
    told.remember(ctx.gateway, source.name, "answered")
    return bool(changes)


def _changes(before: dict[str, Incident], now: dict[str, Incident], at: datetime) -> list[tuple[str, Incident]]:
    """Openings and closings since the last snapshot. One that vanished counts as closed; a moved one as both."""
    changes: list[tuple[str, Incident]] = []
    for known in sorted(before.keys() | now.keys()):
        old, new = before.get(known), now.get(known)
        # Judged as of the moment when it was last looked at: what has closed by itself since then is a change too.
        was_open = old is not None and old.is_open(old.fetched_at)
        is_open = new is not None and new.is_open(at)
        is_moved = old is not None and new is not None and old.service != new.service
        if old is not None and was_open and (not is_open or is_moved):
            changes.append(("incident:closed", old))
        if new is not None and is_open and (not was_open or is_moved):
            changes.append(("incident:opened", new))
    return changes


def _failed(ctx: Context, source: str, no: Unavailable, told: Told) -> bool:
    message = no.refusal.message[:500]
    saying = f"failed: {message}"
    if told.is_new(ctx.gateway, source, saying):
        LOG.warning("%s did not answer, its last word ages: %s", source, message)
        journal.record(ctx, "rota:failed", "failed", {"source": source, "message": message})
        told.remember(ctx.gateway, source, saying)
    return False
