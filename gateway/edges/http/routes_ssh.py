"""What SSH targets need of the gateway. Public facts: no sign-in."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response

from gateway.app import publish_krl
from gateway.edges.http.deps import Ctx, Wired

router = APIRouter(prefix="/api/ssh", tags=["public"])
_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}
_BYTES: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": {}}}}


@router.get("/target-ca", response_class=PlainTextResponse, responses=_TEXT)
def target_ca(ctx: Ctx) -> str:
    """The line for a target's TrustedUserCAKeys. Fetch it once, compare it with the operator's."""
    return publish_krl.target_ca(ctx) + "\n"


@router.get("/krl", response_class=Response, responses=_BYTES)
def krl(ctx: Ctx, wired: Wired) -> Response:
    """An OpenSSH revocation list of the certificates of revoked and killed sessions, for RevokedKeys; kept for 5 s."""
    return Response(wired.krl.read(ctx), media_type="application/octet-stream")
