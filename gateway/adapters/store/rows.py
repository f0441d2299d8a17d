"""Values of `core` to columns and back, one explicit pair of functions for each.

Reading takes what is keyed by the columns themselves, so that a row of a join serves as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Table

from gateway.adapters.store.prepared import Found
from gateway.adapters.store.tables import (
    APPROVALS,
    GRANTS,
    REQUESTS,
    REVIEWS,
    SESSIONS,
    USERS,
)
from gateway.core.grant import Grant, Review
from gateway.core.obligation import Obligations, Record, StepUp
from gateway.core.principal import User
from gateway.core.request import Approval, Request, RequestKind, RequestState, Verdict
from gateway.core.session import Cancel, EndReason, Protocol, Running, Session
from gateway.core.window import Window

Columns = dict[str, Any]
_MICROSECOND = timedelta(microseconds=1)


def columns_of(table: Table) -> SimpleNamespace:
    """The columns by name. `Table.c` looks each one up in Python, which a thousand live sessions make felt."""
    return SimpleNamespace(**{column.name: column for column in table.columns})


_USERS = columns_of(USERS)
_REQUESTS = columns_of(REQUESTS)
_APPROVALS = columns_of(APPROVALS)
_GRANTS = columns_of(GRANTS)
_REVIEWS = columns_of(REVIEWS)
_SESSIONS = columns_of(SESSIONS)


def obligations_columns(duties: Obligations) -> Columns:
    """JSON with spans in microseconds."""
    limit = duties.max_duration
    return {
        "max_duration_us": None if limit is None else limit // _MICROSECOND,
        "approvals": duties.approvals,
        "review": duties.review,
        "review_within_us": duties.review_within // _MICROSECOND,
        "record": duties.record.value,
        "notify": sorted(duties.notify),
        "step_up": duties.step_up.value,
        "max_auth_age_us": None if duties.max_auth_age is None else duties.max_auth_age // _MICROSECOND,
    }


def obligations_of(json: Mapping[str, Any]) -> Obligations:
    """Every key must be there: a duty is never read as absent because a row is odd.

    The last two came later; a row without them is of a gateway that knew no such duty.
    """
    limit, age = json["max_duration_us"], json.get("max_auth_age_us")
    return Obligations(
        max_duration=None if limit is None else limit * _MICROSECOND,
        approvals=json["approvals"],
        review=json["review"],
        review_within=json["review_within_us"] * _MICROSECOND,
        record=Record(json["record"]),
        notify=frozenset(json["notify"]),
        step_up=StepUp(json.get("step_up", StepUp.NONE)),
        max_auth_age=None if age is None else age * _MICROSECOND,
    )


def user_columns(user: User) -> Columns:
    return {
        "id": user.id,
        "issuer": user.issuer,
        "subject": user.subject,
        "name": user.name,
        "email": user.email,
        "groups": sorted(user.groups),
        "disabled_at": user.disabled_at,
    }


def user_of(row: Found) -> User:
    c = _USERS
    return User(
        id=row[c.id],
        issuer=row[c.issuer],
        subject=row[c.subject],
        name=row[c.name],
        email=row[c.email],
        groups=frozenset(row[c.groups]),
        disabled_at=row[c.disabled_at],
    )


def request_columns(request: Request) -> Columns:
    """All but the approvals, which have rows of their own."""
    return {
        "id": request.id,
        "requester": request.requester,
        "requester_name": request.requester_name,
        "target": request.target,
        "level": request.level,
        "duration": request.duration,
        "reason": request.reason,
        "incident": request.incident,
        "kind": request.kind.value,
        "created_at": request.created_at,
        "obligations": obligations_columns(request.obligations),
        "policies": list(request.policies),
        "policy_set": request.policy_set,
        "facts": dict(request.facts),
        "state": request.state.value,
    }


def request_of(row: Found, approvals: Sequence[Approval]) -> Request:
    c = _REQUESTS
    return Request(
        id=row[c.id],
        requester=row[c.requester],
        requester_name=row[c.requester_name],
        target=row[c.target],
        level=row[c.level],
        duration=row[c.duration],
        reason=row[c.reason],
        incident=row[c.incident],
        kind=RequestKind(row[c.kind]),
        created_at=row[c.created_at],
        obligations=obligations_of(row[c.obligations]),
        policies=tuple(row[c.policies]),
        policy_set=row[c.policy_set],
        facts=row[c.facts],
        state=RequestState(row[c.state]),
        approvals=tuple(approvals),
    )


def approval_columns(approval: Approval, place: int) -> Columns:
    """`place` counts the answers of one request from 0."""
    return {
        "id": approval.id,
        "request": approval.request,
        "place": place,
        "approver": approval.approver,
        "verdict": approval.verdict.value,
        "at": approval.at,
        "note": approval.note,
    }


def approval_of(row: Found) -> Approval:
    c = _APPROVALS
    return Approval(
        id=row[c.id],
        request=row[c.request],
        approver=row[c.approver],
        verdict=Verdict(row[c.verdict]),
        at=row[c.at],
        note=row[c.note],
    )


def grant_columns(grant: Grant) -> Columns:
    return {
        "id": grant.id,
        "request": grant.request,
        "holder": grant.holder,
        "holder_name": grant.holder_name,
        "target": grant.target,
        "level": grant.level,
        "not_before": grant.window.not_before,
        "not_after": grant.window.not_after,
        "kind": grant.kind.value,
        "obligations": obligations_columns(grant.obligations),
        "incident": grant.incident,
        "approvals": grant.approvals,
        **revocation_columns(grant),
    }


def revocation_columns(grant: Grant) -> Columns:
    """What a revocation changes."""
    return {"revoked_at": grant.revoked_at, "revoked_by": grant.revoked_by, "revoke_reason": grant.revoke_reason}


def grant_of(row: Found) -> Grant:
    c = _GRANTS
    return Grant(
        id=row[c.id],
        request=row[c.request],
        holder=row[c.holder],
        holder_name=row[c.holder_name],
        target=row[c.target],
        level=row[c.level],
        window=Window(row[c.not_before], row[c.not_after]),
        kind=RequestKind(row[c.kind]),
        obligations=obligations_of(row[c.obligations]),
        incident=row[c.incident],
        approvals=row[c.approvals],
        revoked_at=row[c.revoked_at],
        revoked_by=row[c.revoked_by],
        revoke_reason=row[c.revoke_reason],
    )


def review_columns(review: Review) -> Columns:
    return {
        "id": review.id,
        "grant": review.grant,
        "holder": review.holder,
        "due_at": review.due_at,
        **signature_columns(review),
    }


def signature_columns(review: Review) -> Columns:
    """What signing changes."""
    return {
        "reviewer": review.reviewer,
        "verdict": review.verdict,
        "note": review.note,
        "signed_at": review.signed_at,
    }


def review_of(row: Found) -> Review:
    c = _REVIEWS
    return Review(
        id=row[c.id],
        grant=row[c.grant],
        holder=row[c.holder],
        due_at=row[c.due_at],
        reviewer=row[c.reviewer],
        verdict=row[c.verdict],
        note=row[c.note],
        signed_at=row[c.signed_at],
    )


def session_columns(session: Session) -> Columns:
    return {
        "id": session.id,
        "grant": session.grant,
        "holder": session.holder,
        "holder_name": session.holder_name,
        "target": session.target,
        "level": session.level,
        "protocol": session.protocol.value,
        "client": session.client,
        "gateway": session.gateway,
        "started_at": session.started_at,
        "deadline": session.deadline,
        "kill_requested_by": session.kill_requested_by,
        "locked_by": session.locked_by,
        "active_at": session.active_at,
        "cancel": asdict(session.cancel) if session.cancel else None,
        **end_columns(session),
        "running": running_columns(session.running),
    }


END = ("ended_at", "end_reason", "end_detail", "recording_digest", "running")


def end_columns(session: Session) -> Columns:
    """What the end of a session changes: the columns `END`."""
    return {
        "ended_at": session.ended_at,
        "end_reason": session.end_reason.value if session.end_reason else None,
        "end_detail": session.end_detail,
        "recording_digest": session.recording_digest,
        "running": None,
    }


def running_columns(running: Running | None) -> Columns | None:
    """As JSON."""
    return {**asdict(running), "since": running.since.isoformat()} if running else None


def _running_of(told: Columns | None) -> Running | None:
    return Running(**{**told, "since": datetime.fromisoformat(told["since"])}) if told else None


def session_of(row: Found) -> Session:
    c = _SESSIONS
    reason = row[c.end_reason]
    return Session(
        id=row[c.id],
        grant=row[c.grant],
        holder=row[c.holder],
        holder_name=row[c.holder_name],
        target=row[c.target],
        level=row[c.level],
        protocol=Protocol(row[c.protocol]),
        client=row[c.client],
        gateway=row[c.gateway],
        started_at=row[c.started_at],
        deadline=row[c.deadline],
        ended_at=row[c.ended_at],
        end_reason=EndReason(reason) if reason is not None else None,
        end_detail=row[c.end_detail],
        recording_digest=row[c.recording_digest],
        kill_requested_by=row[c.kill_requested_by],
        locked_by=row[c.locked_by],
        active_at=row[c.active_at],
        running=_running_of(row[c.running]),
        cancel=Cancel(**row[c.cancel]) if row[c.cancel] else None,
    )
