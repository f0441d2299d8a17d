"""The first tables. Never changed once released: what comes later is a revision of its own."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_LONG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # only INTEGER keys count up by themselves there


def upgrade() -> None:
    _create_users()
    _create_requests()
    _create_approvals()
    _create_grants()
    _create_reviews()
    _create_sessions()
    _create_leases()
    _create_credentials()
    _create_shifts()
    _create_incidents()
    _create_gateways()
    _create_event()
    _create_log_tile()
    _create_log_checkpoint()
    _create_log_head()


def _create_users() -> None:
    op.create_table(
        "users",
        _text("id"),
        _text("issuer"),
        _text("subject"),
        _text("name"),
        _text("email"),
        _json("groups"),
        _instant("disabled_at", nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("issuer", "subject"),
        sa.UniqueConstraint("name"),
    )


def _create_requests() -> None:
    op.create_table(
        "requests",
        _text("id"),
        _text("requester"),
        _text("requester_name"),
        _text("target"),
        _text("level"),
        sa.Column("duration", sa.BigInteger(), nullable=False),
        _text("reason"),
        _text("incident"),
        _text("kind"),
        _instant("created_at"),
        _json("obligations"),
        _json("policies"),
        _text("policy_set"),
        _json("facts"),
        _text("state"),
        sa.ForeignKeyConstraint(["requester"], ["users.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_requests_created_at", "requests", ["created_at"])
    op.create_index("ix_requests_requester", "requests", ["requester", "created_at"])
    op.create_index("ix_requests_state", "requests", ["state", "created_at"])


def _create_approvals() -> None:
    op.create_table(
        "approvals",
        _text("id"),
        _text("request"),
        _integer("place"),
        _text("approver"),
        _text("verdict"),
        _instant("at"),
        _text("note"),
        sa.ForeignKeyConstraint(["approver"], ["users.id"]),
        sa.ForeignKeyConstraint(["request"], ["requests.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("request", "approver"),
    )


def _create_grants() -> None:
    op.create_table(
        "grants",
        _text("id"),
        _text("request"),
        _text("holder"),
        _text("holder_name"),
        _text("target"),
        _text("level"),
        _instant("not_before"),
        _instant("not_after"),
        _text("kind"),
        _json("obligations"),
        _text("incident"),
        _integer("approvals"),
        _instant("revoked_at", nullable=True),
        _text("revoked_by"),
        _text("revoke_reason"),
        sa.ForeignKeyConstraint(["holder"], ["users.id"]),
        sa.ForeignKeyConstraint(["request"], ["requests.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("request"),
    )
    op.create_index("ix_grants_holder", "grants", ["holder", "not_before"])
    op.create_index("ix_grants_not_after", "grants", ["not_after"])
    op.create_index("ix_grants_not_before", "grants", ["not_before"])
    op.create_index("ix_grants_target", "grants", ["target", "not_before"])


def _create_reviews() -> None:
    op.create_table(
        "reviews",
        _text("id"),
        _text("grant"),
        _text("holder"),
        _instant("due_at"),
        _text("reviewer"),
        _text("verdict"),
        _text("note"),
        _instant("signed_at", nullable=True),
        sa.ForeignKeyConstraint(["grant"], ["grants.id"]),
        sa.ForeignKeyConstraint(["holder"], ["users.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("grant"),
    )
    op.create_index("ix_reviews_open", "reviews", ["due_at"], **_where("signed_at IS NULL"))


def _create_sessions() -> None:
    op.create_table(
        "sessions",
        _text("id"),
        _text("grant"),
        _text("holder"),
        _text("holder_name"),
        _text("target"),
        _text("level"),
        _text("protocol"),
        _text("client"),
        _text("gateway"),
        _instant("started_at"),
        _instant("deadline"),
        _instant("ended_at", nullable=True),
        _text("end_reason", nullable=True),
        _text("end_detail"),
        _text("recording_digest"),
        _text("kill_requested_by"),
        sa.ForeignKeyConstraint(["grant"], ["grants.id"]),
        sa.ForeignKeyConstraint(["holder"], ["users.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_sessions_grant", "sessions", ["grant", "started_at"])
    op.create_index("ix_sessions_holder", "sessions", ["holder", "started_at"])
    op.create_index("ix_sessions_live", "sessions", ["gateway"], **_where("ended_at IS NULL"))
    op.create_index("ix_sessions_started_at", "sessions", ["started_at"])
    op.create_index("ix_sessions_target", "sessions", ["target", "started_at"])


def _create_leases() -> None:
    op.create_table(
        "leases",
        _text("id"),
        _text("grant"),
        _text("target"),
        _text("level"),
        _text("name"),
        _text("gateway"),
        _text("state"),
        _instant("created_at"),
        _instant("expires_at"),
        _integer("attempts"),
        _text("last_error"),
        _instant("next_attempt_at", nullable=True),
        sa.ForeignKeyConstraint(["grant"], ["grants.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_leases_grant", "leases", ["grant"])
    op.create_index("ix_leases_unfinished", "leases", ["created_at"], **_where("state <> 'dropped'"))


def _create_credentials() -> None:
    op.create_table(
        "credentials",
        _text("digest"),
        _text("purpose"),
        _text("subject"),
        _instant("issued_at"),
        _instant("expires_at"),
        sa.Column("single_use", sa.Boolean(), nullable=False),
        _instant("used_at", nullable=True),
        _json("data", nullable=True),
        sa.PrimaryKeyConstraint("digest", "purpose"),
    )
    op.create_index("ix_credentials_expires_at", "credentials", ["expires_at"])
    op.create_index("ix_credentials_purpose", "credentials", ["purpose", "issued_at"])
    op.create_index("ix_credentials_subject", "credentials", ["subject", "purpose"])


def _create_shifts() -> None:
    op.create_table(
        "shifts",
        sa.Column("id", _LONG, nullable=False),
        _text("service"),
        _text("subject"),
        _integer("level"),
        _instant("not_before"),
        _instant("not_after"),
        _text("source"),
        _instant("fetched_at"),
        _text("source_hash"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_shifts_service", "shifts", ["service", "not_after"])
    op.create_index("ix_shifts_source", "shifts", ["source", "not_after"])


def _create_incidents() -> None:
    op.create_table(
        "incidents",
        _text("source"),
        _text("id"),
        _text("service"),
        _text("title"),
        _instant("opened_at"),
        _instant("closed_at", nullable=True),
        _instant("fetched_at"),
        sa.PrimaryKeyConstraint("source", "id"),
    )
    op.create_index("ix_incidents_id", "incidents", ["id"])


def _create_gateways() -> None:
    op.create_table("gateways", _text("name"), _instant("beat_at"), sa.PrimaryKeyConstraint("name"))


def _create_event() -> None:
    op.create_table(
        "event",
        sa.Column("ordinal", _LONG, nullable=False),
        _text("id"),
        _text("type"),
        sa.Column("at", _LONG, nullable=False),
        _text("source"),
        _text("outcome"),
        _text("principal"),
        _text("target"),
        _text("request"),
        _text("grant_id"),
        _text("session"),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("position", _LONG, nullable=True),
        sa.PrimaryKeyConstraint("ordinal"),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("position"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_event_at", "event", ["at"])
    op.create_index("ix_event_grant_id", "event", ["grant_id"])
    op.create_index("ix_event_principal", "event", ["principal"])
    op.create_index("ix_event_request", "event", ["request"])
    op.create_index("ix_event_session", "event", ["session"])
    op.create_index("ix_event_target", "event", ["target"])
    op.create_index("ix_event_type", "event", ["type"])


def _create_log_tile() -> None:
    op.create_table(
        "log_tile",
        _integer("level"),
        sa.Column("number", _LONG, autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "number"),
    )


def _create_log_checkpoint() -> None:
    op.create_table(
        "log_checkpoint",
        sa.Column("size", _LONG, autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        _text("note"),
        sa.Column("signed_at", _LONG, nullable=False),
        sa.PrimaryKeyConstraint("size"),
    )


def _create_log_head() -> None:
    op.create_table(
        "log_head",
        _integer("id"),
        _text("owner"),
        sa.Column("expires_at", _LONG, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _integer(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False)


def _instant(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _json(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON(), nullable=nullable)


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}
