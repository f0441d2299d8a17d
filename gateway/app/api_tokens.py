"""Scoped tokens for machines: SIEM readers, SCIM clients, chat bots. Made by people who may do what the scope allows.

A token belongs to no person: whoever made it may leave without the machine going dark. Its text is `gwa_`, 256 random
bits in base64url, and a CRC-32 of both in base62, so that a secret scanner can tell a token from noise without asking.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from zlib import crc32

from gateway.app import journal
from gateway.app.authorise import authorise
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.identity import NotSignedIn
from gateway.app.people_ports import ApiToken
from gateway.app.refuse_stranger import refuse_stranger
from gateway.core.decision import Action, Facts, Permit, Query
from gateway.core.errors import Conflict, Denied, NotFound, Refusal
from gateway.core.principal import Machine, User

API_PREFIX = "gwa_"
READ_AUDIT, WRITE_SCIM, READ_ACCESS = "audit:read", "scim:write", "access:read"
SCOPES: Mapping[str, Action] = {
    READ_AUDIT: Action.AUDIT,
    WRITE_SCIM: Action.ADMINISTER,
    READ_ACCESS: Action.AUDIT,  # who asked for what and why, on every target
}
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TOKEN = re.compile(r"gwa_[A-Za-z0-9_-]{43}[A-Za-z0-9]{6}")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_NOTE_EVERY = timedelta(minutes=1)
_UNKNOWN = Refusal(
    "token-invalid",
    "This API token is not valid: it is unknown, has expired or was revoked.",
    next_steps=("gw token list shows which there are; gw token create makes a new one.",),
)


@dataclass(frozen=True, slots=True)
class NewToken:
    """`secret` is shown once."""

    token: ApiToken
    secret: str = field(repr=False)


def create_api_token(
    ctx: Context, user: User, name: str, scopes: Iterable[str], lifetime: timedelta, provider: str = ""
) -> NewToken:
    """A new token. Denied when policy does not let the person do what a scope allows, Conflict for a name in use."""
    asked = frozenset(scopes)
    flaw = _flaw(ctx, name, asked, lifetime, provider)
    if flaw is not None:
        raise journal.refuse(ctx, "token:denied", flaw, principal=user.name, data={"name": name[:64]})
    at = ctx.clock.now()
    for scope in sorted(asked):
        authorise(ctx, user, SCOPES[scope], None, Facts(at))
    secret = with_checksum(API_PREFIX + ctx.ids.secret())
    token = ApiToken(
        ctx.ids.new("tok"), name, digest_of(secret), asked, provider, user.id, user.name, at, at + lifetime
    )  # fmt: skip
    with ctx.store.begin() as uow:
        if uow.api_tokens.by_name(name) is not None:
            raise Conflict(Refusal("token-exists", f"There is a token called {name}.", (), ("Revoke it first.",)))
        uow.api_tokens.add(token)
        noted = journal.append(ctx, uow, "token:created", principal=user.name, data=_told(token))
    journal.confirm_logged(ctx, noted)
    return NewToken(token, secret)


def _flaw(ctx: Context, name: str, scopes: frozenset[str], lifetime: timedelta, provider: str) -> Refusal | None:
    longest = ctx.limits.api_token_lifetime
    if not _NAME.fullmatch(name):
        return Refusal("token-name", "A token's name has lower-case letters, digits, dots, dashes and underscores.")
    if not scopes or not scopes <= SCOPES.keys():
        return Refusal("token-scope", f"A token has one or more of the scopes {', '.join(SCOPES)}.", ("scope",))
    if not timedelta(0) < lifetime <= longest:
        return Refusal("token-expiry", f"A token lives at most {longest.days} days.", ("expires",))
    if (WRITE_SCIM in scopes) is not bool(provider):
        return Refusal("token-provider", "A token with scim:write is for one identity provider, others for none.")
    return None


def list_api_tokens(ctx: Context, user: User) -> Sequence[ApiToken]:
    """One's own; everybody's for whoever administers or audits."""
    facts = Facts(ctx.clock.now())
    sees_all = any(
        isinstance(ctx.policy.decide(Query(user, action, None, facts)), Permit)
        for action in (Action.ADMINISTER, Action.AUDIT)
    )
    with ctx.store.read() as uow:
        return [token for token in uow.api_tokens.all() if sees_all or token.created_by == user.id]


def revoke_api_token(ctx: Context, user: User, name: str) -> ApiToken:
    """End one: one's own, or anybody's for whoever administers. NotFound when it is not one's to know of."""
    with ctx.store.read() as uow:
        token = uow.api_tokens.by_name(name)
    if token is None:
        raise NotFound(Refusal("unknown-token", "There is no such token.", next_steps=("gw token list",)))
    if token.created_by != user.id:
        authorise(ctx, user, Action.ADMINISTER, None, Facts(ctx.clock.now()))
    with ctx.store.begin() as uow:
        if not uow.api_tokens.revoke(token.id, ctx.clock.now()):
            raise Conflict(Refusal("token-revoked", "That token was revoked already."))
        noted = journal.append(ctx, uow, "token:revoked", principal=user.name, data=_told(token))
    journal.confirm_logged(ctx, noted)
    return token


def authenticate_machine(ctx: Context, secret: str, scope: str, client: str) -> Machine:
    """The machine behind a token that has `scope`; NotSignedIn for a worthless one, Denied for another scope's."""
    if not is_well_formed(secret):
        raise NotSignedIn(_UNKNOWN)  # and the store is not asked
    at = ctx.clock.now()
    with ctx.store.read() as uow:
        token = uow.api_tokens.by_digest(digest_of(secret))
    if token is None or token.revoked_at is not None or at >= token.expires_at:
        raise NotSignedIn(_UNKNOWN)
    if scope not in token.scopes:
        wrong = Refusal("token-scope", f"The token {token.name} is not for this: it has no scope {scope}.", (scope,))
        raise refuse_stranger(ctx, client, "token:denied", wrong, about={"principal": _principal(token)})
    if token.last_used_at is None or at - token.last_used_at >= _NOTE_EVERY or token.last_used_from != client:
        with ctx.store.begin() as uow:
            uow.api_tokens.used(token.id, at, client[:100])
    return Machine(token.id, _principal(token), token.scopes, token.provider)


def demand_scope(machine: Machine, scope: str) -> None:
    """Denied when a machine asks for what its token is not for; a use case says so beside the route."""
    if scope not in machine.scopes:
        raise Denied(Refusal("token-scope", f"This token has no scope {scope}.", (scope,)))


def with_checksum(text: str) -> str:
    """The text with six base62 digits of its CRC-32, as secret scanners know it from others' tokens."""
    number = crc32(text.encode())
    return text + "".join(_BASE62[number // 62**place % 62] for place in range(5, -1, -1))


def is_well_formed(secret: str) -> bool:
    """True for what could be a token: its shape and checksum are right."""
    return _TOKEN.fullmatch(secret) is not None and with_checksum(secret[:-6]) == secret


def _principal(token: ApiToken) -> str:
    return f"token:{token.name}"  # no person's name has a colon


def _told(token: ApiToken) -> dict[str, object]:
    return {
        "token": token.id,
        "name": token.name,
        "scopes": sorted(token.scopes),
        "provider": token.provider,
        "expires_at": token.expires_at.isoformat(),
    }
