"""Where one is signed in: listed, renewed, ended one by one."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from gateway.app.authenticate import bearer_of
from gateway.app.list_sign_ins import SignInView, list_sign_ins, revoke_sign_in
from gateway.app.rotate_sign_in import rotate
from gateway.app.sign_ins import login_id
from gateway.core.device_proof import LONGEST_PROOF
from gateway.edges.http.deps import Caller, Ctx, Session, Token, Wired
from gateway.edges.http.same_site import form_sender
from gateway.edges.http.schemas import Schema, problems

router = APIRouter()


class SignInOut(Schema):
    """One sign-in; `current` is the one that asks."""

    id: str
    kind: str
    since: datetime
    seen_at: datetime
    expires_at: datetime
    client: str
    agent: str
    current: bool

    @classmethod
    def of(cls, view: SignInView, current: str) -> "SignInOut":
        """Rendered."""
        return cls(
            id=view.id,
            kind=view.kind,
            since=view.since,
            seen_at=view.seen_at,
            expires_at=view.expires_at,
            client=view.client,
            agent=view.agent,
            current=view.id == current,
        )


class RotatedOut(Schema):
    """A new secret for the same sign-in."""

    access_token: str
    expires_at: datetime


@router.get("/api/logins", tags=["sign-in"], responses=problems())
def logins(ctx: Ctx, user: Caller, token: Token) -> list[SignInOut]:
    """One's own sign-ins, the newest first."""
    current = login_id(bearer_of(ctx, token)[0])
    return [SignInOut.of(view, current) for view in list_sign_ins(ctx, user)]


@router.post("/api/logins/{id}/revoke", status_code=204, tags=["sign-in"], responses=problems(404))
def revoke(ctx: Ctx, user: Caller, id: str) -> None:
    """End one of one's own sign-ins."""
    revoke_sign_in(ctx, user, id)


@router.post("/api/token/rotate", tags=["sign-in"], responses=problems())
def rotate_token(ctx: Ctx, token: Token) -> RotatedOut:
    """A new secret for this sign-in; the old one is good for a minute more."""
    renewed = rotate(ctx, *bearer_of(ctx, token))
    return RotatedOut(access_token=renewed.secret, expires_at=renewed.expires_at)


@router.post("/logins/revoke", include_in_schema=False)
def revoke_in_browser(
    ctx: Ctx,
    wired: Wired,
    request: Request,
    session: Session,
    id: Annotated[str, Form(max_length=64)],
    csrf: Annotated[str, Form(max_length=256)] = "",
    proof: Annotated[str, Form(max_length=LONGEST_PROOF)] = "",
) -> Response:
    """The same, from the page that lists them."""
    user = form_sender(wired, request, session, csrf, proof)
    revoke_sign_in(ctx, user, id)
    return RedirectResponse("/", HTTPStatus.SEE_OTHER)
