"""What every HTTP exchange goes through: bounded bodies, strict content types, headers that keep browsers safe."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
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
Judge = Callable[[Request], Awaitable[Response | None]]
"""Says no to whoever may not send a large body; None is a yes."""
_CSP = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # without any, browsers say Origin: null of our own forms (Fetch §3.2.3)
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

    def __init__(self, app: ASGIApp, *, https: bool, judge: Judge) -> None:
        self._app = app
        self._judge = judge
        safe = dict(_HEADERS)
        if https:
            safe["strict-transport-security"] = "max-age=31536000; includeSubDomains"  # ASVS 3.4.1
        self._headers = [(name.encode(), value.encode()) for name, value in safe.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the bounded body first, then let the application see it."""
        if scope["type"] != "http":  # start-up; a WebSocket finds no route there and is closed
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = message.get("headers", [])
                names = {name.lower() for name, _ in told}
                message["headers"] = [*told, *(each for each in self._headers if each[0] not in names)]
            await send(message)

        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                read = await self._read(scope, receive)
        except TimeoutError:
            slow = Refusal("too-slow", "The request took too long to arrive.")
            read = problem(HTTPStatus.REQUEST_TIMEOUT, slow)
        except _RefusedError as no:
            read = problem(no.status, no.refusal)
        if isinstance(read, Response):
            await read(scope, receive, send_safely)
        else:
            await self._app(scope, _replayed(read, receive), send_safely)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | Response:
        """The body, or the no of `judge` to one that is large: it is asked before more than `MAX_BODY` is read."""
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        most = MAX_SCIM_BODY if scope["path"].startswith(_SCIM) else _LARGER_BODY.get(scope["path"], MAX_BODY)
        if not length.isascii() or not length.isdigit() or int(length) > most:
            raise _too_large(most)
        parts: list[bytes] = []
        size, is_judged = 0, False
        while True:
            if max(size, int(length)) > MAX_BODY and not is_judged:
                is_judged = True
                if (no := await self._judge(Request(scope))) is not None:
                    return no
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


def _replayed(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


def _demand_type(path: str, content_type: str) -> None:
    """JSON sent as text/plain needs no preflight, so a foreign page could post it (FastAPI CVE-2021-32677)."""
    wanted = _FORM if path in _FORM_PATHS or path.startswith(_LOGOUT) else "application/json"
    sent = content_type.split(";", 1)[0].strip().lower()
    if sent != wanted and not (sent == "application/scim+json" and path.startswith(_SCIM)):
        raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content-type", f"The body must be sent as {wanted}.")


def _too_large(most: int) -> _RefusedError:
    message = f"A request body has at most {most // 1024} KiB."
    return _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", message)
