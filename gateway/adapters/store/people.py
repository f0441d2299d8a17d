"""The repositories of `app.people_ports` over one transaction."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Table, delete, insert, or_, select, update

from gateway.adapters.store.people_tables import API_TOKENS, PROVIDER_SESSIONS, PROVISIONED_GROUPS, PROVISIONED_USERS
from gateway.adapters.store.prepared import Found
from gateway.adapters.store.transaction import Transaction, in_parts
from gateway.app.people_ports import ApiToken, ProviderSession, ProvisionedGroup, ProvisionedUser
from gateway.core.errors import Conflict, Refusal


class SqlProviderSessions:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def add(self, session: ProviderSession) -> None:
        self._tx.insert(insert(PROVIDER_SESSIONS), [asdict(session)])

    def get(self, session_id: str) -> ProviderSession | None:
        row = self._tx.first(select(PROVIDER_SESSIONS).where(PROVIDER_SESSIONS.c.id == session_id))
        return _session_of(row) if row else None

    def save(self, session: ProviderSession) -> bool:
        c = PROVIDER_SESSIONS.c
        is_alive = (c.id == session.id) & c.ended_at.is_(None)
        return self._tx.change(update(PROVIDER_SESSIONS).where(is_alive).values(asdict(session))) == 1

    def alive(self, *, user: str = "", provider: str = "", sid: str = "") -> Sequence[ProviderSession]:
        c = PROVIDER_SESSIONS.c
        query = select(PROVIDER_SESSIONS).where(c.ended_at.is_(None)).order_by(c.created_at, c.id)
        for column, value in ((c.user, user), (c.provider, provider), (c.sid, sid)):
            query = query.where(column == value) if value else query
        return [_session_of(row) for row in self._tx.rows(query)]

    def has_due(self, provider: str, at: datetime) -> bool:
        c = PROVIDER_SESSIONS.c
        is_due = (c.provider == provider) & c.ended_at.is_(None) & (c.next_check_at <= at)
        return self._tx.first(select(c.id).where(is_due).limit(1)) is not None

    def claim_due(self, provider: str, at: datetime, until: datetime, limit: int) -> Sequence[ProviderSession]:
        c = PROVIDER_SESSIONS.c
        is_due = (c.provider == provider) & c.ended_at.is_(None) & (c.next_check_at <= at)
        query = select(PROVIDER_SESSIONS).where(is_due).order_by(c.next_check_at, c.id).limit(limit)
        due = [_session_of(row) for row in self._tx.rows(query)]
        ids = [session.id for session in due]
        self._tx.change(update(PROVIDER_SESSIONS).where(c.id.in_(ids)).values(next_check_at=until))
        return [replace(session, next_check_at=until) for session in due]

    def purge(self, before: datetime) -> int:
        c = PROVIDER_SESSIONS.c
        is_over = (c.ended_at < before) | (c.ended_at.is_(None) & (c.checked_at < before))
        return self._tx.change(delete(PROVIDER_SESSIONS).where(is_over))


class SqlApiTokens:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def add(self, token: ApiToken) -> None:
        self._tx.insert(insert(API_TOKENS), [{**asdict(token), "scopes": sorted(token.scopes)}])

    def by_digest(self, digest: str) -> ApiToken | None:
        row = self._tx.first(select(API_TOKENS).where(API_TOKENS.c.digest == digest))
        return _token_of(row) if row else None

    def by_name(self, name: str) -> ApiToken | None:
        is_it = (API_TOKENS.c.name == name) & API_TOKENS.c.revoked_at.is_(None)
        row = self._tx.first(select(API_TOKENS).where(is_it))
        return _token_of(row) if row else None

    def used(self, token_id: str, at: datetime, client: str) -> None:
        values = {"last_used_at": at, "last_used_from": client}
        self._tx.change(update(API_TOKENS).where(API_TOKENS.c.id == token_id).values(values))

    def revoke(self, token_id: str, at: datetime) -> bool:
        is_it = (API_TOKENS.c.id == token_id) & API_TOKENS.c.revoked_at.is_(None)
        return self._tx.change(update(API_TOKENS).where(is_it).values(revoked_at=at)) == 1

    def all(self) -> Sequence[ApiToken]:
        query = select(API_TOKENS).order_by(API_TOKENS.c.created_at.desc(), API_TOKENS.c.id)
        return [_token_of(row) for row in self._tx.rows(query)]


class SqlProvisioning:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def save_user(self, user: ProvisionedUser) -> None:
        c = PROVISIONED_USERS.c
        is_same = or_(
            c.user_name_folded == user.user_name.casefold(), (c.external_id == user.external_id) & (c.external_id != "")
        )
        self._demand_free(PROVISIONED_USERS, (c.provider == user.provider) & (c.id != user.id) & is_same)
        self._upsert(PROVISIONED_USERS, {**asdict(user), "user_name_folded": user.user_name.casefold()})

    def user(self, provider: str, id: str) -> ProvisionedUser | None:
        c = PROVISIONED_USERS.c
        row = self._tx.first(select(PROVISIONED_USERS).where(c.provider == provider, c.id == id))
        return _user_of(row) if row else None

    def several(self, provider: str, ids: Collection[str]) -> Sequence[ProvisionedUser]:
        c = PROVISIONED_USERS.c
        query = select(PROVISIONED_USERS).where(c.provider == provider).order_by(c.id)
        return [_user_of(row) for part in in_parts(ids) for row in self._tx.rows(query.where(c.id.in_(part)))]

    def user_by(
        self, provider: str, *, user_name: str = "", external_id: str = "", user: str = ""
    ) -> ProvisionedUser | None:
        c = PROVISIONED_USERS.c
        query = select(PROVISIONED_USERS).where(c.provider == provider)
        query = query.where(c.user_name_folded == user_name.casefold()) if user_name else query
        query = query.where(c.external_id == external_id) if external_id else query
        query = query.where(c.user == user) if user else query
        row = self._tx.first(query.order_by(c.id)) if user_name or external_id or user else None
        return _user_of(row) if row else None

    def users(self, provider: str) -> Sequence[ProvisionedUser]:
        c = PROVISIONED_USERS.c
        query = select(PROVISIONED_USERS).where(c.provider == provider).order_by(c.created_at, c.id)
        return [_user_of(row) for row in self._tx.rows(query)]

    def remove_user(self, provider: str, id: str) -> bool:
        c = PROVISIONED_USERS.c
        return self._tx.change(delete(PROVISIONED_USERS).where(c.provider == provider, c.id == id)) == 1

    def save_group(self, group: ProvisionedGroup) -> None:
        c = PROVISIONED_GROUPS.c
        is_same = (c.provider == group.provider) & (c.id != group.id) & (c.display_name == group.display_name)
        self._demand_free(PROVISIONED_GROUPS, is_same)
        self._upsert(PROVISIONED_GROUPS, {**asdict(group), "members": sorted(group.members)})

    def group(self, provider: str, id: str) -> ProvisionedGroup | None:
        c = PROVISIONED_GROUPS.c
        row = self._tx.first(select(PROVISIONED_GROUPS).where(c.provider == provider, c.id == id))
        return _group_of(row) if row else None

    def groups(self, provider: str) -> Sequence[ProvisionedGroup]:
        c = PROVISIONED_GROUPS.c
        query = select(PROVISIONED_GROUPS).where(c.provider == provider).order_by(c.created_at, c.id)
        return [_group_of(row) for row in self._tx.rows(query)]

    def remove_group(self, provider: str, id: str) -> bool:
        c = PROVISIONED_GROUPS.c
        return self._tx.change(delete(PROVISIONED_GROUPS).where(c.provider == provider, c.id == id)) == 1

    def _demand_free(self, table: Table, is_taken: Any) -> None:
        if self._tx.first(select(table.c.id).where(is_taken)):
            raise Conflict(Refusal("provisioned-already", "Another one of this provider has that name or external id."))

    def _upsert(self, table: Table, columns: dict[str, Any]) -> None:
        if not self._tx.change(update(table).where(table.c.id == columns["id"]).values(columns)):
            self._tx.insert(insert(table), [columns])


def _session_of(row: Found) -> ProviderSession:
    return ProviderSession(**{column.name: row[column] for column in PROVIDER_SESSIONS.columns})


def _token_of(row: Found) -> ApiToken:
    values = {column.name: row[column] for column in API_TOKENS.columns}
    return ApiToken(**{**values, "scopes": frozenset(values["scopes"])})


def _user_of(row: Found) -> ProvisionedUser:
    values = {column.name: row[column] for column in PROVISIONED_USERS.columns}
    del values["user_name_folded"]
    return ProvisionedUser(**values)


def _group_of(row: Found) -> ProvisionedGroup:
    values = {column.name: row[column] for column in PROVISIONED_GROUPS.columns}
    return ProvisionedGroup(**{**values, "members": frozenset(values["members"])})
