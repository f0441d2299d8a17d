"""What every HTTP exchange goes through: bounded bodies, strict content types, headers that keep browsers safe."""

import asyncio
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.core.errors import Refusal
from gateway.edges.http.problems import problem

MAX_BODY = 64 * 1024
_LARGER_BODY = {"/api/deploy": 1536 * 1024}  # a migration's SQL, in base64
MAX_SCIM_BODY = 1024 * 1024  # a group with all its members
BODY_WITHIN_S = 15.0
_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_FORM = "application/x-www-form-urlencoded"
_FORM_PATHS = frozenset({  # RFC 8628 §3.1, RFC 8693 §2.1; browser forms
    "/api/device/code", "/api/device/token", "/oauth/token", "/device", "/logout", "/logins/revoke", "/passkeys/remove",
    "/step-up",
})  # fmt: skip
_LOGOUT = "/api/backchannel-logout/"  # Back-Channel Logout 1.0 §2.5: a form
_SCIM = "/scim/v2/"
_CSP = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class _RefusedError(Exception):
    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.refusal = Refusal(code, message)


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self._app = app
        self._headers = dict(_HEADERS)
        if https:
            self._headers["strict-transport-security"] = "max-age=31536000; includeSubDomains"  # ASVS 3.4.1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the bounded body first, then let the application see it."""
        if scope["type"] != "http":  # start-up; a WebSocket finds no route there and is closed
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            body = await asyncio.wait_for(_read(scope, receive), BODY_WITHIN_S)
        except TimeoutError:
            slow = Refusal("too-slow", "The request took too long to arrive.")
            await problem(HTTPStatus.REQUEST_TIMEOUT, slow)(scope, receive, send_safely)
            return
        except _RefusedError as no:
            await problem(no.status, no.refusal)(scope, receive, send_safely)
            return
        await self._app(scope, _replayed(body, receive), send_safely)


def _replayed(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


async def _read(scope: Scope, receive: Receive) -> bytes:
    headers = Headers(scope=scope)
    length = headers.get("content-length", "0")
    most = MAX_SCIM_BODY if scope["path"].startswith(_SCIM) else _LARGER_BODY.get(scope["path"], MAX_BODY)
    if not length.isascii() or not length.isdigit() or int(length) > most:
        raise _too_large(most)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
        if not message.get("more_body", False):
            break
    if size and scope["method"] in _WITH_BODY:
        _demand_type(scope["path"], headers.get("content-type", ""))
    return b"".join(parts)


def _demand_type(path: str, content_type: str) -> None:
    """JSON sent as text/plain needs no preflight, so a foreign page could post it (FastAPI CVE-2021-32677)."""
    wanted = _FORM if path in _FORM_PATHS or path.startswith(_LOGOUT) else "application/json"
    sent = content_type.split(";", 1)[0].strip().lower()
    if sent != wanted and not (sent == "application/scim+json" and path.startswith(_SCIM)):
        raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content-type", f"The body must be sent as {wanted}.")


def _too_large(most: int) -> _RefusedError:
    message = f"A request body has at most {most // 1024} KiB."
    return _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", message)
