"""The tables as SQLModel classes. They say what columns there are and validate nothing, so they stay in this room:
`rows` turns `core` values into columns and back, `repositories` speaks SQL through the `Table`s below.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import BigInteger, Index, Integer, Table, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from gateway.adapters.store.columns import CleanJson, CleanText, Microseconds, UtcDateTime

_JSON: Final[Any] = CleanJson
_TEXT: Final[Any] = CleanText
_LONG: Final[Any] = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER keys count up by themselves there
_INSTANT: Final[Any] = UtcDateTime
_SPAN: Final[Any] = Microseconds


def _where(condition: str) -> dict[str, Any]:
    """A partial index on both databases."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


class UserRow(SQLModel, table=True):
    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)
    id: str = Field(primary_key=True, sa_type=_TEXT)
    issuer: str = Field(sa_type=_TEXT)
    subject: str = Field(sa_type=_TEXT)
    name: str = Field(unique=True, sa_type=_TEXT)
    email: str = Field(sa_type=_TEXT)
    groups: list[str] = Field(sa_type=_JSON)
    disabled_at: datetime | None = Field(sa_type=_INSTANT)
    confirmed_at: datetime | None = Field(sa_type=_INSTANT)


class RequestRow(SQLModel, table=True):
    __tablename__ = "requests"
    __table_args__ = (
        Index("ix_requests_requester", "requester", "created_at"),
        Index("ix_requests_state", "state", "created_at"),
    )
    id: str = Field(primary_key=True, sa_type=_TEXT)
    requester: str = Field(foreign_key="users.id", sa_type=_TEXT)
    requester_name: str = Field(sa_type=_TEXT)
    target: str = Field(sa_type=_TEXT)
    level: str = Field(sa_type=_TEXT)
    duration: timedelta = Field(sa_type=_SPAN)
    reason: str = Field(sa_type=_TEXT)
    incident: str = Field(sa_type=_TEXT)
    kind: str = Field(sa_type=_TEXT)
    created_at: datetime = Field(sa_type=_INSTANT, index=True)
    obligations: dict[str, Any] = Field(sa_type=_JSON)
    policies: list[str] = Field(sa_type=_JSON)
    policy_set: str = Field(sa_type=_TEXT)
    facts: dict[str, Any] = Field(sa_type=_JSON)
    state: str = Field(sa_type=_TEXT)


class ApprovalRow(SQLModel, table=True):
    __tablename__ = "approvals"
    # One person counts once, whatever the code above believes.
    __table_args__ = (UniqueConstraint("request", "approver"),)
    id: str = Field(primary_key=True, sa_type=_TEXT)
    request: str = Field(foreign_key="requests.id", sa_type=_TEXT)
    place: int
    approver: str = Field(foreign_key="users.id", sa_type=_TEXT)
    verdict: str = Field(sa_type=_TEXT)
    at: datetime = Field(sa_type=_INSTANT)
    note: str = Field(sa_type=_TEXT)


class GrantRow(SQLModel, table=True):
    __tablename__ = "grants"
    __table_args__ = (
        Index("ix_grants_holder", "holder", "not_before"),
        Index("ix_grants_target", "target", "not_before"),
    )
    id: str = Field(primary_key=True, sa_type=_TEXT)
    request: str = Field(foreign_key="requests.id", unique=True, sa_type=_TEXT)  # a request earns one grant
    holder: str = Field(foreign_key="users.id", sa_type=_TEXT)
    holder_name: str = Field(sa_type=_TEXT)
    target: str = Field(sa_type=_TEXT)
    level: str = Field(sa_type=_TEXT)
    not_before: datetime = Field(sa_type=_INSTANT, index=True)
    not_after: datetime = Field(sa_type=_INSTANT, index=True)
    kind: str = Field(sa_type=_TEXT)
    obligations: dict[str, Any] = Field(sa_type=_JSON)
    incident: str = Field(sa_type=_TEXT)
    approvals: int
    revoked_at: datetime | None = Field(sa_type=_INSTANT)
    revoked_by: str = Field(sa_type=_TEXT)
    revoke_reason: str = Field(sa_type=_TEXT)


class ReviewRow(SQLModel, table=True):
    __tablename__ = "reviews"
    __table_args__ = (Index("ix_reviews_open", "due_at", **_where("signed_at IS NULL")),)
    id: str = Field(primary_key=True, sa_type=_TEXT)
    grant: str = Field(foreign_key="grants.id", unique=True, sa_type=_TEXT)
    holder: str = Field(foreign_key="users.id", sa_type=_TEXT)
    due_at: datetime = Field(sa_type=_INSTANT)
    reviewer: str = Field(sa_type=_TEXT)
    verdict: str = Field(sa_type=_TEXT)
    note: str = Field(sa_type=_TEXT)
    signed_at: datetime | None = Field(sa_type=_INSTANT)


class SessionRow(SQLModel, table=True):
    __tablename__ = "sessions"
    __table_args__ = (
        # What is read four times a second is only the sessions that are live.
        Index("ix_sessions_live", "gateway", **_where("ended_at IS NULL")),
        Index("ix_sessions_holder", "holder", "started_at"),
        Index("ix_sessions_target", "target", "started_at"),
        Index("ix_sessions_grant", "grant", "started_at"),
    )
    id: str = Field(primary_key=True, sa_type=_TEXT)
    grant: str = Field(foreign_key="grants.id", sa_type=_TEXT)
    holder: str = Field(foreign_key="users.id", sa_type=_TEXT)
    holder_name: str = Field(sa_type=_TEXT)
    target: str = Field(sa_type=_TEXT)
    level: str = Field(sa_type=_TEXT)
    protocol: str = Field(sa_type=_TEXT)
    client: str = Field(sa_type=_TEXT)
    gateway: str = Field(sa_type=_TEXT)
    started_at: datetime = Field(sa_type=_INSTANT, index=True)
    deadline: datetime = Field(sa_type=_INSTANT)
    ended_at: datetime | None = Field(sa_type=_INSTANT)
    end_reason: str | None = Field(sa_type=_TEXT)
    end_detail: str = Field(sa_type=_TEXT)
    recording_digest: str = Field(sa_type=_TEXT)
    kill_requested_by: str = Field(sa_type=_TEXT)
    locked_by: str = Field(sa_type=_TEXT)
    active_at: datetime | None = Field(sa_type=_INSTANT)
    running: dict[str, str | int] | None = Field(sa_type=_JSON)
    cancel: dict[str, str | int] | None = Field(sa_type=_JSON)


class HeldCommitRow(SQLModel, table=True):
    __tablename__ = "held_commits"
    session: str = Field(primary_key=True, foreign_key="sessions.id", sa_type=_TEXT)
    tx: int = Field(sa_type=_LONG)
    mark: str = Field(sa_type=_TEXT)
    at: datetime = Field(sa_type=_INSTANT)
    confirm: str = Field(sa_type=_TEXT)
    statements: int = Field(sa_type=_LONG)
    rows: int = Field(sa_type=_LONG)
    sealed: str = Field(sa_type=_TEXT)
    state: str = Field(sa_type=_TEXT)
    decided_by: str = Field(sa_type=_TEXT)
    decided_at: datetime | None = Field(sa_type=_INSTANT)
    reason: str = Field(sa_type=_TEXT)


class LeaseRow(SQLModel, table=True):
    __tablename__ = "leases"
    __table_args__ = (Index("ix_leases_unfinished", "created_at", **_where("state <> 'dropped'")),)
    id: str = Field(primary_key=True, sa_type=_TEXT)
    grant: str = Field(foreign_key="grants.id", index=True, sa_type=_TEXT)
    target: str = Field(sa_type=_TEXT)
    level: str = Field(sa_type=_TEXT)
    name: str = Field(sa_type=_TEXT)
    gateway: str = Field(sa_type=_TEXT)
    state: str = Field(sa_type=_TEXT)
    created_at: datetime = Field(sa_type=_INSTANT)
    expires_at: datetime = Field(sa_type=_INSTANT)
    attempts: int
    last_error: str = Field(sa_type=_TEXT)
    next_attempt_at: datetime | None = Field(sa_type=_INSTANT)
    place: str = Field(default="", sa_type=_TEXT)


class CredentialRow(SQLModel, table=True):
    __tablename__ = "credentials"
    __table_args__ = (
        Index("ix_credentials_subject", "subject", "purpose"),
        Index("ix_credentials_purpose", "purpose", "issued_at"),
    )
    digest: str = Field(primary_key=True, sa_type=_TEXT)
    purpose: str = Field(primary_key=True, sa_type=_TEXT)
    subject: str = Field(sa_type=_TEXT)
    issued_at: datetime = Field(sa_type=_INSTANT)
    expires_at: datetime = Field(sa_type=_INSTANT, index=True)
    single_use: bool
    used_at: datetime | None = Field(sa_type=_INSTANT)
    data: dict[str, str] | None = Field(sa_type=_JSON)


class PasskeyRow(SQLModel, table=True):
    __tablename__ = "passkeys"
    id: str = Field(primary_key=True, sa_type=_TEXT)
    user: str = Field(foreign_key="users.id", index=True, sa_type=_TEXT)
    name: str = Field(sa_type=_TEXT)
    public_key: str = Field(sa_type=_TEXT)
    sign_count: int = Field(sa_type=_LONG)
    transports: list[str] = Field(sa_type=_JSON)
    created_at: datetime = Field(sa_type=_INSTANT)
    used_at: datetime | None = Field(sa_type=_INSTANT)


class ShiftRow(SQLModel, table=True):
    __tablename__ = "shifts"
    __table_args__ = (
        Index("ix_shifts_service", "service", "not_after"),
        Index("ix_shifts_source", "source", "not_after"),
    )
    id: int | None = Field(default=None, primary_key=True, sa_type=_LONG)
    service: str = Field(sa_type=_TEXT)
    subject: str = Field(sa_type=_TEXT)
    level: int
    not_before: datetime = Field(sa_type=_INSTANT)
    not_after: datetime = Field(sa_type=_INSTANT)
    source: str = Field(sa_type=_TEXT)
    fetched_at: datetime = Field(sa_type=_INSTANT)
    source_hash: str = Field(sa_type=_TEXT)


class IncidentRow(SQLModel, table=True):
    __tablename__ = "incidents"
    source: str = Field(primary_key=True, sa_type=_TEXT)
    id: str = Field(primary_key=True, index=True, sa_type=_TEXT)
    service: str = Field(sa_type=_TEXT)
    title: str = Field(sa_type=_TEXT)
    opened_at: datetime = Field(sa_type=_INSTANT)
    closed_at: datetime | None = Field(sa_type=_INSTANT)
    fetched_at: datetime = Field(sa_type=_INSTANT)


class GatewayRow(SQLModel, table=True):
    __tablename__ = "gateways"
    name: str = Field(primary_key=True, sa_type=_TEXT)
    beat_at: datetime = Field(sa_type=_INSTANT)


def _table(model: type[SQLModel]) -> Table:
    return SQLModel.metadata.tables[str(model.__tablename__)]


USERS: Final = _table(UserRow)
REQUESTS: Final = _table(RequestRow)
APPROVALS: Final = _table(ApprovalRow)
GRANTS: Final = _table(GrantRow)
REVIEWS: Final = _table(ReviewRow)
SESSIONS: Final = _table(SessionRow)
HELD_COMMITS: Final = _table(HeldCommitRow)
LEASES: Final = _table(LeaseRow)
CREDENTIALS: Final = _table(CredentialRow)
PASSKEYS: Final = _table(PasskeyRow)
SHIFTS: Final = _table(ShiftRow)
INCIDENTS: Final = _table(IncidentRow)
GATEWAYS: Final = _table(GatewayRow)
