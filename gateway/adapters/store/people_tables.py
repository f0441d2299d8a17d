"""As `tables`, for people's sessions at their provider, machines' tokens and what SCIM provisions."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import Field, SQLModel

from gateway.adapters.store.columns import CleanJson, CleanText, UtcDateTime
from gateway.adapters.store.tables import _table, _where

_JSON: Final[Any] = CleanJson
_TEXT: Final[Any] = CleanText
_INSTANT: Final[Any] = UtcDateTime


class ProviderSessionRow(SQLModel, table=True):
    __tablename__ = "provider_sessions"
    __table_args__ = (
        Index("ix_provider_sessions_due", "provider", "next_check_at", **_where("ended_at IS NULL")),
        Index("ix_provider_sessions_user", "user"),
        Index("ix_provider_sessions_sid", "provider", "sid"),
    )
    id: str = Field(primary_key=True, sa_type=_TEXT)
    user: str = Field(foreign_key="users.id", sa_type=_TEXT)
    provider: str = Field(sa_type=_TEXT)
    sid: str = Field(sa_type=_TEXT)
    sealed_token: str = Field(sa_type=_TEXT)
    created_at: datetime = Field(sa_type=_INSTANT)
    checked_at: datetime = Field(sa_type=_INSTANT)
    next_check_at: datetime | None = Field(sa_type=_INSTANT)
    failures: int
    ended_at: datetime | None = Field(sa_type=_INSTANT)


class ApiTokenRow(SQLModel, table=True):
    __tablename__ = "api_tokens"
    __table_args__ = (Index("ix_api_tokens_name", "name", unique=True, **_where("revoked_at IS NULL")),)
    id: str = Field(primary_key=True, sa_type=_TEXT)
    name: str = Field(sa_type=_TEXT)
    digest: str = Field(unique=True, sa_type=_TEXT)
    scopes: list[str] = Field(sa_type=_JSON)
    provider: str = Field(sa_type=_TEXT)
    created_by: str = Field(foreign_key="users.id", sa_type=_TEXT)
    created_by_name: str = Field(sa_type=_TEXT)
    created_at: datetime = Field(sa_type=_INSTANT)
    expires_at: datetime = Field(sa_type=_INSTANT)
    last_used_at: datetime | None = Field(sa_type=_INSTANT)
    last_used_from: str = Field(sa_type=_TEXT)
    revoked_at: datetime | None = Field(sa_type=_INSTANT)


class ProvisionedUserRow(SQLModel, table=True):
    __tablename__ = "provisioned_users"
    __table_args__ = (
        UniqueConstraint("provider", "user_name_folded"),
        Index(
            "ix_provisioned_users_external", "provider", "external_id", unique=True, **_where("external_id <> ''")
        ),
    )  # fmt: skip
    id: str = Field(primary_key=True, sa_type=_TEXT)
    provider: str = Field(sa_type=_TEXT)
    external_id: str = Field(sa_type=_TEXT)
    user_name: str = Field(sa_type=_TEXT)
    user_name_folded: str = Field(sa_type=_TEXT)  # userName is caseExact false (RFC 7643 §4.1.1)
    active: bool
    resource: dict[str, Any] = Field(sa_type=_JSON)
    created_at: datetime = Field(sa_type=_INSTANT)
    updated_at: datetime = Field(sa_type=_INSTANT)
    user: str = Field(sa_type=_TEXT)
    disabled_at: datetime | None = Field(sa_type=_INSTANT)


class ProvisionedGroupRow(SQLModel, table=True):
    __tablename__ = "provisioned_groups"
    __table_args__ = (UniqueConstraint("provider", "display_name"),)
    id: str = Field(primary_key=True, sa_type=_TEXT)
    provider: str = Field(sa_type=_TEXT)
    external_id: str = Field(sa_type=_TEXT)
    display_name: str = Field(sa_type=_TEXT)
    members: list[str] = Field(sa_type=_JSON)
    resource: dict[str, Any] = Field(sa_type=_JSON)
    created_at: datetime = Field(sa_type=_INSTANT)
    updated_at: datetime = Field(sa_type=_INSTANT)


PROVIDER_SESSIONS: Final = _table(ProviderSessionRow)
API_TOKENS: Final = _table(ApiTokenRow)
PROVISIONED_USERS: Final = _table(ProvisionedUserRow)
PROVISIONED_GROUPS: Final = _table(ProvisionedGroupRow)
