"""Tokens of machines: made, listed and revoked by people."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from gateway.app.api_tokens import create_api_token, list_api_tokens, revoke_api_token
from gateway.app.people_ports import ApiToken
from gateway.core.obligation import parse_duration
from gateway.edges.http.deps import Caller, Ctx, Wired
from gateway.edges.http.schemas import Name, Schema, Span, problems

router = APIRouter(prefix="/api", tags=["tokens"])


class TokenIn(Schema):
    """What a machine is to be able to do, and for how long."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "siem", "scopes": ["audit:read"], "expires": "90d"}]}
    )

    name: Name
    scopes: Annotated[list[Name], Field(min_length=1, max_length=10)]
    expires: Span
    provider: Annotated[str, Field(max_length=64)] = ""


class TokenOut(Schema):
    """A token without its secret."""

    id: str
    name: str
    scopes: list[str]
    provider: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    last_used_from: str
    revoked_at: datetime | None

    @classmethod
    def of(cls, token: ApiToken) -> "TokenOut":
        """Rendered."""
        return cls(
            id=token.id,
            name=token.name,
            scopes=sorted(token.scopes),
            provider=token.provider,
            created_by=token.created_by_name,
            created_at=token.created_at,
            expires_at=token.expires_at,
            last_used_at=token.last_used_at,
            last_used_from=token.last_used_from,
            revoked_at=token.revoked_at,
        )


class NewTokenOut(Schema):
    """`secret` is shown this once."""

    token: TokenOut
    secret: str


@router.post("/tokens", status_code=201, responses=problems(403, 404, 409, 422))
def create(ctx: Ctx, wired: Wired, user: Caller, body: TokenIn) -> NewTokenOut:
    """A token for a machine. One may give it only what policy lets one do oneself."""
    if body.provider:
        wired.providers.named(body.provider)
    made = create_api_token(ctx, user, body.name, body.scopes, parse_duration(body.expires), body.provider)
    return NewTokenOut(token=TokenOut.of(made.token), secret=made.secret)


@router.get("/tokens", responses=problems())
def show_all(ctx: Ctx, user: Caller) -> list[TokenOut]:
    """One's own; everybody's for whoever administers or audits."""
    return [TokenOut.of(token) for token in list_api_tokens(ctx, user)]


@router.post("/tokens/{name}/revoke", responses=problems(403, 404, 409))
def revoke(ctx: Ctx, user: Caller, name: str) -> TokenOut:
    """End one now."""
    return TokenOut.of(revoke_api_token(ctx, user, name))
