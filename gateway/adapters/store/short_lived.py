"""The repositories of what comes and goes: leases, credentials, and the snapshots that facts are read from."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import bindparam, delete, func, insert, select, update

from gateway.adapters.store import short_lived_rows as rows
from gateway.adapters.store.prepared import Prepared
from gateway.adapters.store.tables import CREDENTIALS, GATEWAYS, INCIDENTS, LEASES, SHIFTS, USERS
from gateway.adapters.store.transaction import Transaction
from gateway.app.people_ports import Credential
from gateway.app.target_ports import Lease
from gateway.core.errors import NotFound, Refusal
from gateway.core.incident import Incident
from gateway.core.rota import Shift
from gateway.core.window import Window

# Made once: putting a statement together costs more than running it.
_ADD_LEASE = Prepared(insert(LEASES))
_SAVE_LEASE = Prepared(
    update(LEASES)
    .where(LEASES.c.id == bindparam("of"))
    .values({column.name: bindparam(f"new_{column.name}") for column in LEASES.columns})
)
_ADD = Prepared(insert(CREDENTIALS))
_FIND = Prepared(
    select(CREDENTIALS).where(
        CREDENTIALS.c.digest == bindparam("digest"), CREDENTIALS.c.purpose == bindparam("purpose")
    )
)
_COUNT_FOR = select(func.count().label("n")).where(
    CREDENTIALS.c.subject == bindparam("subject"), CREDENTIALS.c.purpose == bindparam("purpose")
)
_CLAIM = Prepared(
    update(CREDENTIALS)
    .where(
        CREDENTIALS.c.digest == bindparam("of"),
        CREDENTIALS.c.purpose == bindparam("of_purpose"),
        CREDENTIALS.c.used_at.is_(None),
        CREDENTIALS.c.expires_at > bindparam("now"),
    )
    .values(used_at=bindparam("now"))
)
_COVERING = Prepared(
    select(SHIFTS)
    .where(
        SHIFTS.c.service == bindparam("service"),
        SHIFTS.c.not_before <= bindparam("latest"),
        SHIFTS.c.not_after > bindparam("earliest"),
    )
    .order_by(SHIFTS.c.level, SHIFTS.c.not_before, SHIFTS.c.id)
)
_INCIDENT = Prepared(
    select(INCIDENTS)
    .where(INCIDENTS.c.id == bindparam("of"))
    .order_by(INCIDENTS.c.fetched_at.desc(), INCIDENTS.c.source)
    .limit(1)
)


class SqlLeases:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def add(self, lease: Lease) -> None:
        self._tx.insert(_ADD_LEASE, [rows.lease_columns(lease)])

    def save(self, lease: Lease) -> None:
        new = {f"new_{name}": value for name, value in rows.lease_columns(lease).items()}
        if not self._tx.change(_SAVE_LEASE, of=lease.id, **new):
            raise LookupError(f"lease {lease.id} was never added")

    def by_grant(self, grant_id: str) -> Sequence[Lease]:
        query = select(LEASES).where(LEASES.c.grant == grant_id).order_by(LEASES.c.created_at, LEASES.c.id)
        return [rows.lease_of(row) for row in self._tx.rows(query)]

    def unfinished(self) -> Sequence[Lease]:
        """The oldest first."""
        query = select(LEASES).where(LEASES.c.state != "dropped").order_by(LEASES.c.created_at, LEASES.c.id)
        return [rows.lease_of(row) for row in self._tx.rows(query)]


class SqlCredentials:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def add(self, credential: Credential) -> None:
        self._tx.insert(_ADD, [rows.credential_columns(credential)])

    def find(self, digest: str, purpose: str) -> Credential | None:
        row = self._tx.first(_FIND, digest=digest, purpose=purpose)
        return rows.credential_of(row) if row else None

    def count_for(self, subject: str, purpose: str) -> int:
        row = self._tx.first(_COUNT_FOR, subject=subject, purpose=purpose)
        return int(row["n"]) if row else 0

    def find_by_data(self, purpose: str, key: str, value: str) -> Credential | None:
        """The newest when several have it."""
        c = CREDENTIALS.c
        query = select(CREDENTIALS).where(c.purpose == purpose, c.data[key].as_string() == value)
        row = self._tx.first(query.order_by(c.issued_at.desc(), c.digest).limit(1))
        return rows.credential_of(row) if row else None

    def save(self, credential: Credential) -> None:
        """NotFound when it was removed meanwhile. What was used stays used, whatever the caller has read before."""
        c = CREDENTIALS.c
        columns = rows.credential_columns(credential)
        columns["used_at"] = func.coalesce(c.used_at, columns["used_at"])
        is_it = (c.digest == credential.digest) & (c.purpose == credential.purpose)
        if not self._tx.change(update(CREDENTIALS).where(is_it).values(columns)):
            raise NotFound(Refusal("credential-gone", "This sign-in is no longer valid. Sign in again: gw login."))

    def claim(self, digest: str, purpose: str, at: datetime) -> bool:
        """As the port; one that has expired does not exist any more."""
        return self._tx.change(_CLAIM, of=digest, of_purpose=purpose, now=at) == 1

    def remove_for(self, subject: str, purpose: str) -> int:
        c = CREDENTIALS.c
        return self._tx.change(delete(CREDENTIALS).where(c.subject == subject, c.purpose == purpose))

    def of_subject(self, subject: str, purpose: str) -> Sequence[Credential]:
        c = CREDENTIALS.c
        query = select(CREDENTIALS).where(c.subject == subject, c.purpose == purpose).order_by(c.issued_at, c.digest)
        return [rows.credential_of(row) for row in self._tx.rows(query)]

    def usable(self, user_name: str, target: str, key: str, at: datetime, limit: int) -> Sequence[tuple[str, str]]:
        c, value = CREDENTIALS.c, CREDENTIALS.c.data[key].as_string()
        may_be_used = (c.expires_at > at) & (c.used_at.is_(None) | ~c.single_use)
        is_theirs = (USERS.c.id == c.subject) & (USERS.c.name == user_name) & (c.purpose == "ticket")
        is_for_it = (c.data["target"].as_string() == target) & value.is_not(None)
        query = select(c.digest, value.label("held")).where(is_theirs, is_for_it, may_be_used)
        query = query.order_by(c.issued_at.desc(), c.digest).limit(limit)
        return [(str(row["digest"]), str(row["held"])) for row in self._tx.rows(query)]

    def remove(self, digest: str, purpose: str) -> int:
        c = CREDENTIALS.c
        return self._tx.change(delete(CREDENTIALS).where(c.digest == digest, c.purpose == purpose))

    def purge(self, before: datetime, purpose: str = "") -> int:
        """As the port."""
        c = CREDENTIALS.c
        over = c.expires_at < before
        return self._tx.change(delete(CREDENTIALS).where(over & (c.purpose == purpose) if purpose else over))


class SqlShifts:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def replace(self, source: str, window: Window, shifts: Iterable[Shift]) -> None:
        """ValueError for a shift of another source or outside the window: no later snapshot would replace it."""
        snapshot = tuple(shifts)
        for shift in snapshot:
            if shift.source != source or not _overlap(shift.window, window):
                raise ValueError(f"a snapshot of {source} holds a shift of {shift.source} or outside its window")
        c = SHIFTS.c
        overlapping = (c.source == source) & (c.not_before < window.not_after) & (c.not_after > window.not_before)
        self._tx.change(delete(SHIFTS).where(overlapping))
        self._tx.insert(insert(SHIFTS), [rows.shift_columns(shift) for shift in snapshot])

    def keep_only(self, sources: Sequence[str]) -> None:
        self._tx.change(delete(SHIFTS).where(SHIFTS.c.source.not_in(list(sources))))

    def covering(self, service: str, at: datetime, slack: timedelta) -> Sequence[Shift]:
        """Shifts of a service that contain `at` when widened by `slack` on both ends, the lowest level first."""
        found = self._tx.rows(_COVERING, service=service, latest=at + slack, earliest=at - slack)
        return [rows.shift_of(row) for row in found]


class SqlIncidents:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def get(self, incident_id: str) -> Incident | None:
        """What was fetched last, when several sources know the id."""
        row = self._tx.first(_INCIDENT, of=incident_id)
        return rows.incident_of(row) if row else None

    def replace(self, source: str, incidents: Iterable[Incident]) -> None:
        """ValueError for an incident of another source."""
        snapshot = tuple(incidents)
        if any(incident.source != source for incident in snapshot):
            raise ValueError(f"a snapshot of {source} holds an incident of another source")
        self._tx.change(delete(INCIDENTS).where(INCIDENTS.c.source == source))
        self._tx.insert(insert(INCIDENTS), [rows.incident_columns(incident) for incident in snapshot])

    def keep_only(self, sources: Sequence[str]) -> None:
        self._tx.change(delete(INCIDENTS).where(INCIDENTS.c.source.not_in(list(sources))))

    def list(self) -> Sequence[Incident]:
        """Newest first."""
        c = INCIDENTS.c
        return [rows.incident_of(r) for r in self._tx.rows(select(INCIDENTS).order_by(c.opened_at.desc(), c.id))]


class SqlGateways:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def beat(self, gateway: str, at: datetime) -> None:
        if not self._tx.change(update(GATEWAYS).where(GATEWAYS.c.name == gateway).values(beat_at=at)):
            self._tx.insert(insert(GATEWAYS), [{"name": gateway, "beat_at": at}])

    def silent_since(self, before: datetime) -> Sequence[str]:
        query = select(GATEWAYS).where(GATEWAYS.c.beat_at < before).order_by(GATEWAYS.c.name)
        return [row[GATEWAYS.c.name] for row in self._tx.rows(query)]

    def heard(self, gateway: str) -> datetime | None:
        rows = self._tx.rows(select(GATEWAYS).where(GATEWAYS.c.name == gateway))
        return next((row[GATEWAYS.c.beat_at] for row in rows), None)

    def forget(self, gateway: str) -> None:
        self._tx.change(delete(GATEWAYS).where(GATEWAYS.c.name == gateway))


def _overlap(one: Window, other: Window) -> bool:
    return one.not_before < other.not_after and other.not_before < one.not_after
