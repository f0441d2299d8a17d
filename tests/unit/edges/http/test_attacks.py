import pytest
from fastapi.testclient import TestClient

from tests.unit.edges.http.test_login import sign_in
from tests.unit.edges.stage import Stage

HOSTILE = [
    b"[" * 30_000,
    b'{"target":' + b"9" * 60_000 + b"}",
    b'{"target":"\\ud800","level":"read"}',
    b'{"x":NaN}',
    b"\xff",
]


@pytest.fixture
def auth(stage: Stage) -> dict[str, str]:
    return {"authorization": f"Bearer {stage.token(stage.user('oncall'))}"}


@pytest.mark.parametrize("body", HOSTILE)
def test_hostile_json_is_the_callers_mistake(client: TestClient, auth: dict[str, str], body: bytes) -> None:
    answer = client.post("/api/requests", content=body, headers={**auth, "content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("name", ["a%00b", "%ed%a0%80", "..%2f..%2fetc%2fpasswd", "%1b%5b31m", "x" * 4000])
def test_ids_of_any_kind_are_just_unknown(client: TestClient, auth: dict[str, str], name: str) -> None:
    for kind in ("sessions", "grants", "requests"):
        assert client.get(f"/api/{kind}/{name}", headers=auth).status_code in (404, 422)


def test_a_browser_session_is_no_token_and_a_token_no_browser_session(client: TestClient, auth: dict[str, str]) -> None:
    token = auth["authorization"].removeprefix("Bearer ")
    assert client.get("/sessions/x/replay", headers={"cookie": f"gw-session={token}"}).status_code == 401
    sign_in(client, "auditor")
    session = client.cookies["gw-session"]
    client.cookies.clear()
    for path in ("/api/whoami", "/api/sessions/x/cast"):
        assert client.get(path, headers={"authorization": f"Bearer {session}"}).status_code == 401
