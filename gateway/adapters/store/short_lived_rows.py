"""As `rows`, for what comes and goes."""

from gateway.adapters.store.prepared import Found
from gateway.adapters.store.rows import Columns, columns_of
from gateway.adapters.store.tables import CREDENTIALS, INCIDENTS, LEASES, SHIFTS
from gateway.app.people_ports import Credential
from gateway.app.target_ports import Lease
from gateway.core.incident import Incident
from gateway.core.rota import Shift
from gateway.core.window import Window

_LEASES = columns_of(LEASES)
_CREDENTIALS = columns_of(CREDENTIALS)
_SHIFTS = columns_of(SHIFTS)
_INCIDENTS = columns_of(INCIDENTS)


def lease_columns(lease: Lease) -> Columns:
    return {
        "id": lease.id,
        "grant": lease.grant,
        "target": lease.target,
        "level": lease.level,
        "name": lease.name,
        "gateway": lease.gateway,
        "state": lease.state,
        "created_at": lease.created_at,
        "expires_at": lease.expires_at,
        "attempts": lease.attempts,
        "last_error": lease.last_error,
        "next_attempt_at": lease.next_attempt_at,
        "place": lease.place,
    }


def lease_of(row: Found) -> Lease:
    c = _LEASES
    return Lease(
        id=row[c.id],
        grant=row[c.grant],
        target=row[c.target],
        level=row[c.level],
        name=row[c.name],
        gateway=row[c.gateway],
        state=row[c.state],
        created_at=row[c.created_at],
        expires_at=row[c.expires_at],
        attempts=row[c.attempts],
        last_error=row[c.last_error],
        next_attempt_at=row[c.next_attempt_at],
        place=row[c.place],
    )


def credential_columns(credential: Credential) -> Columns:
    return {
        "digest": credential.digest,
        "purpose": credential.purpose,
        "subject": credential.subject,
        "issued_at": credential.issued_at,
        "expires_at": credential.expires_at,
        "single_use": credential.single_use,
        "used_at": credential.used_at,
        "data": credential.data,
    }


def credential_of(row: Found) -> Credential:
    c = _CREDENTIALS
    return Credential(
        digest=row[c.digest],
        purpose=row[c.purpose],
        subject=row[c.subject],
        issued_at=row[c.issued_at],
        expires_at=row[c.expires_at],
        single_use=row[c.single_use],
        used_at=row[c.used_at],
        data=row[c.data],
    )


def shift_columns(shift: Shift) -> Columns:
    return {
        "service": shift.service,
        "subject": shift.subject,
        "level": shift.level,
        "not_before": shift.window.not_before,
        "not_after": shift.window.not_after,
        "source": shift.source,
        "fetched_at": shift.fetched_at,
        "source_hash": shift.source_hash,
    }


def shift_of(row: Found) -> Shift:
    c = _SHIFTS
    return Shift(
        service=row[c.service],
        subject=row[c.subject],
        level=row[c.level],
        window=Window(row[c.not_before], row[c.not_after]),
        source=row[c.source],
        fetched_at=row[c.fetched_at],
        source_hash=row[c.source_hash],
    )


def incident_columns(incident: Incident) -> Columns:
    return {
        "id": incident.id,
        "service": incident.service,
        "title": incident.title,
        "opened_at": incident.opened_at,
        "closed_at": incident.closed_at,
        "source": incident.source,
        "fetched_at": incident.fetched_at,
    }


def incident_of(row: Found) -> Incident:
    c = _INCIDENTS
    return Incident(
        id=row[c.id],
        service=row[c.service],
        title=row[c.title],
        opened_at=row[c.opened_at],
        closed_at=row[c.closed_at],
        source=row[c.source],
        fetched_at=row[c.fetched_at],
    )
