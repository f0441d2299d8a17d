"""Signing in: the browser at the identity provider, the CLI by the device flow, and who may come in at all."""

from http import HTTPStatus
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.responses import Response

from gateway.app.authenticate import sign_out
from gateway.app.browser_session import authenticate_page, end_browser_session, prove_browser, provider_session_of
from gateway.app.device_flow import NotYet, confirm_device, deny_device, find_device, poll_device, start_device
from gateway.app.emergency_credential import EMERGENCY_PREFIX, end_emergency
from gateway.app.identity import NotSignedIn
from gateway.app.list_sign_ins import list_sign_ins
from gateway.app.passkeys import is_fresh
from gateway.app.provider_logout import provider_logout
from gateway.app.providers import FIRST_PROVIDER
from gateway.app.shut_out import disable_user, enable_user
from gateway.app.sign_ins import Device
from gateway.app.web_login import begin_web_login, complete_web_login, local_path
from gateway.core.device_proof import LONGEST_PROOF
from gateway.core.emergency import BreakGlassOnly
from gateway.core.errors import Denied, Refusal
from gateway.edges.http.deps import (
    BROWSER,
    Agent,
    Caller,
    Client,
    Ctx,
    GlassBreaker,
    NewDevice,
    Session,
    Wired,
    Wiring,
    cookie_name,
    web_session,
)
from gateway.edges.http.problems import status_of
from gateway.edges.http.same_site import demand_form, form_sender, page_proof
from gateway.edges.http.schemas import ReasonIn, UserOut, problems
from gateway.edges.http.schemas_passkeys import CsrfIn
from gateway.edges.web import views

router = APIRouter()
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_SECRET = Query(max_length=4096)
_LOGOUT_TOKEN = 16 * 1024


# ---------------------------------------------------------------- cookies


def _set_cookie(wired: Wiring, response: Response, name: str, value: str, max_age: int) -> None:
    """Set a cookie; one with `max_age` 0 is removed."""
    response.set_cookie(
        cookie_name(wired, name),
        value,
        max_age=max_age,
        path="/",
        secure=wired.is_https(),
        httponly=True,
        samesite="lax",  # not strict: the provider's redirect back is cross-site and must bring the login cookie
    )


# ---------------------------------------------------------------- browser


@router.get("/", include_in_schema=False)
def front(ctx: Ctx, request: Request, session: Session) -> Response:
    """Who one is here, and where else."""
    try:
        user = authenticate_page(ctx, session)
    except NotSignedIn:
        return views.signed_in_page(request, None, "", ())
    return views.signed_in_page(request, user, session, list_sign_ins(ctx, user))


@router.post("/api/browser/prove", status_code=204, tags=["sign-in"], dependencies=[BROWSER], responses=problems(403))
def prove(ctx: Ctx, wired: Wired, request: Request, session: Session, client: Client, body: CsrfIn) -> Response:
    """This is the browser that signed in: a new cookie for the proof of its key (RFC 9449). By the page's cookie."""
    demand_form(wired, request, session, body.csrf)
    renewed = prove_browser(ctx, session, page_proof(wired, request, session), wired.seen, client)
    response = Response(status_code=HTTPStatus.NO_CONTENT)
    if renewed is not None:
        left = int((renewed.expires_at - ctx.clock.now()).total_seconds())
        _set_cookie(wired, response, "session", renewed.secret, left)
    return response


@router.get("/login", include_in_schema=False)
def login(
    ctx: Ctx,
    wired: Wired,
    request: Request,
    client: Client,
    next_path: Annotated[str, Query(alias="next")] = "/",
    provider: Annotated[str, Query(max_length=64)] = "",
    fresh: Annotated[str, Query(max_length=8)] = "",
) -> Response:
    """Send the browser to the identity provider; with several of them, ask which.

    With `fresh` the person is asked anew there, whatever session their browser has.
    """
    chosen = wired.providers.chosen(provider)
    if chosen is None:
        return views.choose_provider_page(request, wired.providers, local_path(next_path), fresh)
    start = begin_web_login(ctx, chosen, client, next_path, fresh=bool(fresh))
    response = RedirectResponse(start.url, HTTPStatus.SEE_OTHER)
    _set_cookie(wired, response, "login", start.secret, int((start.expires_at - ctx.clock.now()).total_seconds()))
    return response


@router.get("/callback", include_in_schema=False)
@router.get("/callback/{provider}", include_in_schema=False)
def callback(
    ctx: Ctx,
    wired: Wired,
    request: Request,
    client: Client,
    state: Annotated[str, _SECRET] = "",
    code: Annotated[str, _SECRET] = "",
    iss: Annotated[str, _SECRET] = "",
    error: Annotated[str, _SECRET] = "",
    agent: Agent = "",
) -> Response:
    """The identity provider sends the browser back here."""
    if error or not code:
        refusal = Refusal("login-refused", "The identity provider did not let you in.", (), ("Sign in again.",))
        return views.error_page(request, HTTPStatus.FORBIDDEN, refusal)
    secret = request.cookies.get(cookie_name(wired, "login"), "")
    done = complete_web_login(
        ctx,
        wired.providers.named(request.path_params.get("provider", FIRST_PROVIDER)),
        secret=secret,
        state=state,
        code=code,
        issuer=iss,
        device=Device(client, agent),
    )
    end_browser_session(ctx, web_session(request))  # whoever was signed in here before is not any more
    response = RedirectResponse(done.next, HTTPStatus.SEE_OTHER)
    _set_cookie(wired, response, "login", "", 0)
    _set_cookie(wired, response, "session", done.secret, int((done.expires_at - ctx.clock.now()).total_seconds()))
    return response


@router.post("/logout", include_in_schema=False)
def logout(
    ctx: Ctx,
    wired: Wired,
    request: Request,
    session: Session,
    csrf: Annotated[str, Form(max_length=256)] = "",
    proof: Annotated[str, Form(max_length=LONGEST_PROOF)] = "",
) -> Response:
    """End the browser's session."""
    form_sender(wired, request, session, csrf, proof)
    end_browser_session(ctx, session)
    response = RedirectResponse("/", HTTPStatus.SEE_OTHER)
    _set_cookie(wired, response, "session", "", 0)
    return response


@router.get("/device", include_in_schema=False)
def device(
    ctx: Ctx,
    request: Request,
    session: Session,
    client: Client,
    user_code: Annotated[str, Query(max_length=64)] = "",
    provider: Annotated[str, Query(max_length=64)] = "",
    fresh: Annotated[str, Query(max_length=8)] = "",
) -> Response:
    """Show which terminal asks, so that the person can tell it from a phisher's."""
    try:
        user = authenticate_page(ctx, session)
    except NotSignedIn:
        here = "/device" + (f"?{urlencode({'user_code': user_code})}" if user_code else "")
        wanted = ({"provider": provider} if provider else {}) | ({"fresh": "yes"} if fresh else {})
        return RedirectResponse(f"/login?{urlencode({'next': here, **wanted})}", HTTPStatus.SEE_OTHER)
    if fresh and not is_fresh(user, ctx.clock.now()):
        again = {"next": f"/device?{request.url.query}", "fresh": "yes"}
        return RedirectResponse(f"/login?{urlencode(again)}", HTTPStatus.SEE_OTHER)
    view = find_device(ctx, user, user_code, client) if user_code else None
    return views.device_page(request, user, session, view)


@router.post("/device", include_in_schema=False)
def answer_device(
    ctx: Ctx,
    wired: Wired,
    request: Request,
    session: Session,
    client: Client,
    user_code: Annotated[str, Form(max_length=64)],
    action: Annotated[Literal["confirm", "deny"], Form()],
    csrf: Annotated[str, Form(max_length=256)] = "",
    elsewhere: Annotated[str, Form(max_length=16)] = "",
    proof: Annotated[str, Form(max_length=LONGEST_PROOF)] = "",
) -> Response:
    """Confirm or deny the terminal."""
    user = form_sender(wired, request, session, csrf, proof)
    if action == "confirm":
        carrier = provider_session_of(ctx, session)
        confirm_device(ctx, user, user_code, client, carrier, knows_place=elsewhere == "known")
    else:
        deny_device(ctx, user, user_code, client)
    return views.device_done_page(request, user, is_confirmed=action == "confirm")


# ---------------------------------------------------------------- the CLI (RFC 8628)


@router.post("/api/device/code", tags=["sign-in"], responses=problems(403, 404, 429))
def device_code(
    ctx: Ctx,
    wired: Wired,
    client: Client,
    device: NewDevice,
    provider: Annotated[str, Form(max_length=64)] = "",
    agent: Agent = "",
) -> dict[str, str | int]:
    """Begin a device sign-in (RFC 8628 §3.1), at one of several identity providers if that is asked for.

    The device proves its key (RFC 9449 §5); the credential will be good with that key only.
    """
    if isinstance(device, Refusal):
        raise Denied(device)
    start = start_device(ctx, client, wired.providers.named(provider) if provider else None, agent, device)
    page = f"{wired.public_url}/device"
    query = {"user_code": start.user_code, **({"provider": provider} if provider else {})}
    return {
        "device_code": start.device_code,
        "user_code": start.user_code,
        "verification_uri": page,
        "verification_uri_complete": f"{page}?{urlencode(query)}",
        "passkey_uri_complete": f"{wired.public_url}/emergency?{urlencode({'user_code': start.user_code})}",
        "expires_in": int((start.expires_at - ctx.clock.now()).total_seconds()),
        "interval": int(start.interval.total_seconds()),
    }


@router.post("/api/device/token", tags=["sign-in"], responses={400: {"description": "RFC 8628 §3.5 error code."}})
def device_token(
    ctx: Ctx,
    device: NewDevice,
    grant_type: Annotated[str, Form(max_length=128)],
    code: Annotated[str, Form(alias="device_code", max_length=256)],
) -> Response:
    """The token, once, after a person confirmed the code (RFC 8628 §3.4), to the device that asked for the code."""
    if grant_type != _DEVICE_GRANT:
        return JSONResponse({"error": "unsupported_grant_type"}, HTTPStatus.BAD_REQUEST)
    if isinstance(device, Refusal):
        told = {"error_description": device.message, "detail": device.message, "next_steps": list(device.next_steps)}
        return JSONResponse({"error": NotYet.INVALID_PROOF.value, **told}, HTTPStatus.BAD_REQUEST)
    answer = poll_device(ctx, code, device)
    if isinstance(answer, NotYet):
        return JSONResponse({"error": answer.value}, HTTPStatus.BAD_REQUEST)
    return JSONResponse(
        {
            "access_token": answer.secret,
            "token_type": "DPoP",
            "expires_in": int((answer.expires_at - ctx.clock.now()).total_seconds()),
            "expires_at": answer.expires_at.isoformat(),
            "user": answer.user.name,
            "only": "break-glass" if answer.secret.startswith(EMERGENCY_PREFIX) else "",
        }
    )


@router.post("/api/backchannel-logout/{provider}", tags=["sign-in"], responses=problems(403, 404, 429))
def backchannel_logout(
    ctx: Ctx, wired: Wired, client: Client, provider: str, logout_token: Annotated[str, Form(max_length=_LOGOUT_TOKEN)]
) -> Response:
    """For identity providers: somebody signed out there (OpenID Connect Back-Channel Logout 1.0 §2.5)."""
    try:
        provider_logout(ctx, wired.providers.named(provider), logout_token, client)
    except Denied as no:
        if status_of(no) == HTTPStatus.TOO_MANY_REQUESTS:
            raise
        body = {"error": "invalid_request", "error_description": no.refusal.message}
        return JSONResponse(body, HTTPStatus.BAD_REQUEST)  # §2.8
    return Response(status_code=HTTPStatus.OK)


@router.post("/api/logout", status_code=204, tags=["sign-in"], responses=problems())
def api_logout(ctx: Ctx, who: GlassBreaker, request: Request) -> None:
    """End this token."""
    token = request.headers["authorization"].split(" ", 1)[1].strip()
    if isinstance(who, BreakGlassOnly):
        end_emergency(ctx, token)
    else:
        sign_out(ctx, token)


@router.get("/api/whoami", tags=["sign-in"], responses=problems())
def whoami(who: GlassBreaker) -> UserOut:
    """Who one is here, and what this sign-in is good for when it is not for everything."""
    if isinstance(who, BreakGlassOnly):
        return UserOut.of(who.user).model_copy(update={"only": "break-glass"})
    return UserOut.of(who)


@router.post("/api/users/{name}/disable", tags=["users"], responses=problems(403, 404, 409, 422))
def disable(ctx: Ctx, user: Caller, name: str, body: ReasonIn) -> UserOut:
    """Shut a person out: credentials gone, live sessions ended within a second."""
    return UserOut.of(disable_user(ctx, user, name, body.reason))


@router.post("/api/users/{name}/enable", tags=["users"], responses=problems(403, 404, 409))
def enable(ctx: Ctx, user: Caller, name: str) -> UserOut:
    """Let a person sign in again."""
    return UserOut.of(enable_user(ctx, user, name))
