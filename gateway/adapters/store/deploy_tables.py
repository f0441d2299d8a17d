"""Tables of runs, their steps, the locks on targets and what runs where."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Index
from sqlmodel import Field, SQLModel

from gateway.adapters.store.columns import CleanJson, CleanText, UtcDateTime
from gateway.adapters.store.tables import _table, _where

_JSON: Final[Any] = CleanJson
_TEXT: Final[Any] = CleanText
_INSTANT: Final[Any] = UtcDateTime


class DeployRunRow(SQLModel, table=True):
    __tablename__ = "deploy_runs"
    __table_args__ = (Index("ix_deploy_runs_running", "gateway", **_where("ended_at IS NULL")),)
    id: str = Field(primary_key=True, sa_type=_TEXT)
    key: str = Field(unique=True, sa_type=_TEXT)  # asking twice is one run, whatever the code above believes
    principal: str = Field(sa_type=_TEXT)
    principal_kind: str = Field(sa_type=_TEXT)
    principal_name: str = Field(sa_type=_TEXT)
    verb: str = Field(sa_type=_TEXT)
    targets: list[str] = Field(sa_type=_JSON)
    parameters: dict[str, str] = Field(sa_type=_JSON)
    version: str = Field(sa_type=_TEXT)
    is_rollback: bool
    gateway: str = Field(sa_type=_TEXT)
    started_at: datetime = Field(sa_type=_INSTANT, index=True)
    deadline: datetime = Field(sa_type=_INSTANT)
    client: str = Field(sa_type=_TEXT)
    pipeline: dict[str, str] = Field(sa_type=_JSON)
    incident: str = Field(sa_type=_TEXT)
    reason: str = Field(sa_type=_TEXT)
    grant: str = Field(sa_type=_TEXT)
    input_digest: str = Field(sa_type=_TEXT)
    state: str = Field(sa_type=_TEXT)
    ended_at: datetime | None = Field(sa_type=_INSTANT)
    exit_status: int | None
    detail: str = Field(sa_type=_TEXT)
    cancelled_by: str = Field(sa_type=_TEXT)
    goes_back_on: list[str] = Field(sa_type=_JSON)


class DeployStepRow(SQLModel, table=True):
    __tablename__ = "deploy_steps"
    __table_args__ = (
        Index("ix_deploy_steps_target", "target", "run"),
        Index("ix_deploy_steps_roles", "target", **_where("role <> ''")),
    )
    run: str = Field(primary_key=True, foreign_key="deploy_runs.id", sa_type=_TEXT)
    target: str = Field(primary_key=True, sa_type=_TEXT)
    place: int
    session: str = Field(unique=True, sa_type=_TEXT)
    account: str = Field(sa_type=_TEXT)
    fence: int
    state: str = Field(sa_type=_TEXT)
    started_at: datetime | None = Field(sa_type=_INSTANT)
    ended_at: datetime | None = Field(sa_type=_INSTANT)
    exit_status: int | None
    detail: str = Field(sa_type=_TEXT)
    recording_digest: str = Field(sa_type=_TEXT)
    role: str = Field(sa_type=_TEXT)


class DeployLockRow(SQLModel, table=True):
    __tablename__ = "deploy_locks"
    target: str = Field(primary_key=True, sa_type=_TEXT)
    fence: int
    run: str = Field(sa_type=_TEXT)
    gateway: str = Field(sa_type=_TEXT)
    holder: str = Field(sa_type=_TEXT)
    verb: str = Field(sa_type=_TEXT)
    taken_at: datetime = Field(sa_type=_INSTANT)
    until: datetime = Field(sa_type=_INSTANT)


class PlacementRow(SQLModel, table=True):
    __tablename__ = "deploy_placements"
    target: str = Field(primary_key=True, sa_type=_TEXT)
    trail: list[str] = Field(sa_type=_JSON)
    run: str = Field(sa_type=_TEXT)
    by: str = Field(sa_type=_TEXT)
    at: datetime = Field(sa_type=_INSTANT)
    attempted: str = Field(sa_type=_TEXT)
    undoing: bool


RUNS: Final = _table(DeployRunRow)
STEPS: Final = _table(DeployStepRow)
LOCKS: Final = _table(DeployLockRow)
PLACEMENTS: Final = _table(PlacementRow)
