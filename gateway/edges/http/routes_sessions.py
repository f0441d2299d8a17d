"""Sessions: who is connected where, ending one, and reading what was recorded."""

from collections.abc import Iterable
from datetime import UTC
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from starlette.responses import Response

from gateway.app import list_access
from gateway.app.authenticate import authenticate
from gateway.app.cancel_statement import cancel_statement
from gateway.app.confirm_commit import answer_held, show_held
from gateway.app.kill_session import kill_session
from gateway.app.lock_session import lock_session
from gateway.app.replay_session import replay, use_proof, watch
from gateway.app.running_statements import shown_statements
from gateway.app.show_access import show_session
from gateway.app.shred_session import shred_session
from gateway.audit.recording_json import Announced, to_json_lines
from gateway.core.held_commit import HeldState
from gateway.core.session import Protocol
from gateway.edges.cli.playback import cast_lines, left_out, transcript
from gateway.edges.http.deps import AccessReader, Caller, Ctx, Token, Viewer, Wired
from gateway.edges.http.schemas import ReasonIn, problems
from gateway.edges.http.schemas_sessions import AnswerIn, CancelIn, HeldOut, SessionOut, ShreddedOut
from gateway.edges.web import player, session_pages

MOST_CHARACTERS = 1_000_000  # of a recording on a page
MOST_EVIDENCE = 1000  # of what the log saw while a session ran, the newest: it only narrows down where an edit begins
MOST_SESSIONS = 200  # on a page, the newest
router = APIRouter(prefix="/api/sessions", tags=["sessions"])
pages = APIRouter()


@router.get("", responses=problems())
def list_sessions(
    ctx: Ctx,
    user: AccessReader,
    everybody: Annotated[bool, Query(alias="all", description="Also others', where you may watch.")] = False,
    live: Annotated[bool | None, Query(description="Only live (true) or only ended (false) ones.")] = None,
) -> list[SessionOut]:
    """Your sessions, newest first; to a machine with `access:read`, everybody's.

    With what their databases work on. That you looked at the statements of others is in the log.
    """
    found = list_access.sessions(ctx, user, all=everybody, live=live)
    shown = shown_statements(ctx, user, found)
    return [SessionOut.of(session, shown.get(session.id)) for session in found]


@router.get("/{session_id}", responses=problems(404))
def one_session(ctx: Ctx, user: Caller, session_id: str) -> SessionOut:
    """One session."""
    session = show_session(ctx, user, session_id)
    return SessionOut.of(session, shown_statements(ctx, user, [session]).get(session_id))


@router.post("/{session_id}/kill", status_code=202, responses=problems(403, 404, 409, 422))
def kill(ctx: Ctx, user: Caller, session_id: str, body: ReasonIn) -> SessionOut:
    """End a live session within a second; its grant stays as it is."""
    return SessionOut.of(kill_session(ctx, user, session_id, body.reason))


@router.post("/{session_id}/cancel", status_code=202, responses=problems(403, 404, 409, 422))
def cancel(ctx: Ctx, user: Caller, session_id: str, body: CancelIn) -> SessionOut:
    """Cancel the statement that a live database session runs; the session goes on."""
    return SessionOut.of(cancel_statement(ctx, user, session_id, n=body.statement, reason=body.reason))


@router.get("/{session_id}/commit", responses=problems(403, 404))
def held_commit(ctx: Ctx, user: Caller, session_id: str) -> HeldOut:
    """What a session has written whose COMMIT is held. That you looked at the session of another is in the log."""
    return HeldOut.of(show_held(ctx, user, session_id))


@router.post("/{session_id}/commit", responses=problems(403, 404, 409, 422))
def answer_commit(ctx: Ctx, user: Caller, session_id: str, body: AnswerIn) -> HeldOut:
    """Say yes or no to a COMMIT that is held, in the state that `mark` stands for. After a yes COMMIT goes through."""
    state = HeldState.CONFIRMED if body.verdict == "confirm" else HeldState.REFUSED
    return HeldOut.of(answer_held(ctx, user, session_id, body.mark, state, body.reason))


@router.post("/{session_id}/lock", responses=problems(403, 404, 409, 422))
def lock(ctx: Ctx, user: Caller, session_id: str, body: ReasonIn) -> SessionOut:
    """Hold back what the person types in a live SSH session; the output goes on."""
    return SessionOut.of(lock_session(ctx, user, session_id, locked=True, reason=body.reason))


@router.post("/{session_id}/unlock", responses=problems(403, 404, 409, 422))
def unlock(ctx: Ctx, user: Caller, session_id: str, body: ReasonIn) -> SessionOut:
    """Let the person type again."""
    return SessionOut.of(lock_session(ctx, user, session_id, locked=False, reason=body.reason))


@router.post("/{session_id}/shred", responses=problems(403, 404, 409, 422))
def shred(ctx: Ctx, user: Caller, session_id: str, body: ReasonIn) -> ShreddedOut:
    """Destroy the recording of a session that is over, for good. The order is in the log before, and stays there."""
    return ShreddedOut(session=session_id, order=shred_session(ctx, user, session_id, body.reason))


@router.get(
    "/{session_id}/recording",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-ndjson": {}}}, **problems(403, 404, 409)},
)
def recording(ctx: Ctx, user: Caller, session_id: str) -> StreamingResponse:
    """A verified recording as JSON lines: an announcement, then one line per frame. That you looked is in the log."""
    found = replay(ctx, user, session_id)
    newest = found.evidence[-MOST_EVIDENCE:]
    announced = Announced(
        session_id, found.session.protocol.value, found.count, found.digest, newest, found.is_complete
    )
    return StreamingResponse(to_json_lines(announced, found.frames()), media_type="application/x-ndjson")


@router.get(
    "/{session_id}/cast",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-asciicast": {}}}, **problems(403, 404, 409)},
)
def cast(ctx: Ctx, user: Viewer, session_id: str) -> StreamingResponse:
    """A terminal session as an asciicast file, for the player. That you looked is in the log."""
    lines = cast_lines(replay(ctx, user, session_id).frames())
    return StreamingResponse((f"{line}\n".encode() for line in lines), media_type="application/x-asciicast")


@pages.get("/sessions", include_in_schema=False)
def live_sessions(request: Request, ctx: Ctx, user: Viewer) -> Response:
    """The live sessions in a page, as `list_sessions` tells them."""
    live = list_access.sessions(ctx, user, all=True, live=True)
    found = live[:MOST_SESSIONS]
    shown = shown_statements(ctx, user, found)
    return session_pages.sessions_page(request, user, ctx.clock.now(), found, shown, is_cut=len(live) > len(found))


@pages.get("/sessions/{session_id}/replay", include_in_schema=False)
def replay_in_browser(ctx: Ctx, user: Viewer, session_id: str) -> Response:
    """The recording in a page: terminals in the player, everything else as a transcript."""
    found = replay(ctx, user, session_id, spends=False)
    is_terminal = found.session.protocol is Protocol.SSH and next(cast_lines(found.frames()), None) is not None
    if not is_terminal:  # else the page holds nothing of it, and the player asks for `cast`
        use_proof(ctx, user, found.session)
    lines = None if is_terminal else _first_lines(transcript(found.frames(), UTC), session_id)
    page = player.replay_page(found, user.name, lines, left_out(found.frames()) if is_terminal else "")
    return HTMLResponse(page, headers={"content-security-policy": player.CSP})


def _first_lines(lines: Iterable[str], session_id: str) -> list[str]:
    """As many as a page holds: a line may be a statement of a megabyte."""
    shown: list[str] = []
    room = MOST_CHARACTERS
    for line in islice(lines, player.MOST_LINES + 1):
        if len(line) > room:
            return [*shown, line[:room], f"… there is more: gw session replay {session_id}"]
        shown.append(line)
        room -= len(line)
    return shown


@router.get(
    "/{session_id}/watch",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **problems(403, 404, 409, 429)},
)
def watch_session(ctx: Ctx, wired: Wired, user: Caller, token: Token, session_id: str) -> StreamingResponse:
    """A live session as server-sent events, one frame each. That you look is in the log.

    `event: end` comes after the last one, `event: denied` when the right to watch or the sign-in ends
    before that.
    """
    return wired.views.open(user.id, lambda: watch(ctx, user, session_id, lambda: authenticate(ctx, token)))
