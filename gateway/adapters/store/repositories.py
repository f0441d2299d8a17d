"""Repositories of `app.ports.UnitOfWork` over one transaction: who asks, what was asked for, and what came of it.

Compare-and-set is one `UPDATE … WHERE` each, judged by the number of rows that it matched.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import BindParameter, Select, bindparam, exists, insert, or_, select, type_coerce, update
from sqlalchemy.types import NullType

from gateway.adapters.store import rows
from gateway.adapters.store.prepared import Prepared
from gateway.adapters.store.tables import APPROVALS, GRANTS, REQUESTS, REVIEWS, SESSIONS, USERS
from gateway.adapters.store.transaction import Transaction, in_parts
from gateway.app.access_ports import GrantInUse
from gateway.app.session_ports import LiveView
from gateway.core.errors import Conflict, Refusal
from gateway.core.grant import Grant, Review
from gateway.core.principal import User
from gateway.core.request import Approval, Request, RequestState
from gateway.core.session import Cancel, Running, Session

# Made once: putting a statement together costs more than running it, and each connection runs these.
_OF: BindParameter[str] = bindparam("of")
_USER = Prepared(select(USERS).where(USERS.c.id == _OF))
_REQUEST = select(REQUESTS).where(REQUESTS.c.id == _OF)
_APPROVALS = select(APPROVALS).where(APPROVALS.c.request == _OF).order_by(APPROVALS.c.place)
_GRANT = Prepared(select(GRANTS).where(GRANTS.c.id == _OF))
_IN_USE = Prepared(
    select(GRANTS, USERS, REQUESTS.c.facts, REQUESTS.c.created_at)
    .select_from(GRANTS.join(USERS, USERS.c.id == GRANTS.c.holder).join(REQUESTS, REQUESTS.c.id == GRANTS.c.request))
    .where(GRANTS.c.id == _OF)
)
_SESSION = Prepared(select(SESSIONS).where(SESSIONS.c.id == _OF))
_ADD_SESSION = Prepared(insert(SESSIONS))
_TOUCH = update(SESSIONS).where(SESSIONS.c.id == _OF).values(active_at=bindparam("now"))
_SHOW_RUNNING = (
    update(SESSIONS).where(SESSIONS.c.id == _OF, SESSIONS.c.ended_at.is_(None)).values(running=bindparam("now"))
)
_END = Prepared(
    update(SESSIONS)
    .where(SESSIONS.c.id == _OF, SESSIONS.c.ended_at.is_(None))
    .values({name: bindparam(f"new_{name}") for name in rows.END})
)


class SqlUsers:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def get(self, user_id: str) -> User | None:
        row = self._tx.first(_USER, of=user_id)
        return rows.user_of(row) if row else None

    def by_name(self, name: str) -> User | None:
        row = self._tx.first(select(USERS).where(USERS.c.name == name))
        return rows.user_of(row) if row else None

    def upsert(self, user: User) -> None:
        """Conflict when another person has the name or the identity."""
        is_same = or_(USERS.c.name == user.name, (USERS.c.issuer == user.issuer) & (USERS.c.subject == user.subject))
        if self._tx.first(select(USERS.c.id).where(USERS.c.id != user.id, is_same)):
            raise Conflict(Refusal("user-exists", f"There is another user with the name or identity of {user.name}."))
        columns = rows.user_columns(user)
        if not self._tx.change(update(USERS).where(USERS.c.id == user.id).values(columns)):
            self._tx.insert(insert(USERS), [columns])

    def several(self, ids: Collection[str]) -> Sequence[User]:
        query = select(USERS).order_by(USERS.c.id)
        return [rows.user_of(row) for part in in_parts(ids) for row in self._tx.rows(query.where(USERS.c.id.in_(part)))]

    def regroup(self, users: Sequence[User]) -> None:
        told = [{"of": user.id, "now": sorted(user.groups)} for user in users]
        values = {"groups": bindparam("now", type_=USERS.c.groups.type)}
        self._tx.change_each(update(USERS).where(USERS.c.id == bindparam("of")).values(values), told)

    def confirm(self, user_id: str, at: datetime | None) -> None:
        self._tx.change(update(USERS).where(USERS.c.id == user_id).values(confirmed_at=at))

    def confirmed_at(self, user_id: str) -> datetime | None:
        row = self._tx.first(_USER, of=user_id)
        at: datetime | None = row[USERS.c.confirmed_at] if row else None
        return at

    def all(self) -> Sequence[User]:
        return [rows.user_of(row) for row in self._tx.rows(select(USERS).order_by(USERS.c.name))]


class SqlRequests:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def add(self, request: Request) -> None:
        self._tx.insert(insert(REQUESTS), [rows.request_columns(request)])
        self._add_approvals(request, known=0)

    def get(self, request_id: str) -> Request | None:
        row = self._tx.first(_REQUEST, of=request_id)
        if row is None:
            return None
        return rows.request_of(row, [rows.approval_of(each) for each in self._tx.rows(_APPROVALS, of=request_id)])

    def save(self, request: Request, expected: RequestState) -> bool:
        """As the port; an answer that `request` does not know of counts as somebody being faster, too."""
        c = APPROVALS.c
        mine = [a.id for a in request.approvals]
        unseen = exists().where(c.request == request.id, c.id.not_in(mine))
        is_as_expected = (REQUESTS.c.id == request.id) & (REQUESTS.c.state == expected.value) & ~unseen
        if not self._tx.change(update(REQUESTS).where(is_as_expected).values(state=request.state.value)):
            return False
        self._add_approvals(request, known=len(self._approvals([request.id])))
        return True

    def list(self, *, requester: str = "", state: RequestState | None = None, limit: int = 200) -> Sequence[Request]:
        c = REQUESTS.c
        query = select(REQUESTS).order_by(c.created_at.desc(), c.id.desc()).limit(limit)
        if requester:
            query = query.where(c.requester == requester)
        if state is not None:
            query = query.where(c.state == state.value)
        return self._load(query)

    def _load(self, query: Select[Any]) -> Sequence[Request]:
        found = self._tx.rows(query)
        approvals = self._approvals([row[REQUESTS.c.id] for row in found])
        by_request = {key: list(group) for key, group in groupby(approvals, lambda a: a.request)}
        return [rows.request_of(row, by_request.get(row[REQUESTS.c.id], ())) for row in found]

    def _approvals(self, request_ids: Iterable[str]) -> Sequence[Approval]:
        c = APPROVALS.c
        ids = list(request_ids)
        query = select(APPROVALS).where(c.request.in_(ids)).order_by(c.request, c.place)
        return [rows.approval_of(row) for row in self._tx.rows(query)] if ids else []

    def _add_approvals(self, request: Request, known: int) -> None:
        new = [rows.approval_columns(a, place) for place, a in enumerate(request.approvals) if place >= known]
        self._tx.insert(insert(APPROVALS), new)


class SqlGrants:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def add(self, grant: Grant) -> None:
        self._tx.insert(insert(GRANTS), [rows.grant_columns(grant)])

    def get(self, grant_id: str) -> Grant | None:
        row = self._tx.first(_GRANT, of=grant_id)
        return rows.grant_of(row) if row else None

    def in_use(self, grant_id: str) -> GrantInUse | None:
        row = self._tx.first(_IN_USE, of=grant_id)
        if row is None:
            return None
        return GrantInUse(rows.grant_of(row), rows.user_of(row), row[REQUESTS.c.facts], row[REQUESTS.c.created_at])

    def save(self, grant: Grant) -> bool:
        if grant.revoked_at is None:
            raise ValueError("only a revocation changes a grant")
        is_not_revoked = (GRANTS.c.id == grant.id) & GRANTS.c.revoked_at.is_(None)
        return self._tx.change(update(GRANTS).where(is_not_revoked).values(rows.revocation_columns(grant))) == 1

    def extend(self, grant: Grant, was: datetime) -> bool:
        c, until = GRANTS.c, grant.window.not_after
        is_as_read = (c.id == grant.id) & (c.not_after == was) & c.revoked_at.is_(None)
        if not self._tx.change(update(GRANTS).where(is_as_read).values(not_after=until)):
            return False
        is_live = (SESSIONS.c.grant == grant.id) & SESSIONS.c.ended_at.is_(None)
        self._tx.change(update(SESSIONS).where(is_live).values(deadline=until))
        return True

    def list(
        self,
        *,
        holder: str = "",
        target: str = "",
        active_at: datetime | None = None,
        unfinished_at: datetime | None = None,
        limit: int = 200,
    ) -> Sequence[Grant]:
        c = GRANTS.c
        query = select(GRANTS).order_by(c.not_before.desc(), c.id.desc()).limit(limit)
        if holder:
            query = query.where(c.holder == holder)
        if target:
            query = query.where(c.target == target)
        if active_at is not None:
            query = query.where(c.not_before <= active_at, c.not_after > active_at, c.revoked_at.is_(None))
        if unfinished_at is not None:
            query = query.where(c.not_after > unfinished_at, c.revoked_at.is_(None))
        return [rows.grant_of(row) for row in self._tx.rows(query)]


class SqlReviews:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def add(self, review: Review) -> None:
        self._tx.insert(insert(REVIEWS), [rows.review_columns(review)])

    def get(self, review_id: str) -> Review | None:
        row = self._tx.first(select(REVIEWS).where(REVIEWS.c.id == review_id))
        return rows.review_of(row) if row else None

    def by_grant(self, grant_id: str) -> Review | None:
        row = self._tx.first(select(REVIEWS).where(REVIEWS.c.grant == grant_id))
        return rows.review_of(row) if row else None

    def save(self, review: Review) -> bool:
        if review.is_open():
            raise ValueError("only a signature changes a review")
        is_unsigned = (REVIEWS.c.id == review.id) & REVIEWS.c.signed_at.is_(None)
        return self._tx.change(update(REVIEWS).where(is_unsigned).values(rows.signature_columns(review))) == 1

    def open(self) -> Sequence[Review]:
        """The one that is due first comes first."""
        query = select(REVIEWS).where(REVIEWS.c.signed_at.is_(None)).order_by(REVIEWS.c.due_at, REVIEWS.c.id)
        return [rows.review_of(row) for row in self._tx.rows(query)]


_LIVE = SESSIONS.join(GRANTS, GRANTS.c.id == SESSIONS.c.grant).join(USERS, USERS.c.id == SESSIONS.c.holder)
# Of a live view; everything else in it is written once, or says nothing about the right to go on (`active_at`).
_MAY_CHANGE = (
    SESSIONS.c.deadline, SESSIONS.c.kill_requested_by, SESSIONS.c.locked_by, SESSIONS.c.cancel,
    GRANTS.c.not_after, GRANTS.c.revoked_at, GRANTS.c.revoke_reason,
    USERS.c.name, USERS.c.email, USERS.c.groups, USERS.c.disabled_at,
)  # fmt: skip


class SqlSessions:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def add(self, session: Session) -> None:
        self._tx.insert(_ADD_SESSION, [rows.session_columns(session)])

    def get(self, session_id: str) -> Session | None:
        row = self._tx.first(_SESSION, of=session_id)
        return rows.session_of(row) if row else None

    def save(self, session: Session) -> bool:
        if session.is_live():
            raise ValueError("only an end changes a session")
        new = {f"new_{name}": value for name, value in rows.end_columns(session).items()}
        return self._tx.change(_END, of=session.id, **new) == 1

    def request_kill(self, session_id: str, by: str) -> bool:
        if not by:
            raise ValueError("a kill needs somebody who asked for it")
        c = SESSIONS.c
        is_unmarked = (c.id == session_id) & c.ended_at.is_(None) & (c.kill_requested_by == "")
        return self._tx.change(update(SESSIONS).where(is_unmarked).values(kill_requested_by=by)) == 1

    def lock(self, session_id: str, by: str) -> bool:
        c = SESSIONS.c
        is_other = c.locked_by == "" if by else c.locked_by != ""
        query = update(SESSIONS).where(c.id == session_id, c.ended_at.is_(None), is_other).values(locked_by=by)
        return self._tx.change(query) == 1

    def request_cancel(self, session_id: str, wish: Cancel) -> bool:
        c = SESSIONS.c
        query = update(SESSIONS).where(c.id == session_id, c.ended_at.is_(None)).values(cancel=asdict(wish))
        return self._tx.change(query) == 1

    def show_running(self, running: Mapping[str, Running | None]) -> None:
        told = [{"of": each, "now": rows.running_columns(now)} for each, now in running.items()]
        self._tx.change_each(_SHOW_RUNNING, told)

    def touch(self, session_ids: Collection[str], at: datetime) -> None:
        self._tx.change_each(_TOUCH, [{"of": each, "now": at} for each in session_ids])

    def list(
        self, *, live: bool | None = None, holder: str = "", target: str = "", grant: str = "", limit: int = 200
    ) -> Sequence[Session]:
        c = SESSIONS.c
        query = select(SESSIONS).order_by(c.started_at.desc(), c.id.desc()).limit(limit)
        if live is not None:
            query = query.where(c.ended_at.is_(None) if live else c.ended_at.is_not(None))
        for column, wanted in ((c.holder, holder), (c.target, target), (c.grant, grant)):
            if wanted:
                query = query.where(column == wanted)
        return [rows.session_of(row) for row in self._tx.rows(query)]

    def live_marks(self, gateway: str) -> Mapping[str, tuple[Any, ...]]:
        """One query: it is asked four times a second, for up to a thousand sessions. As stored, but not decoded."""
        query = select(SESSIONS.c.id, *(type_coerce(column, NullType()) for column in _MAY_CHANGE))
        query = query.select_from(_LIVE).where(SESSIONS.c.gateway == gateway, SESSIONS.c.ended_at.is_(None))
        return {row[0]: tuple(row[1:]) for row in self._tx.tuples(query)}

    def live_views(self, gateway: str, only: Collection[str] | None = None) -> Sequence[LiveView]:
        """One query."""
        c = SESSIONS.c
        query = select(SESSIONS, GRANTS, USERS).select_from(_LIVE).where(c.gateway == gateway, c.ended_at.is_(None))
        if only is not None:
            query = query.where(c.id.in_(only))
        grants: dict[str, Grant] = {}  # hundreds of sessions may share one, and reading it is most of the work
        views = []
        for row in self._tx.rows(query):
            session = rows.session_of(row)
            grant = grants.get(session.grant) or grants.setdefault(session.grant, rows.grant_of(row))
            views.append(LiveView(session, grant, rows.user_of(row)))
        return views
