"""People's sessions at their identity provider, machines' tokens, and what SCIM provisions."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    _create_provider_sessions()
    _create_api_tokens()
    _create_provisioned_users()
    _create_provisioned_groups()


def _create_provider_sessions() -> None:
    op.create_table(
        "provider_sessions",
        _text("id"),
        _text("user"),
        _text("provider"),
        _text("sid"),
        _text("sealed_token"),
        _instant("created_at"),
        _instant("checked_at"),
        _instant("next_check_at", nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        _instant("ended_at", nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["user"], ["users.id"]),
    )
    alive = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_provider_sessions_due",
        "provider_sessions",
        ["provider", "next_check_at"],
        sqlite_where=alive,
        postgresql_where=alive,
    )
    op.create_index("ix_provider_sessions_user", "provider_sessions", ["user"])
    op.create_index("ix_provider_sessions_sid", "provider_sessions", ["provider", "sid"])


def _create_api_tokens() -> None:
    op.create_table(
        "api_tokens",
        _text("id"),
        _text("name"),
        _text("digest"),
        _json("scopes"),
        _text("provider"),
        _text("created_by"),
        _text("created_by_name"),
        _instant("created_at"),
        _instant("expires_at"),
        _instant("last_used_at", nullable=True),
        _text("last_used_from"),
        _instant("revoked_at", nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"]),
    )
    valid = sa.text("revoked_at IS NULL")
    op.create_index(
        "ix_api_tokens_name", "api_tokens", ["name"], unique=True, sqlite_where=valid, postgresql_where=valid
    )


def _create_provisioned_users() -> None:
    op.create_table(
        "provisioned_users",
        _text("id"),
        _text("provider"),
        _text("external_id"),
        _text("user_name"),
        _text("user_name_folded"),
        sa.Column("active", sa.Boolean(), nullable=False),
        _json("resource"),
        _instant("created_at"),
        _instant("updated_at"),
        _text("user"),
        _instant("disabled_at", nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("provider", "user_name_folded"),
    )
    named = sa.text("external_id <> ''")
    op.create_index(
        "ix_provisioned_users_external",
        "provisioned_users",
        ["provider", "external_id"],
        unique=True,
        sqlite_where=named,
        postgresql_where=named,
    )


def _create_provisioned_groups() -> None:
    op.create_table(
        "provisioned_groups",
        _text("id"),
        _text("provider"),
        _text("external_id"),
        _text("display_name"),
        _json("members"),
        _json("resource"),
        _instant("created_at"),
        _instant("updated_at"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("provider", "display_name"),
    )


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.Text(), nullable=False)


def _json(name: str) -> "sa.Column[Any]":
    return sa.Column(name, sa.JSON(), nullable=False)


def _instant(name: str, *, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)
