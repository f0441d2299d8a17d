import base64
import gzip
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from threading import Event, Semaphore
from time import sleep
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from gateway.adapters import oidc_probe, oidc_transport
from gateway.adapters.oidc import OidcProvider
from gateway.adapters.oidc_claims import LEEWAY_S
from gateway.adapters.oidc_transport import MAX_BODY
from gateway.core.errors import Denied, Unavailable
from tests.fakes import FakeClock

ISSUER = "https://idp.example"
NONCE = "the-nonce"
NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def jwk(key: Any, kid: str, **more: str) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": kid, **more}


@dataclass
class Idp:
    """An issuer behind httpx2's own mock transport: its keys, documents and answers can be bent."""

    rsa: RSAKey = field(default_factory=lambda: RSAKey.import_key(rsa.generate_private_key(65537, 2048)))
    ec: ECKey = field(default_factory=lambda: ECKey.import_key(ec.generate_private_key(ec.SECP256R1())))
    okp: OKPKey = field(default_factory=lambda: OKPKey.import_key(ed25519.Ed25519PrivateKey.generate()))
    metadata: dict[str, Any] = field(default_factory=dict)
    keys: list[dict[str, Any]] | None = None
    id_token: str = ""
    userinfo: dict[str, Any] | None = None
    calls: list[httpx2.Request] = field(default_factory=list)
    bend: Callable[[httpx2.Request], httpx2.Response | None] = lambda _: None

    def discovery(self) -> dict[str, Any]:
        document = {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/authorize",
            "token_endpoint": f"{ISSUER}/token",
            "jwks_uri": f"{ISSUER}/jwks",
            **({"userinfo_endpoint": f"{ISSUER}/userinfo"} if self.userinfo is not None else {}),
            **self.metadata,
        }
        return {key: value for key, value in document.items() if value is not None}

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.calls.append(request)
        if (bent := self.bend(request)) is not None:
            return bent
        keys = [jwk(self.rsa, "r1"), jwk(self.ec, "e1"), jwk(self.okp, "o1")] if self.keys is None else self.keys
        match request.url.path:
            case "/.well-known/openid-configuration":
                return httpx2.Response(200, json=self.discovery())
            case "/jwks":
                return httpx2.Response(200, json={"keys": keys})
            case "/token":
                return httpx2.Response(
                    200, json={"access_token": "at", "token_type": "Bearer", "id_token": self.id_token}
                )
            case "/userinfo":
                return httpx2.Response(200, json=self.userinfo)
        return httpx2.Response(404)

    def sign(self, claims: dict[str, Any], header: dict[str, Any] | None = None, key: Any = None) -> str:
        header = header or {"alg": "RS256", "kid": "r1"}
        return jwt.encode(header, claims, key or self.rsa, algorithms=[header["alg"]])


@pytest.fixture
def idp() -> Idp:
    return Idp()


@pytest.fixture
def moving() -> FakeClock:
    return FakeClock(NOW)


def provider_of(idp: Idp, clock: FakeClock, **more: Any) -> OidcProvider:
    options = {"issuer": ISSUER, "client_id": "gw", "client_secret": "s3cret", **more}
    return OidcProvider(
        **options, redirect_uri="https://gw.example/callback", clock=clock, transport=httpx2.MockTransport(idp.answer)
    )


def claims(**more: Any) -> dict[str, Any]:
    at = int(NOW.timestamp())
    good = {"iss": ISSUER, "sub": "s1", "aud": "gw", "exp": at + 300, "iat": at, "nonce": NONCE, "groups": ["leads"]}
    return {key: value for key, value in {**good, **more}.items() if value is not None}


def redeem(idp: Idp, clock: FakeClock, token: str) -> Any:
    idp.id_token = token
    return provider_of(idp, clock).redeem(code="c", verifier="v" * 43, nonce=NONCE).claims


@pytest.mark.parametrize(
    ("alg", "kid", "key"),
    [("RS256", "r1", "rsa"), ("ES256", "e1", "ec"), ("Ed25519", "o1", "okp")],
)
def test_good_tokens_are_believed(idp: Idp, moving: FakeClock, alg: str, kid: str, key: str) -> None:
    told = redeem(idp, moving, idp.sign(claims(), {"alg": alg, "kid": kid}, getattr(idp, key)))
    assert told["sub"] == "s1"
    assert told["groups"] == ["leads"]


def test_the_older_name_of_ed25519_is_believed(idp: Idp, moving: FakeClock) -> None:
    head = b64(json.dumps({"alg": "EdDSA", "kid": "o1"}).encode()) + "." + b64(json.dumps(claims()).encode())
    signature = idp.okp.private_key.sign(head.encode())
    assert redeem(idp, moving, f"{head}.{b64(signature)}")["sub"] == "s1"


def test_the_code_is_redeemed_with_verifier_and_client_secret(idp: Idp, moving: FakeClock) -> None:
    redeem(idp, moving, idp.sign(claims()))
    sent = next(c for c in idp.calls if c.url.path == "/token")
    form = parse_qs(sent.content.decode())
    assert form["code_verifier"] == ["v" * 43]
    assert form["redirect_uri"] == ["https://gw.example/callback"]
    assert base64.b64decode(sent.headers["authorization"].split()[1]) == b"gw:s3cret"
    assert "s3cret" not in str(sent.url)


def test_the_authorization_url_holds_what_binds_the_login(idp: Idp, moving: FakeClock) -> None:
    url = provider_of(idp, moving).authorization_url(state="st", nonce="no", challenge="ch")
    query = {key: value[0] for key, value in parse_qs(urlsplit(url).query).items()}
    assert url.startswith(f"{ISSUER}/authorize?")
    assert query == {
        "response_type": "code", "client_id": "gw", "redirect_uri": "https://gw.example/callback",
        "scope": "openid profile email", "state": "st", "nonce": "no", "code_challenge": "ch",
        "code_challenge_method": "S256",
    }  # fmt: skip


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw_token(header: dict[str, Any], body: dict[str, Any], signature: bytes = b"") -> str:
    return ".".join((b64(json.dumps(header).encode()), b64(json.dumps(body).encode()), b64(signature)))


def hmac_with_public_key(idp: Idp) -> str:
    public = idp.rsa.as_pem(private=False)
    import hashlib
    import hmac

    head = b64(json.dumps({"alg": "HS256", "kid": "r1"}).encode()) + "." + b64(json.dumps(claims()).encode())
    return head + "." + b64(hmac.digest(public, head.encode(), hashlib.sha256))


def mallory() -> RSAKey:
    return RSAKey.import_key(rsa.generate_private_key(65537, 2048))


def with_own_jwk(idp: Idp) -> str:
    key = mallory()
    return _sign_raw(key, {"alg": "RS256", "jwk": key.as_dict(private=False)})


def _sign_raw(key: RSAKey, header: dict[str, Any], body: dict[str, Any] | None = None) -> str:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    head = b64(json.dumps(header).encode()) + "." + b64(json.dumps(body or claims()).encode())
    signature = key.private_key.sign(head.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{head}.{b64(signature)}"


def tampered(idp: Idp) -> str:
    head, _, signature = idp.sign(claims()).split(".")
    return f"{head}.{b64(json.dumps(claims(sub='admin')).encode())}.{signature}"


FORGED: dict[str, Callable[[Idp], str]] = {
    "alg none": lambda _: raw_token({"alg": "none"}, claims()),
    "alg none, upper": lambda _: raw_token({"alg": "NONE", "kid": "r1"}, claims()),
    "no alg": lambda _: raw_token({"kid": "r1"}, claims()),
    "alg a list": lambda _: raw_token({"alg": ["RS256"], "kid": "r1"}, claims()),
    "HS256 with the public key": hmac_with_public_key,
    "HS256 with the client secret": lambda idp: idp.sign(
        claims(), {"alg": "HS256", "kid": "r1"}, OctKey.import_key("s3cret" * 8)
    ),
    "RS384, not on the list": lambda idp: idp.sign(claims(), {"alg": "RS384", "kid": "r1"}),
    "own key in jwk": with_own_jwk,
    "own key with the issuer's kid": lambda _: _sign_raw(mallory(), {"alg": "RS256", "kid": "r1"}),
    "jku": lambda idp: _sign_raw(idp.rsa, {"alg": "RS256", "kid": "r1", "jku": "https://evil.example/jwks"}),
    "x5u": lambda idp: _sign_raw(idp.rsa, {"alg": "RS256", "kid": "r1", "x5u": "https://evil.example"}),
    "x5c": lambda idp: _sign_raw(idp.rsa, {"alg": "RS256", "kid": "r1", "x5c": ["AAAA"]}),
    "crit": lambda idp: _sign_raw(idp.rsa, {"alg": "RS256", "kid": "r1", "crit": ["x"], "x": 1}),
    "crit of something known": lambda idp: _sign_raw(idp.rsa, {"alg": "RS256", "kid": "r1", "crit": ["kid"]}),
    "b64 false": lambda idp: _sign_raw(idp.rsa, {"alg": "RS256", "kid": "r1", "b64": False}),
    "kid unknown": lambda idp: _sign_raw(idp.rsa, {"alg": "RS256", "kid": "nope"}),
    "kid a path": lambda idp: _sign_raw(idp.rsa, {"alg": "RS256", "kid": "../../etc/passwd"}),
    "kid a number": lambda idp: _sign_raw(idp.rsa, {"alg": "RS256", "kid": 1}),
    "no kid while there are several keys": lambda idp: _sign_raw(idp.rsa, {"alg": "RS256"}),
    "key of another type": lambda idp: _sign_raw(idp.rsa, {"alg": "RS256", "kid": "e1"}),
    "no signature": lambda idp: idp.sign(claims()).rsplit(".", 1)[0] + ".",
    "tampered": tampered,
    "two parts": lambda idp: idp.sign(claims()).rsplit(".", 1)[0],
    "five parts (JWE)": lambda idp: idp.sign(claims()) + ".a.b",
    "empty": lambda _: "",
    "huge": lambda idp: idp.sign(claims(pad="x" * 70_000)),
    "header no JSON": lambda _: "e30x.e30.e30",
    "header deep": lambda _: b64(b"[" * 40_000) + ".e30.e30",
    "other issuer": lambda idp: idp.sign(claims(iss="https://evil.example")),
    "issuer with a slash": lambda idp: idp.sign(claims(iss=ISSUER + "/")),
    "no issuer": lambda idp: idp.sign(claims(iss=None)),
    "other audience": lambda idp: idp.sign(claims(aud="other")),
    "no audience": lambda idp: idp.sign(claims(aud=None)),
    "audience an object": lambda idp: idp.sign(claims(aud={"gw": 1})),
    "several audiences without azp": lambda idp: idp.sign(claims(aud=["gw", "other"])),
    "azp of another": lambda idp: idp.sign(claims(azp="other")),
    "expired": lambda idp: idp.sign(claims(exp=int(NOW.timestamp()) - LEEWAY_S)),
    "no exp": lambda idp: idp.sign(claims(exp=None)),
    "exp true": lambda idp: idp.sign(claims(exp=True)),
    "exp text": lambda idp: idp.sign(claims(exp="9999999999")),
    "exp NaN": lambda idp: idp.sign(claims(exp=float("nan"))),
    "from the future": lambda idp: idp.sign(claims(iat=int(NOW.timestamp()) + 120)),
    "not yet valid": lambda idp: idp.sign(claims(nbf=int(NOW.timestamp()) + 120)),
    "no iat": lambda idp: idp.sign(claims(iat=None)),
    "no nonce": lambda idp: idp.sign(claims(nonce=None)),
    "other nonce": lambda idp: idp.sign(claims(nonce="other")),
    "no sub": lambda idp: idp.sign(claims(sub=None)),
    "at_hash of another token": lambda idp: idp.sign(claims(at_hash=b64(sha256(b"other").digest()[:16]))),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
def test_forged_tokens_are_refused(idp: Idp, moving: FakeClock, forge: Callable[[Idp], str]) -> None:
    token = forge(idp)
    with pytest.raises(Denied) as no:
        redeem(idp, moving, token)
    assert no.value.refusal.code == "id-token-refused"
    assert not token or token not in no.value.refusal.sentence()
    assert not any("evil" in str(call.url) for call in idp.calls)


def test_leeway_is_a_minute(idp: Idp, moving: FakeClock) -> None:
    at = int(NOW.timestamp())
    assert redeem(idp, moving, idp.sign(claims(exp=at - LEEWAY_S + 1)))["sub"] == "s1"
    assert redeem(idp, moving, idp.sign(claims(iat=at + LEEWAY_S)))["sub"] == "s1"


def test_several_audiences_with_azp_are_fine(idp: Idp, moving: FakeClock) -> None:
    assert redeem(idp, moving, idp.sign(claims(aud=["gw", "other"], azp="gw")))["sub"] == "s1"


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "oct", "k": b64(b"x" * 32), "kid": "r1"}, {"kty": "RSA", "kid": "r1"}, "text", None,
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "r1"},
    ],
)  # fmt: skip
def test_keys_that_may_not_sign_are_no_keys(idp: Idp, moving: FakeClock, key: Any) -> None:
    idp.keys = [key]
    with pytest.raises(Unavailable):
        redeem(idp, moving, idp.sign(claims()))


def test_an_encryption_key_does_not_sign(idp: Idp, moving: FakeClock) -> None:
    idp.keys = [jwk(idp.rsa, "r1", use="enc"), jwk(idp.ec, "e1")]
    with pytest.raises(Denied):
        redeem(idp, moving, idp.sign(claims()))


def test_a_new_key_is_found_and_an_unknown_one_is_not_asked_for_again_and_again(idp: Idp, moving: FakeClock) -> None:
    provider = provider_of(idp, moving)
    idp.id_token = idp.sign(claims())
    provider.redeem(code="c", verifier="v", nonce=NONCE)
    fresh = mallory()
    idp.keys = [jwk(fresh, "r2")]
    idp.id_token = idp.sign(claims(), {"alg": "RS256", "kid": "r2"}, fresh)
    with pytest.raises(Denied):
        provider.redeem(code="c", verifier="v", nonce=NONCE)  # too soon after the last look
    moving.advance(timedelta(seconds=31))
    assert provider.redeem(code="c", verifier="v", nonce=NONCE).claims["sub"] == "s1"
    fetched = sum(c.url.path == "/jwks" for c in idp.calls)
    for _ in range(5):
        idp.id_token = _sign_raw(fresh, {"alg": "RS256", "kid": "guess"})
        with pytest.raises(Denied):
            provider.redeem(code="c", verifier="v", nonce=NONCE)
    assert sum(c.url.path == "/jwks" for c in idp.calls) == fetched


def test_known_keys_go_on_serving_while_the_key_set_cannot_be_fetched(idp: Idp, moving: FakeClock) -> None:
    provider = provider_of(idp, moving)
    idp.id_token = idp.sign(claims())
    provider.redeem(code="c", verifier="v", nonce=NONCE)
    idp.bend = lambda r: httpx2.Response(500) if r.url.path == "/jwks" else None
    moving.advance(timedelta(minutes=11))
    at = int(moving.now().timestamp())
    idp.id_token = idp.sign(claims(iat=at, exp=at + 300))
    assert provider.redeem(code="c", verifier="v", nonce=NONCE).claims["sub"] == "s1"


class Hanging:
    """Makes the provider hang at one path until `answers` is set."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.asked = Semaphore(0)
        self.answers = Event()

    def __call__(self, request: httpx2.Request) -> httpx2.Response | None:
        if request.url.path == self.path:
            self.asked.release()
            assert self.answers.wait(30)
            return httpx2.Response(500)
        return None


def test_a_provider_that_hangs_keeps_few_threads(idp: Idp, moving: FakeClock) -> None:
    idp.bend = hanging = Hanging("/token")
    provider = provider_of(idp, moving)
    provider.authorization_url(state="s", nonce="n", challenge="c")
    with ThreadPoolExecutor(20) as threads:
        waits = [threads.submit(provider.redeem, code="c", verifier="v", nonce=NONCE) for _ in range(20)]
        told = [next(finished) for finished in [as_completed(waits, timeout=20)] for _ in range(16)]
        assert all(isinstance(each.exception(), Unavailable) for each in told)
        assert sum(hanging.asked.acquire(blocking=False) for _ in range(20)) == 4
        hanging.answers.set()
    idp.bend = lambda _: None
    idp.id_token = idp.sign(claims())
    assert provider.redeem(code="c", verifier="v", nonce=NONCE).claims["sub"] == "s1"  # every place was given back


def test_what_is_known_serves_while_a_newer_discovery_document_hangs(idp: Idp, moving: FakeClock) -> None:
    provider = provider_of(idp, moving)
    url = provider.authorization_url(state="s", nonce="n", challenge="c")
    idp.bend = hanging = Hanging("/.well-known/openid-configuration")
    moving.advance(timedelta(hours=2))
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(provider.authorization_url, state="s", nonce="n", challenge="c")
        assert hanging.asked.acquire(timeout=20)
        second = threads.submit(provider.authorization_url, state="s", nonce="n", challenge="c")
        try:
            assert second.result(timeout=20) == url
            assert not first.done()
        finally:
            hanging.answers.set()
        assert first.result(timeout=20) == url, "also when it fails in the end"
    asked = len(idp.calls)
    provider.authorization_url(state="s", nonce="n", challenge="c")
    assert len(idp.calls) == asked, "not asked at once again"
    moving.advance(timedelta(seconds=31))
    provider.authorization_url(state="s", nonce="n", challenge="c")
    assert len(idp.calls) == asked + 1


def test_known_keys_verify_while_newer_ones_hang(idp: Idp, moving: FakeClock) -> None:
    provider = provider_of(idp, moving)
    idp.id_token = idp.sign(claims())
    provider.redeem(code="c", verifier="v", nonce=NONCE)
    idp.bend = hanging = Hanging("/jwks")
    moving.advance(timedelta(minutes=2))
    unknown = _sign_raw(mallory(), {"alg": "RS256", "kid": "guess"})
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(provider.verify_id_token, unknown, nonce=NONCE)
        assert hanging.asked.acquire(timeout=20)
        second = threads.submit(provider.verify_id_token, idp.id_token, nonce=NONCE)
        try:
            assert second.result(timeout=20)["sub"] == "s1"
        finally:
            hanging.answers.set()
        assert isinstance(first.exception(timeout=20), Unavailable)


def test_userinfo_adds_what_the_token_lacks_and_changes_nothing(idp: Idp, moving: FakeClock) -> None:
    idp.userinfo = {"sub": "s1", "groups": ["auditors"], "email": "a@b.test", "iss": "evil", "nonce": "x"}
    told = redeem(idp, moving, idp.sign(claims()))
    assert told["groups"] == ["leads"]
    assert told["email"] == "a@b.test"
    assert told["iss"] == ISSUER


def test_userinfo_about_somebody_else_is_refused(idp: Idp, moving: FakeClock) -> None:
    idp.userinfo = {"sub": "s2", "groups": ["leads"]}
    with pytest.raises(Denied) as no:
        redeem(idp, moving, idp.sign(claims(groups=None)))
    assert no.value.refusal.code == "userinfo-mismatch"


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example"}, {"issuer": ISSUER + "/"}, {"issuer": None}, {"jwks_uri": None},
        {"jwks_uri": "http://idp.example/jwks"}, {"token_endpoint": "http://10.0.0.1/token"},
        {"token_endpoint": 7}, {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": "file:///etc/passwd"}, {"jwks_uri": "https://user@idp.example/jwks"}, {"userinfo_endpoint": "ftp://x"},
    ],
)  # fmt: skip
def test_a_discovery_document_that_makes_no_sense_is_not_used(
    idp: Idp, moving: FakeClock, metadata: dict[str, Any]
) -> None:
    idp.metadata = metadata
    with pytest.raises(Unavailable):
        provider_of(idp, moving).authorization_url(state="s", nonce="n", challenge="c")


@pytest.mark.parametrize("issuer", ["http://idp.example", "idp.example", "ftp://idp.example", "", "https://a@b"])
def test_an_issuer_is_https_or_on_this_machine(idp: Idp, moving: FakeClock, issuer: str) -> None:
    with pytest.raises(ValueError):
        provider_of(idp, moving, issuer=issuer)


def broken(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("down", request=request)


def endless(_: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, content=b" " * (MAX_BODY + 1))


def compressed(_: httpx2.Request) -> httpx2.Response:
    """Within the limit as it is sent, beyond it once read."""
    large = json.dumps({**Idp().discovery(), "more": " " * MAX_BODY}).encode()
    twice = gzip.compress(gzip.compress(large))
    return httpx2.Response(200, stream=Pieces([twice]), headers={"content-encoding": "gzip, gzip"})


class Pieces(httpx2.SyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces


@pytest.mark.parametrize(
    "bend",
    [
        broken, endless, lambda _: httpx2.Response(500), lambda _: httpx2.Response(200, content=b"<html>"),
        lambda _: httpx2.Response(200, json=[]), lambda _: httpx2.Response(302, headers={"location": "https://evil.example"}),
        lambda _: httpx2.Response(200, content=b"[" * 100_000), compressed,
    ],
)  # fmt: skip
def test_a_provider_that_does_not_answer_well_is_unavailable(
    idp: Idp, moving: FakeClock, bend: Callable[[httpx2.Request], httpx2.Response]
) -> None:
    idp.bend = bend
    with pytest.raises(Unavailable) as no:
        redeem(idp, moving, idp.sign(claims()))
    assert "evil" not in " ".join(str(c.url) for c in idp.calls)
    assert "s3cret" not in no.value.refusal.sentence()


def test_a_refused_code_is_a_no(idp: Idp, moving: FakeClock) -> None:
    bad = httpx2.Response(400, json={"error": "invalid_grant", "error_description": "\x1b[31mno"})
    idp.bend = lambda r: bad if r.url.path == "/token" else None
    with pytest.raises(Denied) as no:
        redeem(idp, moving, idp.sign(claims()))
    assert no.value.refusal.code == "code-refused"


def test_a_token_answer_without_id_token_is_unusable(idp: Idp, moving: FakeClock) -> None:
    idp.bend = lambda r: httpx2.Response(200, json={"access_token": "at"}) if r.url.path == "/token" else None
    with pytest.raises(Unavailable):
        redeem(idp, moving, "unused")


# ---------------------------------------------------------------- is it there at all?


def test_a_provider_that_answers_is_there(idp: Idp, moving: FakeClock) -> None:
    assert provider_of(idp, moving).is_reachable()


@pytest.mark.parametrize(
    "bend",
    [
        broken, endless, lambda _: httpx2.Response(500), lambda _: httpx2.Response(200, content=b"<html>"),
        lambda _: httpx2.Response(200, json=[]), lambda _: httpx2.Response(200, json={"issuer": "https://evil.example"}),
        lambda _: httpx2.Response(302, headers={"location": "https://evil.example"}),
    ],
)  # fmt: skip
def test_a_provider_that_does_not_answer_as_one_is_not_there(
    idp: Idp, moving: FakeClock, bend: Callable[[httpx2.Request], httpx2.Response]
) -> None:
    asked = provider_of(idp, moving)
    assert asked.authorization_url(state="s", nonce="n", challenge="c")  # it is known from before
    idp.bend = bend
    calls = len(idp.calls)
    assert not asked.is_reachable()
    assert len(idp.calls) == calls + 2
    assert not asked.is_reachable()
    assert len(idp.calls) == calls + 2  # who asks again at once is told the same
    idp.bend = lambda _: None
    moving.advance(timedelta(seconds=2))
    assert asked.is_reachable()


def test_one_failure_is_no_outage(idp: Idp, moving: FakeClock) -> None:
    failures = [httpx2.Response(502)]
    idp.bend = lambda _: failures.pop() if failures else None
    assert provider_of(idp, moving).is_reachable()


def test_many_who_ask_while_it_hangs_keep_few_threads_and_hold_no_door_shut(idp: Idp, moving: FakeClock) -> None:
    release, began = Event(), Event()

    def hang(_: httpx2.Request) -> httpx2.Response:
        began.set()
        release.wait(30)
        return httpx2.Response(500)

    idp.bend = hang
    asked = provider_of(idp, moving)
    with ThreadPoolExecutor(24) as pool:
        answers = [pool.submit(asked.is_reachable) for _ in range(24)]
        assert began.wait(10)
        for _ in range(2000):  # until all have come, and only those wait who may
            done = [answer for answer in answers if answer.done()]
            if len(done) >= 24 - 8:
                break
            sleep(0.01)
        assert len(done) >= 24 - 8
        assert all(isinstance(answer.exception(), Unavailable) for answer in done)  # not known is not "it answers"
        release.set()
        wait(answers, 30)
    told = [answer.result() for answer in answers if answer.exception() is None]
    assert 1 <= len(told) <= 8
    assert not any(told)


def test_while_all_places_are_taken_its_last_result_stands_for_a_moment(idp: Idp, moving: FakeClock) -> None:
    down = [True]
    idp.bend = lambda _: httpx2.Response(503) if down[0] else None
    probe = provider_of(idp, moving)._probe
    for is_there, good_for in ((False, timedelta(minutes=1)), (True, timedelta(seconds=1))):
        down[0] = not is_there
        moving.advance(timedelta(seconds=2))
        assert probe.is_reachable() is is_there
        for _ in range(8):
            assert probe._places.acquire(blocking=False)
        moving.advance(good_for)
        assert probe.is_reachable() is is_there
        moving.advance(timedelta(seconds=1))
        with pytest.raises(Unavailable):
            probe.is_reachable()
        probe._places.release(8)


class Dripping(httpx2.SyncByteStream):
    """A body that never ends, each piece of it in time; the clock of the transport goes on with each."""

    def __init__(self, past: Callable[[], None]) -> None:
        self.past = past
        self.pieces = 0

    def __iter__(self) -> Iterator[bytes]:
        while self.pieces < 1000:
            self.pieces += 1
            self.past()
            yield b" "


def test_a_provider_that_drips_its_answer_is_not_there(
    idp: Idp, moving: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(oidc_transport, "monotonic", lambda: now[0])

    def second() -> None:
        now[0] += 1

    drips: list[Dripping] = []

    def drip(_: httpx2.Request) -> httpx2.Response:
        drips.append(Dripping(second))
        return httpx2.Response(200, stream=drips[-1])

    idp.bend = drip
    assert not provider_of(idp, moving).is_reachable()
    assert [each.pieces for each in drips] == [oidc_transport.TOTAL_S + 1] * 2


def test_a_provider_that_holds_whoever_asks_it_holds_nobody_else(
    idp: Idp, moving: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while it drips a head, which nothing else bounds: the door for emergencies opens."""
    now = [0.0]
    monkeypatch.setattr(oidc_probe, "monotonic", lambda: now[0])
    release, began = Event(), Event()

    def hang(_: httpx2.Request) -> httpx2.Response:
        began.set()
        release.wait(30)
        return httpx2.Response(500)

    idp.bend = hang
    asked = provider_of(idp, moving)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(asked.is_reachable)
        assert began.wait(10)
        while asked._probe._places.acquire(blocking=False):
            pass  # by those who wait for the answer
        try:
            with pytest.raises(Unavailable):
                asked.is_reachable()
            now[0] = oidc_probe._LONGEST_S + 1
            assert [asked.is_reachable() for _ in range(20)] == [False] * 20
        finally:
            release.set()
            asked._probe._places.release(7)
        assert held.result(30) is False
    idp.bend = lambda _: None
    moving.advance(timedelta(seconds=2))
    assert asked.is_reachable()


def test_asking_anew_is_said_to_the_provider(idp: Idp, moving: FakeClock) -> None:
    sent = provider_of(idp, moving).authorization_url(state="s", nonce="n", challenge="c", fresh=True)
    query = parse_qs(urlsplit(sent).query)
    assert (query["prompt"], query["max_age"]) == (["login"], ["0"])
    usual = provider_of(idp, moving).authorization_url(state="s", nonce="n", challenge="c")
    assert "prompt" not in parse_qs(urlsplit(usual).query)


def test_a_compressed_answer_is_none_and_no_question_asks_for_one(idp: Idp, moving: FakeClock) -> None:
    assert provider_of(idp, moving).is_reachable()
    redeem(idp, moving, idp.sign(claims()))
    assert {call.headers["accept-encoding"] for call in idp.calls} == {"identity"}
    idp.bend = compressed
    moving.advance(timedelta(minutes=1))
    assert not provider_of(idp, moving).is_reachable()
