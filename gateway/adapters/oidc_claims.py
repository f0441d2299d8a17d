"""What the claims of a provider's tokens must say before they are believed. Signatures are verified by the caller."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeGuard

from authlib.common.errors import AuthlibBaseError
from authlib.oidc.core import CodeIDToken
from joserfc.errors import JoseError
from joserfc.util import urlsafe_b64decode

from gateway.adapters.jose import KEY_TYPES
from gateway.app.identity import SignedLogout

LEEWAY_S = 60
MAX_TOKEN = 64 * 1024
_LONGEST = 255
_KNOWN_HEADERS = frozenset({"alg", "kid", "typ", "cty", "x5t", "x5t#S256"})
_LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"  # Back-Channel Logout 1.0 §2.4
_LOGOUT_FOR_S = 600  # and its jti is remembered for longer


class ForgedError(Exception):
    """A token that must not be believed; the text says which rule failed, without token contents."""


def unverified_header(token: str) -> dict[str, Any]:
    """The header of a compact JWS that is worth verifying; ForgedError otherwise."""
    if len(token) > MAX_TOKEN or token.count(".") != 2:
        raise ForgedError("it is not a signed token")
    try:
        header = json.loads(urlsafe_b64decode(token.split(".", 1)[0].encode()))
    except (ValueError, RecursionError) as why:
        raise ForgedError("its header is not JSON") from why
    if not isinstance(header, dict) or not set(header) <= _KNOWN_HEADERS:
        raise ForgedError("its header asks for more than is understood here")  # jwk, jku, x5c, x5u, crit, …
    if not isinstance(header.get("alg"), str) or header["alg"] not in KEY_TYPES:
        raise ForgedError("its algorithm is not accepted")
    if not isinstance(header.get("kid"), str | None):
        raise ForgedError("its key id is not text")
    return header


def verify_claims(
    header: Mapping[str, Any],
    claims: Mapping[str, Any],
    issuer: str,
    client_id: str,
    at: datetime,
    nonce: str | None,
    access_token: str,
) -> None:
    """The rules of OpenID Connect Core §3.1.3.7 for an id_token; `nonce` None is for a refresh (§12.2)."""
    now = at.timestamp()
    _demand_from_to(claims, issuer, client_id)
    if any(not _is_time(claims.get(name)) for name in ("exp", "iat")):
        raise ForgedError("it has no times")
    if claims["exp"] <= now - LEEWAY_S:
        raise ForgedError("it has expired")
    if claims["iat"] > now + LEEWAY_S:
        raise ForgedError("it is from the future")
    if nonce is not None and (not nonce or claims.get("nonce") != nonce):
        raise ForgedError("it belongs to another sign-in")
    # azp, at_hash, nbf and the shapes of the rest, by Authlib's reading of Core §2.
    params = {"nonce": nonce or "", "client_id": client_id, "access_token": access_token}
    try:
        CodeIDToken(claims, header, params=params).validate(now=int(now), leeway=LEEWAY_S)
    except (JoseError, AuthlibBaseError, ValueError, TypeError) as why:
        raise ForgedError("a claim is missing or wrong") from why


def logout_of(
    header: Mapping[str, Any], claims: Mapping[str, Any], issuer: str, client_id: str, at: datetime
) -> SignedLogout:
    """What a logout token says, by the rules of Back-Channel Logout 1.0 §2.4 and §2.6."""
    now = at.timestamp()
    events = claims.get("events")
    subject, sid, jti = (claims.get(name, "") for name in ("sub", "sid", "jti"))
    issued, expires = claims.get("iat"), claims.get("exp", int(now) + 1)
    if str(header.get("typ", "logout+jwt")).lower() not in ("logout+jwt", "jwt"):
        raise ForgedError("it is a token of another kind")
    _demand_from_to(claims, issuer, client_id)
    if not isinstance(events, dict) or not isinstance(events.get(_LOGOUT_EVENT), dict) or "nonce" in claims:
        raise ForgedError("it is not a logout token")  # an id_token is none
    if not _is_time(issued) or not _is_time(expires):
        raise ForgedError("it has no times")
    if not now - _LOGOUT_FOR_S < issued <= now + LEEWAY_S or expires <= now - LEEWAY_S:
        raise ForgedError("it is too old, or from the future")
    if not all(isinstance(text, str) and len(text) <= _LONGEST for text in (subject, sid, jti)) or not jti:
        raise ForgedError("a claim is missing or wrong")
    if not subject and not sid:
        raise ForgedError("it names nobody")
    return SignedLogout(subject, sid, jti)


def _demand_from_to(claims: Mapping[str, Any], issuer: str, client_id: str) -> None:
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if claims.get("iss") != issuer:
        raise ForgedError("it is from another issuer")
    if not isinstance(audiences, list) or client_id not in audiences:
        raise ForgedError("it is meant for somebody else")


def _is_time(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
