"""A person's credential is good with the proof of the device that signed in, and with nothing else (RFC 9449)."""

import json
import os
from base64 import urlsafe_b64encode
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

from gateway.adapters.dpop import SignedDeviceProofs
from gateway.adapters.jose import OneAlgorithm
from gateway.app.possession import SeenProofs, token_digest
from gateway.app.possession_ports import ForgedProofError, NoDeviceProofs
from gateway.app.refuse_stranger import MOST_TOLD
from gateway.core.device_proof import DeviceProof
from gateway.edges.cli.device import DeviceKey
from tests.unit.edges.device import DEVICE
from tests.unit.edges.http.test_login import begin, poll
from tests.unit.edges.stage import Stage

ME = "http://testserver/api/whoami"
GRANT = "urn:ietf:params:oauth:grant-type:device_code"


class Caller:
    """Somebody with a token, who makes each proof by hand."""

    def __init__(self, client: TestClient, stage: Stage) -> None:
        self.client, self.stage = client, stage
        self.user = stage.user("oncall")
        self.token = stage.token(self.user)

    def proof(
        self, method: str = "GET", url: str = ME, *, token: str = "", key: DeviceKey = DEVICE, off: int = 0
    ) -> str:
        at = self.stage.clock.now().timestamp() + off
        return key.proof(method, url, token or self.token, at)

    def get(self, *proofs: str, scheme: str = "DPoP") -> tuple[int, str]:
        head = [("authorization", f"{scheme} {self.token}"), *(("dpop", proof) for proof in proofs)]
        answer = self.client.get("/api/whoami", headers=head)
        told = answer.json()
        if answer.status_code == 401:
            assert told["next_steps"]
        return answer.status_code, told.get("code", "")


@pytest.fixture
def caller(client: TestClient, stage: Stage) -> Caller:
    return Caller(client, stage)


def test_the_device_that_signed_in(caller: Caller) -> None:
    assert caller.get(caller.proof()) == (200, "")
    assert caller.get(caller.proof(), scheme="dpop") == (200, "")
    assert caller.get(caller.proof(url=f"{ME}?x=1#y")) == (200, "")


def test_a_stolen_token_is_worth_nothing(caller: Caller, stage: Stage) -> None:
    for scheme in ("DPoP", "Bearer"):
        answer = caller.client.get("/api/whoami", headers={"authorization": f"{scheme} {caller.token}", "dpop": ""})
        assert (answer.status_code, answer.json()["code"]) in ((401, "proof-missing"), (401, "proof-broken"))
    assert caller.get(caller.proof(key=DeviceKey.new())) == (401, "proof-of-another-device")
    assert caller.get(caller.proof(), scheme="Bearer") == (401, "proof-missing")  # RFC 9449 §7.2: no downgrade
    assert stage.events().count(("login:unproven", "denied")) == 4


def test_a_proof_is_for_one_request(caller: Caller, stage: Stage) -> None:
    other = stage.token(caller.user)
    wrong = {
        "htm": (caller.proof("POST"), "proof-wrong"),
        "htu": (caller.proof(url="http://testserver/api/grants"), "proof-wrong"),
        "host": (caller.proof(url="http://other.example/api/whoami"), "proof-elsewhere"),
        "scheme": (caller.proof(url="https://testserver/api/whoami"), "proof-elsewhere"),
        "no url": (caller.proof(url="http://[x/api/whoami"), "proof-wrong"),
        "old": (caller.proof(off=-61), "proof-stale"),
        "ahead": (caller.proof(off=61), "proof-stale"),
        "ten minutes off": (caller.proof(off=600), "proof-stale"),
        "ath": (caller.proof(token=other), "proof-wrong"),
        "no ath": (DEVICE.proof("GET", ME, "", stage.clock.now().timestamp()), "proof-wrong"),
    }
    assert {name: caller.get(proof) for name, (proof, _) in wrong.items()} == {
        name: (401, code) for name, (_, code) in wrong.items()
    }
    assert caller.get(caller.proof(), caller.proof()) == (401, "proof-broken")  # §4.3, 1: exactly one


def test_a_proof_is_taken_once_and_never_again(caller: Caller, stage: Stage) -> None:
    proof = caller.proof(off=60)
    assert caller.get(proof) == (200, "")
    for _ in range(4):
        assert caller.get(proof) == (401, "proof-reused")
        stage.clock.advance(timedelta(seconds=30))
    stage.clock.advance(timedelta(seconds=1))
    assert caller.get(proof) == (401, "proof-stale")


def test_the_clients_host_header_decides_nothing(caller: Caller) -> None:
    proof = caller.proof(url="http://evil.example/api/whoami")
    head = {"authorization": f"DPoP {caller.token}", "dpop": proof, "host": "evil.example"}
    assert caller.client.get("/api/whoami", headers=head).json()["code"] == "proof-elsewhere"


def test_a_sign_in_from_before_is_asked_to_sign_in_anew(caller: Caller, stage: Stage) -> None:
    caller.token = stage.token(caller.user, bound=False)
    assert caller.get(caller.proof()) == (401, "sign-in-unbound")


def test_an_emergency_sign_in_is_bound_too(caller: Caller, stage: Stage) -> None:
    caller.token = stage.token(caller.user, "emergency", "gwe_")
    assert caller.get(caller.proof()) == (200, "")
    assert caller.get(caller.proof(key=DeviceKey.new())) == (401, "proof-of-another-device")


def test_what_is_noted_of_copies_has_a_bound(caller: Caller, stage: Stage) -> None:
    for _ in range(MOST_TOLD + 5):
        assert caller.get("x")[0] == 401
    assert stage.events().count(("login:unproven", "denied")) == MOST_TOLD


def test_signing_in_takes_a_key_and_ends_at_the_device_that_began(client: TestClient, stage: Stage) -> None:
    assert client.post("/api/device/code", headers={"dpop": "x"}).json()["code"] == "proof-broken"
    code = begin(client)["device_code"]
    form = {"grant_type": GRANT, "device_code": code}
    at = stage.clock.now().timestamp()
    theirs = DeviceKey.new().proof("POST", "http://testserver/api/device/token", "", at)
    for proof in (theirs, "x"):
        answer = client.post("/api/device/token", data=form, headers={"dpop": proof})
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof")
    assert poll(client, stage, code)[1]["error"] == "authorization_pending"


def test_a_renewed_secret_keeps_its_device(caller: Caller) -> None:
    url = "http://testserver/api/token/rotate"
    head = {"authorization": f"DPoP {caller.token}", "dpop": caller.proof("POST", url)}
    caller.token = caller.client.post("/api/token/rotate", headers=head).json()["access_token"]
    assert caller.get(caller.proof()) == (200, "")
    assert caller.get(caller.proof(key=DeviceKey.new())) == (401, "proof-of-another-device")


# ---------------------------------------------------------------- the proof itself


def made(head: dict[str, Any], key: Any, claims: Any = None) -> str:
    body = claims if isinstance(claims, bytes) else json.dumps(claims or CLAIMS).encode()
    return jws.serialize_compact(head, body, key, registry=OneAlgorithm(algorithms=[head["alg"]]))


CLAIMS = {"jti": "1", "htm": "GET", "htu": ME, "iat": 1_700_000_000}


def test_another_program_may_use_another_kind_of_key() -> None:
    key = ECKey.generate_key("P-256")
    head = {"typ": "dpop+jwt", "alg": "ES256", "jwk": key.as_dict(private=False)}
    told = SignedDeviceProofs().verify(made(head, key))
    assert (told.method, told.url, told.id, told.key) == ("GET", ME, "1", key.thumbprint())


def test_our_own_program_names_its_key_and_hides_its_seed() -> None:
    told = SignedDeviceProofs().verify(DEVICE.proof("POST", ME, "secret", 1_700_000_000.9))
    assert (told.key, told.token_digest) == (DEVICE.thumbprint, token_digest("secret"))
    assert "seed" not in repr(DEVICE)


def _forged() -> dict[str, str]:
    key, other, rsa = ECKey.generate_key("P-256"), ECKey.generate_key("P-256"), RSAKey.generate_key(2048)
    jwk, secret = key.as_dict(private=False), OctKey.generate_key(256)
    head = {"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}
    unsigned = urlsafe_b64encode(json.dumps({**head, "alg": "none"}).encode()).rstrip(b"=").decode()
    curve = ECKey.generate_key("P-384")
    good = made(head, key)
    return {
        "private half": made({**head, "jwk": key.as_dict(private=True)}, key),
        "another key's": made(head, other),
        "no type": made({"alg": "ES256", "jwk": jwk}, key),
        "another type": made({**head, "typ": "JWT"}, key),
        "rsa": made({"typ": "dpop+jwt", "alg": "RS256", "jwk": rsa.as_dict(private=False)}, rsa),
        "symmetric": made({"typ": "dpop+jwt", "alg": "HS256", "jwk": secret.as_dict()}, secret),
        "none": f"{unsigned}.{good.split('.')[1]}.",
        "another curve": made({**head, "alg": "ES384", "jwk": curve.as_dict(private=False)}, curve),
        "curve under our name": made({**head, "jwk": {**jwk, "crv": "P-384"}}, key),
        "key of another algorithm": made({**head, "jwk": {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43}}, key),
        "no key": made({"typ": "dpop+jwt", "alg": "ES256"}, key),
        "text for a time": made(head, key, {**CLAIMS, "iat": "1"}),
        "true for a time": made(head, key, {**CLAIMS, "iat": True}),
        "the end of time": made(head, key, {**CLAIMS, "iat": 10**18}),
        "no object": made(head, key, b"[]"),
        "no json": made(head, key, b"{"),
        "cut": good[:-4],
        "longer": good + "A",
        "too long": "x" * 9000,
        "not ascii": "ä" + good,
        "empty": "",
    }


@pytest.mark.parametrize(("name", "text"), _forged().items())
def test_what_is_no_proof(name: str, text: str) -> None:
    with pytest.raises(ForgedProofError):
        SignedDeviceProofs().verify(text)


def test_noise_is_no_proof() -> None:
    good = DEVICE.proof("GET", ME).encode()
    for _ in range(500):
        place, byte = int.from_bytes(os.urandom(2)) % (len(good) - 1), os.urandom(1)
        text = (good[:place] + byte + good[place + 1 :]).decode("latin-1")
        if text.encode("latin-1") != good:
            with pytest.raises(ForgedProofError):
                SignedDeviceProofs().verify(text)


def test_strangers_leave_nothing_in_the_memory_of_proofs(caller: Caller, stage: Stage) -> None:
    """Anybody can make keys, and with each of them proofs: they must not use up the room of those who signed in."""
    seen = caller.client.app.state.wiring.seen  # type: ignore[attr-defined]  # a FastAPI underneath
    at = stage.clock.now().timestamp()
    for _ in range(5):
        theirs = DeviceKey.new()
        unknown = {"authorization": "DPoP gwc_made-up", "dpop": theirs.proof("GET", ME, "gwc_made-up", at)}
        assert caller.client.get("/api/whoami", headers=unknown).status_code == 401
        assert caller.get(caller.proof(key=theirs)) == (401, "proof-of-another-device")
        begun = {"dpop": theirs.proof("POST", "http://testserver/api/device/code", "", at)}
        assert caller.client.post("/api/device/code", headers=begun).status_code == 200
        token = {"dpop": theirs.proof("POST", "http://testserver/api/device/token", "", at)}
        form = {"grant_type": GRANT, "device_code": "gwv_made-up"}
        assert caller.client.post("/api/device/token", data=form, headers=token).status_code == 400
    assert len(seen) == 0
    assert caller.get(caller.proof()) == (200, "")
    assert len(seen) == 1


def test_where_no_proofs_are_wired_none_is_taken() -> None:
    with pytest.raises(ForgedProofError):
        NoDeviceProofs().verify("x")


def test_the_memory_of_proofs_is_bounded_and_forgets_in_time(stage: Stage) -> None:
    at = stage.clock.now()

    def of(key: str, name: str) -> DeviceProof:
        return DeviceProof(key, "GET", ME, at, name)

    seen = SeenProofs(most=4, most_of_one=3)
    assert [seen.refusal(of("a", str(i)), at) for i in range(3)] == [None] * 3
    assert [no.code for i in (3, 0) if (no := seen.refusal(of("a", str(i)), at))] == [
        "too-many-attempts",
        "proof-reused",
    ]
    assert seen.refusal(of("b", "0"), at) is None  # one device does not keep out another
    assert seen.refusal(of("b", "1"), at) is not None
    later = at + timedelta(minutes=2, seconds=1)
    assert seen.refusal(of("a", "0"), later) is None
