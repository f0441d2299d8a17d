"""Every error of the API as RFC 9457 `application/problem+json`: what, why not, what was missing, what to do next."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from gateway.app.browser_session import NotProven
from gateway.app.identity import NotSignedIn
from gateway.core.errors import Conflict, Denied, GatewayError, NotFound, Refusal, Unavailable
from gateway.edges.http.deps import web_session
from gateway.edges.http.live_views import TOO_MANY_VIEWS
from gateway.edges.http.scim_answers import scim_problem
from gateway.edges.web.views import error_page, prove_page

LOG = logging.getLogger("gateway.http")
_STATUS: Mapping[type[GatewayError], HTTPStatus] = {
    NotSignedIn: HTTPStatus.UNAUTHORIZED,
    NotProven: HTTPStatus.UNAUTHORIZED,
    Denied: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
_SCHEMES = 'DPoP algs="Ed25519 EdDSA ES256", Bearer'  # RFC 9449 §7.1
_TOO_MANY = frozenset({"too-many-attempts", TOO_MANY_VIEWS})


class Problem(JSONResponse):
    media_type = "application/problem+json"


def problem(status: int, refusal: Refusal, fields: Sequence[Mapping[str, str]] = ()) -> Problem:
    """The problem object. `fields` name what was wrong in the input, never its value."""
    body: dict[str, object] = {
        "type": f"urn:gw:problem:{refusal.code}",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "code": refusal.code,
        "detail": refusal.message,
        "missing": list(refusal.missing),
        "next_steps": list(refusal.next_steps),
    }
    if fields:
        body["fields"] = [dict(field) for field in fields]
    headers = {"www-authenticate": _SCHEMES} if status == HTTPStatus.UNAUTHORIZED else None
    return Problem(body, status, headers)


def status_of(error: GatewayError) -> HTTPStatus:
    """The HTTP status of an expected error; the most specific class counts."""
    if error.refusal.code in _TOO_MANY:
        return HTTPStatus.TOO_MANY_REQUESTS
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)


def install(app: FastAPI) -> None:
    """Render every kind of error; browser pages get the same words as HTML."""

    @app.exception_handler(GatewayError)
    def _expected(request: Request, error: GatewayError) -> Response:
        return _render(request, status_of(error), error.refusal)

    @app.exception_handler(NotProven)
    def _unproven(request: Request, error: NotProven) -> Response:
        if request.url.path.startswith("/api/"):
            return problem(status_of(error), error.refusal)
        return prove_page(request, status_of(error), web_session(request))

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        # Names and messages only: the input may hold a secret, and pydantic would repeat it.
        fields = [{"field": ".".join(map(str, e["loc"])), "message": str(e["msg"])} for e in error.errors()[:20]]
        said = "; ".join(f"{f['field']}: {f['message']}" for f in fields[:3])
        refusal = Refusal("invalid-input", f"The request is not valid: {said}.")
        return _render(request, HTTPStatus.UNPROCESSABLE_ENTITY, refusal, fields)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        phrase = HTTPStatus(error.status_code).phrase
        response = _render(request, error.status_code, Refusal(phrase.lower().replace(" ", "-"), f"{phrase}."))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    def _bug(request: Request, error: Exception) -> Response:
        LOG.error("unexpected error in %s %s", request.method, request.scope.get("route"), exc_info=error)
        refusal = Refusal("internal-error", "The gateway made a mistake; its operators find the cause in its log.")
        return _render(request, HTTPStatus.INTERNAL_SERVER_ERROR, refusal)


def _render(request: Request, status: int, refusal: Refusal, fields: Sequence[Mapping[str, str]] = ()) -> Response:
    if request.url.path.startswith("/scim/"):
        return scim_problem(status, refusal)
    if request.url.path.startswith("/api/"):
        return problem(status, refusal, fields)
    return error_page(request, status, refusal)
