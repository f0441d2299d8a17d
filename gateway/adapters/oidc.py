"""The gateway as an OpenID Connect relying party: discovery, authorization code with PKCE, verified claims.

What is believed: the configured issuer URL; over TLS, what its discovery document and JWKS say; and an id_token
only after `verify_id_token`. Keys come from the issuer's JWKS alone: `jwk`, `jku`, `x5c` and `x5u` headers are
refused unread, as is any `crit` (Authlib CVE-2026-27962, CVE-2025-59420), and the algorithm is chosen by an
allow-list of asymmetric ones (CVE-2024-37568, CVE-2026-28802).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from threading import BoundedSemaphore, Lock
from typing import Any

import httpx2
import stamina
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import OAuth2Client
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oidc.discovery import get_well_known_url
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import Key

from gateway.adapters.jose import KEY_TYPES, OneAlgorithm, demand_safe, signing_key
from gateway.adapters.oidc_claims import ForgedError, logout_of, unverified_header, verify_claims
from gateway.adapters.oidc_probe import Probe
from gateway.adapters.oidc_transport import PLAIN, Borrowed, BoundedTransport
from gateway.app.identity import ClaimNames, Redeemed, Refreshed, SignedClaims, SignedLogout
from gateway.app.ports import Clock
from gateway.core.errors import Denied, GatewayError, Refusal, Unavailable

NO_PARAMETERS: Mapping[str, str] = {}
_TIMEOUT = httpx2.Timeout(10.0, connect=5.0)
_DISCOVERY_FOR = timedelta(hours=1)
_KEYS_FOR = timedelta(minutes=10)
_REFETCH_AFTER = timedelta(seconds=30)
_FAILED_FOR = timedelta(seconds=5)  # no stranger's token has it asked again sooner
_EXCHANGES = 4  # at a time: a provider that hangs keeps no more of the API's threads
_WAITING = 8  # for one of those, and no longer than:
_WAIT_S = 1.0
# Only the signed token tells of these: `auth_time` proves that a sign-in is fresh, `sid` says which logout ends it.
_PROTOCOL_CLAIMS = frozenset(
    {"iss", "sub", "aud", "exp", "iat", "nbf", "nonce", "azp", "at_hash", "acr", "amr", "auth_time", "sid"}
)


@dataclass(frozen=True, slots=True)
class _Metadata:
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str
    names_itself: bool
    fetched_at: datetime


@dataclass(slots=True)
class _Keys:
    by_kid: dict[str | None, list[Key]] = field(default_factory=dict)
    fetched_at: datetime | None = None
    failed_at: datetime | None = None  # when they could not be had the last time, if that is so


def _refused(_: AuthlibBaseError) -> GatewayError:
    return Denied(Refusal("code-refused", "The identity provider refused the sign-in.", next_steps=("Sign in again.",)))


def _over_or_unavailable(no: AuthlibBaseError) -> GatewayError:
    """Only `invalid_grant` is about the person (RFC 6749 §5.2); the other errors are about us, or a bad moment."""
    if no.error == "invalid_grant":
        return Denied(Refusal("sign-in-over", "the identity provider no longer vouches for this sign-in"))
    return Unavailable(_unusable("it did not take our question"))


class OidcProvider:
    """One identity provider. Thread-safe; every answer is bounded in time and size."""

    def __init__(
        self,
        *,
        name: str = "oidc",
        label: str = "",
        issuer: str,
        client_id: str,
        client_secret: str,
        redirect_uri: str,
        clock: Clock,
        names: ClaimNames = ClaimNames(),  # noqa: B008  frozen, so one default may be shared
        scopes: tuple[str, ...] = ("openid", "profile", "email"),
        parameters: Mapping[str, str] = NO_PARAMETERS,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """`client_secret` "" is a public client; `parameters` are added to the authorization request.

        ValueError when the issuer is not https and not this machine.
        """
        self.name = name
        self.label = label or name
        self.issuer = issuer
        self.names = names
        self._client_id = client_id
        self._client_secret = client_secret
        self._redirect_uri = redirect_uri
        self._scope = " ".join(scopes)
        self._parameters = dict(parameters)
        self._clock = clock
        self._transport = BoundedTransport(transport or httpx2.HTTPTransport(trust_env=False))
        self._places = BoundedSemaphore(_EXCHANGES)
        self._queue = BoundedSemaphore(_EXCHANGES + _WAITING)
        self._lock = Lock()  # of what is known, never held while the provider is asked
        self._metadata: _Metadata | None = None
        self._keys = _Keys()
        self._probe = Probe(issuer, self._transport, clock)
        demand_safe(issuer)

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._transport.close()

    def authorization_url(self, *, state: str, nonce: str, challenge: str, fresh: bool = False) -> str:
        """See the port."""
        again = {"prompt": "login", "max_age": "0"} if fresh else {}
        return str(
            prepare_grant_uri(
                self._discovered().authorization_endpoint,
                client_id=self._client_id,
                response_type="code",
                redirect_uri=self._redirect_uri,
                scope=self._scope,
                state=state,
                nonce=nonce,
                code_challenge=challenge,
                code_challenge_method="S256",
                **{**self._parameters, **again},
            )
        )

    def is_reachable(self) -> bool:
        """See the port. How many people sign in just now does not matter."""
        return self._probe.is_reachable()

    def names_itself(self) -> bool:
        """See the port."""
        return self._discovered().names_itself

    def redeem(self, *, code: str, verifier: str, nonce: str) -> Redeemed:
        """See the port."""
        metadata = self._discovered()
        with self._reaching() as client:
            token = client.fetch_token(
                metadata.token_endpoint,
                grant_type="authorization_code",
                code=code,
                redirect_uri=self._redirect_uri,
                code_verifier=verifier,
            )
        id_token, access_token = token.get("id_token"), token.get("access_token")
        if not isinstance(id_token, str) or not isinstance(access_token, str):
            raise Unavailable(_unusable("it sent no id_token"))
        try:
            claims = self.verify_id_token(id_token, nonce=nonce, access_token=access_token)
        except ForgedError as why:
            raise Denied(
                Refusal(
                    "id-token-refused", f"The identity provider's answer does not verify: {why}.", ("a valid sign-in",)
                )
            ) from why
        refresh_token = token.get("refresh_token")
        return Redeemed(
            self._with_userinfo(metadata, claims, access_token), refresh_token if isinstance(refresh_token, str) else ""
        )

    def refresh(self, refresh_token: str) -> Refreshed:
        """See the port. Tried twice, as one lost answer would make the next check half a minute late."""
        token = self._refreshed_token(refresh_token)
        following = token.get("refresh_token")
        if isinstance(token.get("access_token"), str):
            told = self._told_with(token)
        elif isinstance(following, str):
            told = Refreshed(SignedClaims({}), tells_groups=False, flaw="it sent no access token")
        else:
            raise Unavailable(_unusable("it sent no token"))
        return replace(
            told, refresh_token=following if isinstance(following, str) and following != refresh_token else ""
        )

    def _refreshed_token(self, refresh_token: str) -> Mapping[str, Any]:
        """What the token endpoint gives. After a 200 it is not asked again: the token may be spent (RFC 9700 §4.14)."""
        is_spent = False

        def note(answer: httpx2.Response) -> httpx2.Response:
            nonlocal is_spent
            is_spent = answer.status_code == 200
            return answer

        def is_worth_a_try(why: Exception) -> bool:
            return isinstance(why, Unavailable) and not is_spent

        for attempt in stamina.retry_context(
            on=is_worth_a_try, attempts=2, wait_initial=0.2, wait_max=1.0, timeout=20.0
        ):
            with attempt:
                url = self._discovered().token_endpoint
                with self._reaching(_over_or_unavailable) as client:
                    client.register_compliance_hook("access_token_response", note)
                    answer: Mapping[str, Any] = client.fetch_token(
                        url, grant_type="refresh_token", refresh_token=refresh_token
                    )
                if not is_spent:
                    raise Unavailable(_unusable("it sent no token"))
                return answer
        raise AssertionError("the last attempt returns or raises")

    def _told_with(self, token: Mapping[str, Any]) -> Refreshed:
        """What a refresh tells of the person. The next token is in hand, so what fails here is a flaw, no outage."""
        id_token, access_token = token.get("id_token"), token["access_token"]
        claims: dict[str, Any] = {}
        try:
            if isinstance(id_token, str):
                claims = self.verify_id_token(id_token, nonce=None, access_token=access_token)
            told = self._with_userinfo(self._discovered(), claims, access_token)
        except ForgedError as why:
            return Refreshed(SignedClaims({}), tells_groups=False, flaw=f"its id_token does not verify: {why}")
        except (Unavailable, Denied) as why:
            return Refreshed(SignedClaims({}), tells_groups=False, flaw=why.refusal.message)
        return Refreshed(told, tells_groups=bool(claims) or self.names.groups in told)

    def verify_logout(self, token: str) -> SignedLogout:
        """See the port."""
        try:
            header, claims = self._verify_signature(token)
            return logout_of(header, claims, self.issuer, self._client_id, self._clock.now())
        except ForgedError as why:
            raise Denied(Refusal("logout-refused", f"The logout token does not verify: {why}.")) from why

    def verify_id_token(self, id_token: str, *, nonce: str | None, access_token: str = "") -> dict[str, Any]:
        """The claims of an id_token (OpenID Connect Core §3.1.3.7); ForgedError otherwise.

        `nonce` None is for a refresh, where there is none to expect (§12.2).
        """
        header, claims = self._verify_signature(id_token)
        verify_claims(header, claims, self.issuer, self._client_id, self._clock.now(), nonce, access_token)
        return claims

    # ------------------------------------------------------------ signature

    def _verify_signature(self, token: str) -> tuple[dict[str, Any], dict[str, Any]]:
        header = unverified_header(token)
        algorithm, kid = header["alg"], header.get("kid")
        for key in self._keys_for(kid, KEY_TYPES[algorithm]):
            try:
                verified = jws.deserialize_compact(token, key, registry=OneAlgorithm(algorithms=[algorithm]))
                claims = json.loads(verified.payload or b"")
            except JoseError:
                continue  # another key of the same id may fit (rotation); none is a refusal below
            except (ValueError, TypeError, RecursionError) as why:
                raise ForgedError("its content is not JSON") from why
            if not isinstance(claims, dict):
                raise ForgedError("its content is not an object")
            return header, claims
        raise ForgedError("its signature does not fit any key of the issuer")

    def _keys_for(self, kid: str | None, key_type: str) -> list[Key]:
        by_kid = self._known_keys(kid)
        if kid is None:  # only unambiguous without an id
            every = [key for keys in by_kid.values() for key in keys]
            return [key for key in every if key.key_type == key_type] if len(every) == 1 else []
        return [key for key in by_kid.get(kid, []) if key.key_type == key_type]

    def _known_keys(self, kid: str | None) -> dict[str | None, list[Key]]:
        at, keys = self._clock.now(), self._keys
        age = at - keys.fetched_at if keys.fetched_at else None
        is_known = kid in keys.by_kid
        # An unknown id may be a new key: look again, but no faster than a forger may make us.
        if age is not None and age <= _KEYS_FOR and (is_known or age <= _REFETCH_AFTER):
            return keys.by_kid
        if not is_known and keys.failed_at is not None and timedelta(0) <= at - keys.failed_at < _FAILED_FOR:
            raise Unavailable(_unusable("it did not tell its keys a moment ago"))
        try:
            fresh = _Keys(self._fetch_keys(), at)
        except Unavailable:
            if not is_known:
                self._replace_keys(keys, replace(keys, failed_at=at))
                raise
            fresh = _Keys(keys.by_kid, at - _KEYS_FOR + _REFETCH_AFTER)  # they go on serving while the issuer is down
        self._replace_keys(keys, fresh)
        return fresh.by_kid

    def _replace_keys(self, known: _Keys, fresh: _Keys) -> None:
        with self._lock:
            if self._keys is known:  # else somebody else was quicker
                self._keys = fresh

    def _fetch_keys(self) -> dict[str | None, list[Key]]:
        document = self._get_json(self._discovered().jwks_uri)
        found: dict[str | None, list[Key]] = {}
        keys = document.get("keys")
        for entry in keys[:100] if isinstance(keys, list) else ():
            key = signing_key(entry)
            if key is not None:
                found.setdefault(entry.get("kid"), []).append(key)
        if not found:
            raise Unavailable(_unusable("it publishes no usable key"))
        return found

    # ------------------------------------------------------------ userinfo

    def _with_userinfo(self, metadata: _Metadata, claims: dict[str, Any], access_token: str) -> SignedClaims:
        """Claims that the id_token lacks, from the userinfo endpoint; only about the same subject (Core §5.3.2)."""
        if not metadata.userinfo_endpoint:
            return SignedClaims(claims)
        more = self._get_json(metadata.userinfo_endpoint, {"authorization": f"Bearer {access_token}"})
        if more.get("sub") != claims.get("sub", more.get("sub")):
            raise Denied(Refusal("userinfo-mismatch", "The identity provider told of two different people."))
        added = {key: value for key, value in more.items() if key not in _PROTOCOL_CLAIMS}
        return SignedClaims({"sub": more.get("sub"), **added, **claims})

    # ------------------------------------------------------------ discovery and transport

    def _discovered(self) -> _Metadata:
        at = self._clock.now()
        with self._lock:
            known = self._metadata
            if known is not None and at - known.fetched_at <= _DISCOVERY_FOR:
                return known
            if known is not None:  # it serves everybody else meanwhile, and all of us if the provider does not answer
                self._metadata = replace(known, fetched_at=at - _DISCOVERY_FOR + _REFETCH_AFTER)
        try:
            fresh = self._read_metadata(self._get_json(get_well_known_url(self.issuer, external=True)), at)
        except (Unavailable, Denied):
            if known is None:
                raise
            return known
        with self._lock:
            self._metadata = fresh
        return fresh

    def _read_metadata(self, document: Mapping[str, Any], at: datetime) -> _Metadata:
        if document.get("issuer") != self.issuer:  # Discovery §4.3: identical, character for character
            raise Unavailable(_unusable("its discovery document names another issuer"))
        urls: dict[str, str] = {}
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
            url = document.get(name, "" if name == "userinfo_endpoint" else None)
            try:
                urls[name] = demand_safe(url) if url != "" else ""
            except ValueError as why:
                raise Unavailable(_unusable(f"its {name} is not usable")) from why
        names_itself = document.get("authorization_response_iss_parameter_supported") is True  # RFC 9207 §3
        return _Metadata(**urls, names_itself=names_itself, fetched_at=at)

    def _get_json(self, url: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        with self._reaching() as client:
            answer = client.request("GET", url, headers=dict(headers or {}), withhold_token=True)
            document = answer.json() if answer.status_code == 200 else None
        if not isinstance(document, dict):
            raise Unavailable(_unusable(f"it answered {answer.status_code}"))
        return document

    @contextmanager
    def _reaching(self, judge: Callable[[AuthlibBaseError], GatewayError] = _refused) -> Iterator[Any]:
        """A client for one exchange; `judge` says what an OAuth error means, every other failure is Unavailable."""
        client = OAuth2Client(
            client_id=self._client_id,
            client_secret=self._client_secret or None,
            transport=Borrowed(self._transport),
            timeout=_TIMEOUT,
            headers=PLAIN,
            follow_redirects=False,
            trust_env=False,
        )
        try:
            with self._place(), client:
                yield client
        except AuthlibBaseError as no:
            raise judge(no) from no
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, RecursionError) as why:
            raise Unavailable(_unusable("it did not answer as it should")) from why

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of a few exchanges at a time; Unavailable at once when too many wait already, else within a second."""
        if not self._queue.acquire(blocking=False):
            raise Unavailable(_unusable("too many people sign in at this moment"))
        try:
            if not self._places.acquire(timeout=_WAIT_S):
                raise Unavailable(_unusable("it is slow to answer"))
            try:
                yield
            finally:
                self._places.release()
        finally:
            self._queue.release()


def _unusable(why: str) -> Refusal:
    return Refusal(
        "provider-unavailable",
        f"The identity provider cannot be used now: {why}.",
        next_steps=("Try again in a moment. Whoever is signed in stays signed in.",),
    )
