"""Sessions: who is connected where, ending one, and reading what was recorded."""

from typing import Annotated

from fastapi import APIRouter, Query

from gateway.app import list_access
from gateway.app.kill_session import kill_session
from gateway.app.show_access import show_session
from gateway.edges.http.deps import Caller, Ctx
from gateway.edges.http.schemas import ReasonIn, SessionOut, problems

router = APIRouter(prefix="/api/sessions", tags=["sessions"])


@router.get("", responses=problems())
def list_sessions(
    ctx: Ctx,
    user: Caller,
    everybody: Annotated[bool, Query(alias="all", description="Everybody's, for those who may see the log.")] = False,
    live: Annotated[bool | None, Query(description="Only live (true) or only ended (false) ones.")] = None,
) -> list[SessionOut]:
    """Your sessions, newest first."""
    return [SessionOut.of(session) for session in list_access.sessions(ctx, user, all=everybody, live=live)]


@router.get("/{session_id}", responses=problems(404))
def one_session(ctx: Ctx, user: Caller, session_id: str) -> SessionOut:
    """One session."""
    return SessionOut.of(show_session(ctx, user, session_id))


@router.post("/{session_id}/kill", status_code=202, responses=problems(403, 404, 409, 422))
def kill(ctx: Ctx, user: Caller, session_id: str, body: ReasonIn) -> SessionOut:
    """End a live session within a second; its grant stays as it is."""
    return SessionOut.of(kill_session(ctx, user, session_id, body.reason))
