"""Answering with a passkey for a terminal: a step-up, or coming in while the identity provider is down."""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response

from gateway.app.emergency import begin_emergency, find_emergency, finish_emergency
from gateway.app.step_up import begin_proof, deny_step_up, find_step_up, finish_proof, start_step_up, step_up_state
from gateway.edges.http.deps import Agent, Caller, Client, Ctx, Token, Wired
from gateway.edges.http.same_site import demand_origin
from gateway.edges.http.schemas import problems
from gateway.edges.http.schemas_passkeys import AnswerIn, CodeIn, Options, StateOut, StepUpOut
from gateway.edges.web import passkey_pages

router = APIRouter()
_CODE = Query(max_length=64)


# ---------------------------------------------------------------- step-up


@router.post("/api/step-up", status_code=201, tags=["passkeys"], responses=problems(403, 429))
def start(ctx: Ctx, wired: Wired, user: Caller, token: Token, client: Client, agent: Agent) -> StepUpOut:
    """Ask the person behind this token to answer with a passkey, in any browser."""
    begun = start_step_up(ctx, user, token, client, agent)
    return StepUpOut(
        code=begun.code,
        page=f"{wired.public_url}/step-up?code={begun.code}",
        expires_in=int((begun.expires_at - ctx.clock.now()).total_seconds()),
        interval=int(begun.interval.total_seconds()),
    )


@router.get("/api/step-up/{code}", tags=["passkeys"], responses=problems(404))
def state(ctx: Ctx, user: Caller, code: str) -> StateOut:
    """How far it is."""
    return StateOut(state=step_up_state(ctx, user, code).value)


@router.get("/step-up", include_in_schema=False)
def page(ctx: Ctx, request: Request, client: Client, code: Annotated[str, _CODE] = "") -> Response:
    """Who and which terminal asks; the browser needs no sign-in, because the passkey says who it is."""
    return passkey_pages.step_up_page(request, find_step_up(ctx, code, client) if code else None)


@router.post("/step-up", include_in_schema=False)
def deny(
    ctx: Ctx, wired: Wired, request: Request, client: Client, code: Annotated[str, Form(max_length=64)]
) -> Response:
    """No, that is not my terminal."""
    demand_origin(wired, request)
    deny_step_up(ctx, code, client)
    return passkey_pages.denied_page(request)


@router.post("/api/step-up/begin", tags=["passkeys"], responses=problems(403, 404, 422, 429))
def begin(ctx: Ctx, wired: Wired, request: Request, client: Client, body: CodeIn) -> Options:
    """What the page gives to the authenticator. Public: the answer says who it is."""
    demand_origin(wired, request)
    return begin_proof(ctx, wired.relying_party(), body.code, client)


@router.post("/api/step-up/finish", status_code=204, tags=["passkeys"], responses=problems(403, 404, 409, 422, 429))
def finish(ctx: Ctx, wired: Wired, request: Request, client: Client, body: AnswerIn) -> None:
    """The terminal's sign-in has proved now that its person is there. Public, as above."""
    demand_origin(wired, request)
    finish_proof(ctx, wired.relying_party(), body.code, client, body.credential, knows_place=body.elsewhere)


# ---------------------------------------------------------------- the identity provider is down


@router.get("/emergency", include_in_schema=False)
def emergency(ctx: Ctx, request: Request, client: Client, user_code: Annotated[str, _CODE] = "") -> Response:
    """Come in by passkey, to break the glass."""
    return passkey_pages.emergency_page(request, find_emergency(ctx, user_code, client) if user_code else None)


@router.post("/api/emergency/begin", tags=["passkeys"], responses=problems(403, 404, 422, 429))
def begin_coming_in(ctx: Ctx, wired: Wired, request: Request, client: Client, body: CodeIn) -> Options:
    """What the page gives to the authenticator, if an identity provider does not answer. Public, as above."""
    demand_origin(wired, request)
    return begin_emergency(ctx, wired.relying_party(), wired.providers, body.code, client)


@router.post("/api/emergency/finish", status_code=204, tags=["passkeys"], responses=problems(403, 404, 409, 422, 429))
def finish_coming_in(ctx: Ctx, wired: Wired, request: Request, client: Client, body: AnswerIn) -> None:
    """Let the terminal break the glass in the name of whose passkey answers. Public, as above."""
    demand_origin(wired, request)
    party, knows = wired.relying_party(), body.elsewhere
    finish_emergency(ctx, party, wired.providers, body.code, client, body.credential, knows_place=knows)
