"""One request, grant or session by id, for those whom it concerns. To everybody else it does not exist (no oracle)."""

from gateway.app.approve_request import pending_for
from gateway.app.context import Context
from gateway.app.list_access import sees
from gateway.core.errors import NotFound, Refusal
from gateway.core.grant import Grant
from gateway.core.principal import User
from gateway.core.request import Request
from gateway.core.session import Session


def show_request(ctx: Context, user: User, request_id: str) -> Request:
    """One's own request, one that waits for one's answer, or any where one may watch; else NotFound."""
    with ctx.store.read() as uow:
        request = uow.requests.get(request_id)
    if request is None or not (
        sees(ctx, user, request.requester, request.target, request.level)
        or any(a.approver == user.id for a in request.approvals)
        or any(r.id == request_id for r in pending_for(ctx, user))
    ):
        raise NotFound(Refusal("unknown-request", "There is no such request.", (), ("gw requests lists yours.",)))
    return request


def show_grant(ctx: Context, user: User, grant_id: str) -> Grant:
    """One's own grant, or any where one may watch; else NotFound."""
    with ctx.store.read() as uow:
        grant = uow.grants.get(grant_id)
    if grant is None or not sees(ctx, user, grant.holder, grant.target, grant.level):
        raise NotFound(Refusal("unknown-grant", "There is no such grant.", (), ("gw grants lists yours.",)))
    return grant


def show_session(ctx: Context, user: User, session_id: str) -> Session:
    """One's own session, or any where one may watch; else NotFound."""
    with ctx.store.read() as uow:
        session = uow.sessions.get(session_id)
    if session is None or not sees(ctx, user, session.holder, session.target, session.level):
        raise NotFound(Refusal("unknown-session", "There is no such session.", (), ("gw sessions lists yours.",)))
    return session


def names_of(ctx: Context, user_ids: frozenset[str]) -> dict[str, str]:
    """User names by id, for showing."""
    with ctx.store.read() as uow:
        found = {user_id: uow.users.get(user_id) for user_id in user_ids}
    return {user_id: user.name for user_id, user in found.items() if user is not None}
