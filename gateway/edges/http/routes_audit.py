"""The audit log and what was said in sessions, for those who may see them. Who looks is in the log first."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse, Response
from pydantic import AwareDatetime

from gateway.app.inspect_log import checkpoint, event_filter, receipt, search_events, show_event, tile, to_json
from gateway.app.search_statements import search_statements
from gateway.core.errors import Refusal, Unavailable
from gateway.core.statement_facts import StatementKind
from gateway.edges.http.deps import Caller, Ctx, LogReader, Wired
from gateway.edges.http.schemas import problems
from gateway.edges.http.schemas_audit import EventOut, StatementOut, StatementsOut

router = APIRouter(prefix="/api", tags=["audit"])
Text = Annotated[str, Query(max_length=200)]
Instant = Annotated[AwareDatetime | None, Query(description="ISO 8601 with an offset.")]
MOST_NAMED = 100  # of the sessions that cannot be searched yet
Limit = Annotated[int, Query(ge=1, le=1000)]
_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}
_BYTES: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": {}}}}


@router.get("/audit/events", responses=problems(403, 422))
def search(
    ctx: Ctx,
    user: LogReader,
    target: Text = "",
    principal: Text = "",
    type: Text = "",
    session: Text = "",
    grant: Text = "",
    request: Text = "",
    text: Text = "",
    since: Instant = None,
    until: Instant = None,
    limit: Limit = 100,
) -> list[EventOut]:
    """Events, newest first."""
    asked = event_filter(
        target=target,
        principal=principal,
        type=type,
        session=session,
        grant=grant,
        request=request,
        text=text,
        since=since,
        until=until,
        limit=limit,
    )
    return [EventOut.model_validate(to_json(stored)) for stored in search_events(ctx, user, asked)]


@router.get("/audit/events/{event_id}", responses=problems(403, 404))
def show(ctx: Ctx, user: LogReader, event_id: str) -> EventOut:
    """One event in full."""
    return EventOut.model_validate(to_json(show_event(ctx, user, event_id)))


@router.get("/audit/events/{event_id}/receipt", response_class=PlainTextResponse, responses=_TEXT | problems(403, 404))
def one_receipt(ctx: Ctx, user: LogReader, event_id: str) -> str:
    """A C2SP tlog-proof that the event is in the log: for auditors, and for whom the event is about."""
    return receipt(ctx, user, event_id)


@router.get("/log/checkpoint", response_class=PlainTextResponse, responses=_TEXT | problems(403))
def newest_checkpoint(ctx: Ctx, user: LogReader) -> str:
    """The newest signed checkpoint (C2SP tlog-checkpoint)."""
    return checkpoint(ctx, user)


@router.get("/log/key", response_class=PlainTextResponse, responses=_TEXT)
def key(wired: Wired) -> str:
    """The log's verifier key, to compare with the one you pinned. From here alone it proves nothing."""
    return wired.doors.audit_key + "\n"


@router.get("/log/tile/{path:path}", response_class=Response, responses=_BYTES | problems(403, 404))
def one_tile(ctx: Ctx, user: LogReader, path: str) -> Response:
    """A tile of hashes or a bundle of entries (C2SP tlog-tiles)."""
    return Response(tile(ctx, user, f"tile/{path}"), media_type="application/octet-stream")


@router.get("/statements", responses=problems(403, 422))
def statements(
    ctx: Ctx,
    wired: Wired,
    user: Caller,
    text: Annotated[str, Query(max_length=1000)] = "",
    target: Text = "",
    principal: Text = "",
    session: Text = "",
    since: Instant = None,
    limit: Limit = 100,
    kind: StatementKind | Literal[""] = "",
    fingerprint: Annotated[str, Query(pattern="^([0-9a-f]{16})?$")] = "",
) -> StatementsOut:
    """Statements of database sessions, newest first. `incomplete` names sessions whose index is still behind.

    A new index is behind with all of them, so that only some are named; `incomplete_count` is how many there are.
    """
    if wired.statements is None:
        raise Unavailable(Refusal("no-index", "This gateway process keeps no index of statements."))
    found = search_statements(
        ctx,
        wired.statements,
        user,
        text=text,
        target=target,
        principal=principal,
        session=session,
        since=since,
        limit=limit,
        kind=str(kind),
        fingerprint=fingerprint,
    )
    return StatementsOut(
        statements=[StatementOut.of(each) for each in found.statements],
        incomplete=sorted(found.incomplete)[:MOST_NAMED],
        incomplete_count=len(found.incomplete),
    )
