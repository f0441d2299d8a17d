"""Passkeys: the page on which a person adds and removes theirs, and the list for the command line."""

from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from gateway.app.browser_session import authenticate_page
from gateway.app.identity import NotSignedIn
from gateway.app.passkeys import (
    begin_registration,
    begin_unlock,
    finish_registration,
    finish_unlock,
    is_fresh,
    passkeys_of,
    remove_passkey,
)
from gateway.core.device_proof import LONGEST_PROOF
from gateway.edges.http.deps import BROWSER, Caller, Ctx, Session, Wired
from gateway.edges.http.same_site import form_sender
from gateway.edges.http.schemas import problems
from gateway.edges.http.schemas_passkeys import CsrfIn, Options, PasskeyOut, PasskeysOut, RegistrationIn, UnlockIn
from gateway.edges.web import passkey_pages

router = APIRouter()
_PAGE = "/passkeys"


@router.get(_PAGE, include_in_schema=False)
def page(ctx: Ctx, request: Request, session: Session) -> Response:
    """One's passkeys; adding one takes a sign-in that is fresh."""
    try:
        user = authenticate_page(ctx, session)
    except NotSignedIn:
        return RedirectResponse(f"/login?{urlencode({'next': _PAGE})}", HTTPStatus.SEE_OTHER)
    fresh = is_fresh(user, ctx.clock.now())
    return passkey_pages.passkeys_page(request, user, session, passkeys_of(ctx, user), is_fresh=fresh)


@router.post("/passkeys/remove", include_in_schema=False)
def remove_here(
    ctx: Ctx,
    wired: Wired,
    request: Request,
    session: Session,
    passkey: Annotated[str, Form(max_length=2048)],
    csrf: Annotated[str, Form(max_length=256)] = "",
    proof: Annotated[str, Form(max_length=LONGEST_PROOF)] = "",
) -> Response:
    """Forget one."""
    user = form_sender(wired, request, session, csrf, proof)
    remove_passkey(ctx, user, passkey)
    return RedirectResponse(_PAGE, HTTPStatus.SEE_OTHER)


@router.get("/api/passkeys", tags=["passkeys"], responses=problems())
def list_passkeys(ctx: Ctx, wired: Wired, user: Caller) -> PasskeysOut:
    """Your passkeys, oldest first."""
    found = [PasskeyOut.of(passkey) for passkey in passkeys_of(ctx, user)]
    return PasskeysOut(passkeys=found, page=f"{wired.public_url}{_PAGE}")


@router.post("/api/passkeys/{passkey_id}/remove", tags=["passkeys"], responses=problems(403, 404, 409))
def remove(ctx: Ctx, user: Caller, passkey_id: str) -> PasskeyOut:
    """Forget one of yours; takes a proof of who you are that is not older than ten minutes."""
    return PasskeyOut.of(remove_passkey(ctx, user, passkey_id))


# ---------------------------------------------------------------- what the page's script calls, by cookie


@router.post("/api/passkeys/begin", tags=["passkeys"], dependencies=[BROWSER], responses=problems(403, 409, 422))
def begin(ctx: Ctx, wired: Wired, request: Request, session: Session, body: CsrfIn) -> Options:
    """What the page gives to the authenticator to make a passkey. By the page's cookie."""
    user = form_sender(wired, request, session, body.csrf)
    return begin_registration(ctx, wired.relying_party(), user)


@router.post(
    "/api/passkeys/finish",
    status_code=201,
    tags=["passkeys"],
    dependencies=[BROWSER],
    responses=problems(403, 409, 422),
)
def finish(ctx: Ctx, wired: Wired, request: Request, session: Session, body: RegistrationIn) -> PasskeyOut:
    """Keep the passkey that the authenticator made. By the page's cookie."""
    user = form_sender(wired, request, session, body.csrf)
    return PasskeyOut.of(finish_registration(ctx, wired.relying_party(), user, body.name, body.credential))


@router.post("/api/passkeys/unlock/begin", tags=["passkeys"], dependencies=[BROWSER], responses=problems(403, 422))
def begin_unlocking(ctx: Ctx, wired: Wired, request: Request, session: Session, body: CsrfIn) -> Options:
    """What the page gives to the authenticator to prove a browser session. By the page's cookie."""
    user = form_sender(wired, request, session, body.csrf)
    return begin_unlock(ctx, wired.relying_party(), user)


@router.post(
    "/api/passkeys/unlock/finish",
    status_code=204,
    tags=["passkeys"],
    dependencies=[BROWSER],
    responses=problems(403, 422),
)
def finish_unlocking(ctx: Ctx, wired: Wired, request: Request, session: Session, body: UnlockIn) -> None:
    """The browser session has proved now who it is. By the page's cookie."""
    user = form_sender(wired, request, session, body.csrf)
    finish_unlock(ctx, wired.relying_party(), user, session, body.credential)
