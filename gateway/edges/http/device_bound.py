"""The Authorization header, and the device's proof beside it (RFC 9449 §7.1)."""

from urllib.parse import quote

from fastapi import Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import HTTPConnection

from gateway.app.context import Context
from gateway.app.possession import SeenProofs, proven_key, token_digest
from gateway.core.device_proof import Asked
from gateway.core.errors import Refusal

SCHEME = "dpop"


class BearerOrBound(HTTPBearer):
    """`Bearer` for machines and pipelines, `DPoP` for people; None for anything else."""

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials | None:
        """As the base class, which knows one scheme."""
        scheme, token = get_authorization_scheme_param(request.headers.get("authorization"))
        if scheme.lower() not in ("bearer", SCHEME) or not token:
            return None
        return HTTPAuthorizationCredentials(scheme=scheme.lower(), credentials=token)


def proven(request: Request, ctx: Context, seen: SeenProofs, public_url: str, token: str = "") -> str | Refusal:
    """The thumbprint of the key that this request proves for a token ("" while there is none), or why it proves none.

    The address is the gateway's own name for itself and the path as it was sent: no header of the client decides it.
    """
    raw = request.scope.get("raw_path")
    path = raw.decode("latin-1") if isinstance(raw, bytes) else quote(request.url.path)
    asked = Asked(request.method, public_url + path.partition("?")[0], token_digest(token) if token else "")
    return proven_key(ctx, seen, request.headers.getlist("dpop"), asked)
