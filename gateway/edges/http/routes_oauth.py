"""Where pipelines come: token exchange (RFC 8693) with the errors of RFC 6749 §5.2, and its metadata (RFC 8414)."""

import re
from http import HTTPStatus
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from gateway.app.exchange_token import BadScope, Exchanged, exchange_token
from gateway.core.deploy_token import Right
from gateway.core.errors import Denied, GatewayError, Refusal, Unavailable
from gateway.edges.http.deps import Client, Ctx, Wired

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_TYPE = "urn:ietf:params:oauth:token-type:"
_SUBJECT_TYPES = frozenset({f"{_TYPE}jwt", f"{_TYPE}id_token"})
_ISSUED_TYPE = f"{_TYPE}access_token"
_ONCE = {
    "grant_type", "subject_token", "subject_token_type", "requested_token_type", "scope", "actor_token",
    "actor_token_type",
}  # fmt: skip
_MOST_FIELDS = 40
_MOST_RIGHTS = 200
_RIGHT = re.compile(r"([a-z][a-z0-9_-]{0,31}):([A-Za-z0-9][A-Za-z0-9._-]{0,62})")
_UNPRINTABLE = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")  # RFC 6749 §5.2
_NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}  # RFC 6749 §5.1

router = APIRouter(tags=["pipelines"])
Form = list[tuple[str, str]]


class TokenOut(BaseModel):
    """RFC 8693 §2.2.1. `scope` lists the rights as `verb:target`."""

    access_token: str = Field(examples=["gwd_eyJ…"])
    issued_token_type: str = _ISSUED_TYPE
    token_type: str = "Bearer"  # noqa: S105 - the scheme's name
    expires_in: int = Field(examples=[900])
    scope: str = Field(examples=["deploy:web-1 rollback:web-1"])


class OAuthErrorOut(BaseModel):
    """RFC 6749 §5.2; `code`, `missing` and `next_steps` as in every other error here."""

    error: str = Field(examples=["invalid_request"])
    error_description: str
    code: str
    missing: list[str]
    next_steps: list[str]


class MetadataOut(BaseModel):
    """RFC 8414 §2."""

    issuer: str
    token_endpoint: str
    jwks_uri: str
    grant_types_supported: list[str] = [EXCHANGE]
    response_types_supported: list[str] = []
    token_endpoint_auth_methods_supported: list[str] = ["none"]


class KeySetOut(BaseModel):
    """RFC 7517 §5."""

    keys: list[dict[str, str]] = []


class _BadRequestError(Exception):
    def __init__(self, error: str, said: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(said)
        self.error = error
        self.status = status
        self.refusal = Refusal(error.replace("_", "-"), said)


async def form(request: Request) -> Form:
    """The fields as they came, repeated ones too; none of what is no form. The guard has bounded the body."""
    try:
        return parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=1000)
    except ValueError:
        return []


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "required": ["grant_type", "subject_token", "subject_token_type"],
                    "properties": {
                        "grant_type": {"const": EXCHANGE},
                        "subject_token": {"type": "string", "description": "the job's own OIDC token"},
                        "subject_token_type": {"enum": sorted(_SUBJECT_TYPES)},
                        "requested_token_type": {"const": _ISSUED_TYPE},
                        "scope": {"type": "string", "description": "fewer rights: `verb:target`, separated by spaces"},
                        "audience": {"type": "string", "description": "this gateway's URL"},
                        "resource": {"type": "string", "description": "this gateway's URL"},
                    },
                }
            }
        },
    }
}


@router.post(
    "/oauth/token",
    response_model=TokenOut,
    responses={400: {"model": OAuthErrorOut}, 401: {"model": OAuthErrorOut}, 503: {"model": OAuthErrorOut}},
    openapi_extra=_BODY,
)
def exchange(
    request: Request, ctx: Ctx, wired: Wired, client: Client, fields: Annotated[Form, Depends(form)]
) -> JSONResponse:
    """A pipeline's own token for a deploy token. Each token counts once."""
    try:
        subject, scope = _asked(request, fields, wired.public_url)
        found = exchange_token(ctx, subject, scope, client)
    except _BadRequestError as bad:
        return _error(bad.status, bad.error, bad.refusal)
    except GatewayError as no:
        return _refusal(no)
    return JSONResponse(_answer(found).model_dump(), headers=_NO_STORE)


@router.get("/.well-known/oauth-authorization-server")
def metadata(wired: Wired) -> MetadataOut:
    """Where the token endpoint is and what it takes."""
    base = wired.public_url
    return MetadataOut(issuer=base, token_endpoint=f"{base}/oauth/token", jwks_uri=f"{base}/oauth/jwks")


@router.get("/oauth/jwks")
def jwks() -> KeySetOut:
    """Empty: deploy tokens are opaque to everybody but the gateway, so nobody else needs a key for them."""
    return KeySetOut()


# ---------------------------------------------------------------- the request (RFC 8693 §2.1)


def _asked(request: Request, fields: Form, here: str) -> tuple[str, list[Right]]:
    if "authorization" in request.headers:
        said = "Clients do not authenticate here: the job's token is the proof. Leave the Authorization header out."
        raise _BadRequestError("invalid_client", said, HTTPStatus.UNAUTHORIZED)
    names = [name for name, _ in fields]
    repeated = sorted(name for name in _ONCE if names.count(name) > 1)  # RFC 6749 §3.2
    if repeated or len(fields) > _MOST_FIELDS:
        raise _BadRequestError("invalid_request", f"Given more than once: {', '.join(repeated) or 'too many fields'}.")
    given = {name: value for name, value in fields if value}  # one without a value counts as left out, ibid.
    _demand(given)
    for name, value in fields:
        if name in ("audience", "resource") and value and value.rstrip("/") != here:
            raise _BadRequestError("invalid_target", f"Deploy tokens are good at {here} alone.")
    return given["subject_token"], _rights(given.get("scope", ""))


def _demand(given: dict[str, str]) -> None:
    if "grant_type" not in given:
        raise _BadRequestError("invalid_request", "grant_type is missing.")
    if given["grant_type"] != EXCHANGE:
        raise _BadRequestError("unsupported_grant_type", f"The only grant_type here is {EXCHANGE}.")
    for name in ("subject_token", "subject_token_type"):
        if name not in given:
            raise _BadRequestError("invalid_request", f"{name} is missing.")
    if given["subject_token_type"] not in _SUBJECT_TYPES:
        raise _BadRequestError("invalid_request", f"subject_token_type must be {' or '.join(sorted(_SUBJECT_TYPES))}.")
    if given.get("requested_token_type", _ISSUED_TYPE) != _ISSUED_TYPE:
        raise _BadRequestError("invalid_request", f"requested_token_type can only be {_ISSUED_TYPE}.")
    if "actor_token" in given or "actor_token_type" in given:
        raise _BadRequestError("invalid_request", "Nobody acts for a pipeline here: leave actor_token out.")


def _rights(scope: str) -> list[Right]:
    rights: list[Right] = []
    for word in scope.split(" ") if scope else ():
        found = _RIGHT.fullmatch(word)
        if found is None or len(rights) >= _MOST_RIGHTS:
            raise _BadRequestError("invalid_scope", "scope is a list of verb:target, separated by single spaces.")
        rights.append(Right(target=found[2], verb=found[1]))
    return rights


# ---------------------------------------------------------------- the answer (RFC 8693 §2.2)


def _answer(found: Exchanged) -> TokenOut:
    seconds = int((found.not_after - found.issued_at).total_seconds())
    scope = " ".join(sorted(f"{right.verb}:{right.target}" for right in found.rights))
    return TokenOut(access_token=found.token, expires_in=seconds, scope=scope)


def _refusal(no: GatewayError) -> JSONResponse:
    """A bad subject token is an `invalid_request` (RFC 8693 §2.2.2)."""
    if isinstance(no, Unavailable):
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, "temporarily_unavailable", no.refusal)
    if isinstance(no, Denied):
        return _error(
            HTTPStatus.BAD_REQUEST, "invalid_scope" if isinstance(no, BadScope) else "invalid_request", no.refusal
        )
    raise no


def _error(status: int, error: str, refusal: Refusal) -> JSONResponse:
    said = _UNPRINTABLE.sub("'", refusal.sentence())[:2000]
    told = OAuthErrorOut(
        error=error,
        error_description=said,
        code=refusal.code,
        missing=list(refusal.missing),
        next_steps=list(refusal.next_steps),
    )
    headers = {**_NO_STORE, "www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else _NO_STORE
    return JSONResponse(told.model_dump(), status, headers)
