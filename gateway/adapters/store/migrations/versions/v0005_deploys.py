"""Deploys: runs, their steps, one lock per target, and what runs where."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    _create_runs()
    _create_steps()
    _create_locks()
    _create_placements()


def _create_runs() -> None:
    op.create_table(
        "deploy_runs",
        *map(_text, ("id", "key", "principal", "principal_kind", "principal_name", "verb")),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        _text("version"),
        sa.Column("is_rollback", sa.Boolean(), nullable=False),
        _text("gateway"),
        _instant("started_at"),
        _instant("deadline"),
        _text("client"),
        sa.Column("pipeline", sa.JSON(), nullable=False),
        *map(_text, ("incident", "reason", "grant", "input_digest", "state")),
        _instant("ended_at", nullable=True),
        sa.Column("exit_status", sa.Integer(), nullable=True),
        *map(_text, ("detail", "cancelled_by")),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
    )
    op.create_index("ix_deploy_runs_running", "deploy_runs", ["gateway"], **_where("ended_at IS NULL"))
    op.create_index("ix_deploy_runs_started_at", "deploy_runs", ["started_at"])


def _create_steps() -> None:
    op.create_table(
        "deploy_steps",
        *map(_text, ("run", "target")),
        sa.Column("place", sa.Integer(), nullable=False),
        *map(_text, ("session", "account")),
        sa.Column("fence", sa.Integer(), nullable=False),
        _text("state"),
        _instant("started_at", nullable=True),
        _instant("ended_at", nullable=True),
        sa.Column("exit_status", sa.Integer(), nullable=True),
        *map(_text, ("detail", "recording_digest", "role")),
        sa.ForeignKeyConstraint(["run"], ["deploy_runs.id"]),
        sa.PrimaryKeyConstraint("run", "target"),
        sa.UniqueConstraint("session"),
    )
    op.create_index("ix_deploy_steps_target", "deploy_steps", ["target", "run"])
    op.create_index("ix_deploy_steps_roles", "deploy_steps", ["target"], **_where("role <> ''"))


def _create_locks() -> None:
    op.create_table(
        "deploy_locks",
        _text("target"),
        sa.Column("fence", sa.Integer(), nullable=False),
        *map(_text, ("run", "gateway", "holder", "verb")),
        _instant("taken_at"),
        _instant("until"),
        sa.PrimaryKeyConstraint("target"),
    )


def _create_placements() -> None:
    op.create_table(
        "deploy_placements",
        _text("target"),
        sa.Column("trail", sa.JSON(), nullable=False),
        *map(_text, ("run", "by")),
        _instant("at"),
        _text("attempted"),
        sa.Column("undoing", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("target"),
    )


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _instant(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}
