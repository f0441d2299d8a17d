"""A pipeline's own token: what its issuer's signature does not settle. Time is an argument, claims were verified."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from gateway.core.trust import ClaimResult, Claims, Issuer

LEEWAY = timedelta(seconds=30)
LONGEST_TOKEN = 16 * 1024  # characters
_KNOWN_HEADERS = frozenset({"alg", "kid", "typ", "x5t", "x5t#S256"})
_LONGEST_KID = 256


def judge_header(issuer: Issuer, header: Mapping[str, object]) -> list[ClaimResult]:
    """The JOSE header. A key comes from the issuer's key set by its id, never from the token (CVE-2026-27962)."""
    algorithm, kid = header.get("alg"), header.get("kid")
    strange = sorted(str(name)[:40] for name in set(header) - _KNOWN_HEADERS)  # jwk, jku, x5c, x5u, b64, crit, …
    is_typed = header.get("typ", "JWT") in ("JWT", "JOSE")
    is_named = isinstance(kid, str) and 0 < len(kid) <= _LONGEST_KID
    is_allowed = isinstance(algorithm, str) and algorithm in issuer.algorithms
    return [
        _result("alg", is_allowed, "is allowed", f"is not one of {', '.join(sorted(issuer.algorithms))}"),
        _result("kid", is_named, "names a key", "is missing or no key's name"),
        _result("typ", is_typed, "is a JWT", "is another type than JWT"),
        _result("header", not strange, "asks for nothing else", f"asks for what is refused here: {', '.join(strange)}"),
    ]


def judge_claims(issuer: Issuer, claims: Claims, at: datetime) -> list[ClaimResult]:
    """Issuer, audience and times (RFC 7519 §4.1), each with its reason."""
    audience = claims.get("aud")
    is_ours = audience in (issuer.audience, [issuer.audience])  # more than one audience could use it elsewhere
    iat, exp = _instant(claims.get("iat")), _instant(claims.get("exp"))
    results = [
        _result("iss", claims.get("iss") == issuer.url, "is the issuer", f"is not {issuer.url}"),
        _result("aud", is_ours, "is this gateway alone", f"is not {issuer.audience} and nothing else"),
        _result("iat", iat is not None, "is there", "is missing or no time"),
        _result("exp", exp is not None, "is there", "is missing or no time"),
    ]
    if iat is not None and exp is not None:
        results += _times(issuer, iat, exp, at)
    if "nbf" in claims:
        nbf = _instant(claims["nbf"])
        is_on = nbf is not None and nbf <= at + LEEWAY
        results.append(_result("nbf", is_on, "has begun", f"has not begun at {_shown(at)}, by this gateway's clock"))
    return results


def _times(issuer: Issuer, iat: datetime, exp: datetime, at: datetime) -> list[ClaimResult]:
    cap = issuer.longest_token
    too_long = f"is {exp - iat} after iat; at most {cap} is accepted"
    future = f"is {_shown(iat)}, in the future of this gateway's clock ({_shown(at)}); one of the two clocks is wrong"
    return [
        _result("exp", at < exp + LEEWAY, "has not passed", f"was {_shown(exp)}, and it is {_shown(at)}"),
        _result("iat", iat <= at + LEEWAY, "has passed", future),
        _result("exp", timedelta(0) < exp - iat <= cap, "is soon enough after iat", too_long),
    ]


def ends_at(claims: Claims) -> datetime:
    """The instant of `exp` of claims that were judged good."""
    end = _instant(claims.get("exp"))
    if end is None:
        raise ValueError("claims without an end were not judged")
    return end


def single_use_mark(issuer: Issuer, claims: Claims, token: str) -> str:
    """What two uses of one token have in common (hex): its `jti` at this issuer, else what was signed.

    Not the whole text: an ECDSA signature has a second form that verifies as well, and would make the token look new.
    """
    jti = claims.get("jti")
    if isinstance(jti, str) and jti:
        return sha256(f"jti\n{issuer.url}\n{jti}".encode("utf-8", "surrogatepass")).hexdigest()
    return sha256(f"signed\n{issuer.url}\n{token.rpartition('.')[0]}".encode("utf-8", "surrogatepass")).hexdigest()


def _instant(value: object) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**37:
        return None  # 2**37 is the year 6325; neither infinity nor what is no number is below it
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=value)


def _result(claim: str, held: bool, yes: str, no: str) -> ClaimResult:
    return ClaimResult(claim, held, yes if held else no)


def _shown(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
