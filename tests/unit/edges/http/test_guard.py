import asyncio
import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from gateway.app.providers import Providers
from gateway.core.decision import Action
from gateway.edges.http.app import create_app
from gateway.edges.http.guard import MAX_BODY
from tests.unit.edges.device import DeviceClient
from tests.unit.edges.http.conftest import DOORS
from tests.unit.edges.stage import Stage
from tests.unit.edges.trusting_provider import TrustingProvider

ASK = {"target": "orders-db", "level": "read", "duration": "1h", "reason": "slow"}


@pytest.fixture
def auth(stage: Stage) -> dict[str, str]:
    return {"authorization": f"Bearer {stage.token(stage.user('oncall'))}"}


def test_every_answer_carries_the_headers_that_keep_browsers_safe(client: TestClient, auth: dict[str, str]) -> None:
    for answer in (
        client.get("/healthz"), client.get("/"), client.get("/static/style.css"), client.get("/nowhere"),
        client.get("/api/whoami"), client.get("/api/whoami", headers=auth), client.post("/api/requests", content=b"x"),
    ):  # fmt: skip
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"  # no-referrer: Origin is null in our forms
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "strict-transport-security" not in answer.headers


def test_https_adds_hsts_and_host_cookies(stage: Stage) -> None:
    app = create_app(stage.ctx, Providers([TrustingProvider()]), DOORS, public_url="https://gw.example")
    with DeviceClient(app, base_url="https://gw.example", follow_redirects=False) as client:
        answer = client.get("/login")
        assert answer.headers["strict-transport-security"].startswith("max-age=31536000")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-gw-login=")
        assert all(word in cookie for word in ("Secure", "HttpOnly", "SameSite=lax", "Path=/"))
        assert "Domain" not in cookie


@pytest.mark.parametrize(
    "kind", ["text/plain", "", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"]
)
def test_json_under_another_name_is_refused(client: TestClient, auth: dict[str, str], kind: str) -> None:
    answer = client.post("/api/requests", content=json.dumps(ASK), headers={**auth, "content-type": kind})
    assert answer.status_code == 415
    assert answer.headers["content-type"] == "application/problem+json"


def test_bodies_are_bounded_with_and_without_a_length(client: TestClient, auth: dict[str, str]) -> None:
    large = json.dumps({**ASK, "reason": "x" * MAX_BODY})
    headers = {**auth, "content-type": "application/json"}
    assert client.post("/api/requests", content=large, headers=headers).status_code == 413

    def parts() -> Iterator[bytes]:
        for _ in range(MAX_BODY // 1024 + 2):
            yield b"x" * 1024

    assert client.post("/api/requests", content=parts(), headers=headers).status_code == 413
    assert client.get("/healthz", headers={"content-length": "99999999"}).status_code == 413


@pytest.mark.parametrize("path", ["/api/deploy", "/scim/v2/Users"])
@pytest.mark.parametrize("token", ["", "gwd_forged", "gwa_forged", "gwc_forged"])
@pytest.mark.parametrize("length", ["900000", None])
def test_a_stranger_is_refused_before_a_large_body_is_read(
    stage: Stage, path: str, token: str, length: str | None
) -> None:
    app = create_app(stage.ctx, Providers([TrustingProvider()]), DOORS, public_url="http://gw.example")
    headers = [(b"content-type", b"application/json"), *([(b"content-length", length.encode())] if length else [])]
    headers += [(b"authorization", f"Bearer {token}".encode())] if token else []
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers,
        "client": ("203.0.113.9", 1), "server": ("gw.example", 80), "scheme": "http", "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    read, told = 0, []

    async def receive() -> dict[str, object]:
        nonlocal read
        read += 16384
        return {"type": "http.request", "body": b" " * 16384, "more_body": True}

    async def send(message: dict[str, object]) -> None:
        told.append(message)

    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]  # ASGI's mutable mappings
    assert told[0]["status"] in (401, 403)
    assert read <= (0 if length else MAX_BODY + 16384)


def test_whoever_is_known_may_send_a_large_body(client: TestClient, auth: dict[str, str]) -> None:
    body = {"verb": "migrate", "targets": ["orders-db"], "parameters": {}, "input": "QUFB" * 30_000}
    answer = client.post("/api/deploy", json=body, headers=auth)
    assert answer.status_code in (403, 404, 422)


def test_a_forwarded_address_is_nobodys_word(client: TestClient, stage: Stage) -> None:
    spoofed = {
        "x-forwarded-for": "6.6.6.6",
        "forwarded": "for=6.6.6.6",
        "x-real-ip": "6.6.6.6",
        "x_forwarded_user": "lead",
    }
    code = client.post("/api/device/code", headers=spoofed).json()
    assert "6.6.6.6" not in stage.dump()
    for _ in range(119):
        client.post("/api/device/code", headers=spoofed)
    other = {**spoofed, "x-forwarded-for": "7.7.7.7"}
    assert client.post("/api/device/code", headers=other).status_code == 429
    assert code["user_code"]
    assert client.get("/api/whoami", headers=spoofed).status_code == 401


def test_errors_are_problems_that_repeat_no_input(client: TestClient, auth: dict[str, str]) -> None:
    answer = client.post("/api/requests", json={**ASK, "expires_at": "s3cret-value", "reason": 7}, headers=auth)
    problem = answer.json()
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["code"] == "invalid-input"
    assert {f["field"] for f in problem["fields"]} == {"body.expires_at", "body.reason"}
    assert "s3cret-value" not in answer.text
    assert set(problem) >= {"type", "title", "status", "detail", "missing", "next_steps"}


def test_a_no_says_what_was_missing(client: TestClient, auth: dict[str, str], stage: Stage) -> None:
    stage.forbid(Action.CONNECT)
    answer = client.post("/api/requests", json=ASK, headers=auth)
    assert answer.status_code == 403
    assert answer.json()["missing"] == ["a permit"]
    assert answer.json()["next_steps"] == ["Ask the operators."]


def test_a_log_that_does_not_confirm_is_503(client: TestClient, auth: dict[str, str], stage: Stage) -> None:
    stage.log.is_down = True
    answer = client.post("/api/requests", json=ASK, headers=auth)
    assert answer.status_code == 503
    assert answer.json()["code"] == "log-unavailable"


@pytest.mark.parametrize(
    "token", ["", "gwc_", "gwc_unknown", "gwt_ticket", "Basic x", "gwc_" + "x" * 5000, "gwc_\x00", "gwc_ä"]
)
def test_tokens_that_are_none_are_401(client: TestClient, token: str) -> None:
    answer = client.get("/api/whoami", headers={"authorization": f"Bearer {token}".encode()})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'DPoP algs="Ed25519 EdDSA ES256", Bearer'
    assert answer.json()["code"] == "not-signed-in"


def test_every_api_route_but_the_public_ones_needs_a_token_and_its_device(
    client: TestClient, auth: dict[str, str]
) -> None:
    public = {
        "/api/device/code", "/api/device/token", "/api/door", "/api/log/key",
        "/api/backchannel-logout/{provider}",  # a signed token of the provider is what lets it in
        "/api/step-up/begin", "/api/step-up/finish",  # a passkey's answer says who it is
        "/api/emergency/begin", "/api/emergency/finish",
        "/api/ssh/target-ca", "/api/ssh/krl",  # public keys and serial numbers; targets fetch them without a sign-in
    }  # fmt: skip
    document = client.get("/api/openapi.json").json()
    tried = 0
    for path, methods in document["paths"].items():
        for method in methods:
            if not path.startswith("/api/") or path in public:
                continue
            url = path.replace("{", "").replace("}", "")
            answer = client.request(method.upper(), url, json={} if method == "post" else None)
            assert answer.status_code == 401, (method, path)
            copied = {**auth, "dpop": "no proof"}
            answer = client.request(method.upper(), url, json={} if method == "post" else None, headers=copied)
            assert answer.status_code == 401, (method, path)
            tried += 1
    assert tried > 20


def test_nothing_changes_by_get(client: TestClient) -> None:
    document = client.get("/api/openapi.json").json()
    verbs = ("approve", "reject", "revoke", "kill", "disable", "enable", "ticket", "break-glass", "logout")
    for path, methods in document["paths"].items():
        if path.rsplit("/", 1)[-1] in verbs:
            assert set(methods) == {"post"}, path


def test_the_document_names_errors_and_examples(client: TestClient) -> None:
    document = client.get("/api/openapi.json").json()
    asked = document["paths"]["/api/requests"]["post"]
    assert {"201", "202", "401", "403", "404", "422", "503"} <= set(asked["responses"])
    assert document["components"]["schemas"]["AskIn"]["examples"]
    assert document["components"]["schemas"]["ProblemOut"]["examples"]
    assert document["components"]["securitySchemes"]["bearer"]


def test_public_facts_need_no_token(client: TestClient) -> None:
    assert client.get("/api/door").json() == {
        "ssh": {"host": "127.0.0.1", "port": 2222, "host_key": "ssh-ed25519 AAAAdoor"},
        "postgres": {
            "host": "127.0.0.1",
            "port": 5433,
            "ca_pem": "-----BEGIN CERTIFICATE-----\n",
            "binds": False,
            "certificates": False,
        },
        "audit_key": "vkey",
    }


def test_a_bug_is_a_problem_without_a_trace(client: TestClient, auth: dict[str, str], stage: Stage) -> None:
    def broken(_: object) -> bool:
        raise RuntimeError("s3cret inside")

    stage.policy.permits = broken
    answer = client.get("/api/targets", headers=auth)
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal-error"
    assert "s3cret" not in answer.text
