"""The Authorization header, and the device's proof beside it (RFC 9449 §7.1)."""

from urllib.parse import quote

from fastapi import Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import HTTPConnection

from gateway.app.context import Context
from gateway.app.possession import read_proof, token_digest
from gateway.core.device_proof import Asked, DeviceProof
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


def read_from(
    request: Request, ctx: Context, public_url: str, token: str = "", told: list[str] | None = None
) -> DeviceProof | Refusal:
    """What this request proves for a token ("" while there is none), by whatever key, or why it proves nothing.

    The address is the gateway's own name for itself and the path as it was sent: no header of the client decides it.
    `told` is a proof that came elsewhere than in the `DPoP` header.
    """
    raw = request.scope.get("raw_path")
    path = raw.decode("latin-1") if isinstance(raw, bytes) else quote(request.url.path)
    asked = Asked(request.method, public_url + path.partition("?")[0], token_digest(token) if token else "")
    return read_proof(ctx, request.headers.getlist("dpop") if told is None else told, asked)
