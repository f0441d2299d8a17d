import pytest
from fastapi.testclient import TestClient

from gateway.core.decision import Action
from tests.unit.edges.stage import Stage


@pytest.fixture
def auth(stage: Stage) -> dict[str, str]:
    return {"authorization": f"Bearer {stage.token(stage.user('oncall'))}"}


def test_why_answers_either_way(client: TestClient, auth: dict[str, str], stage: Stage) -> None:
    question = {"target": "orders-db", "level": "read"}
    yes = client.post("/api/policy/why", json=question, headers=auth).json()
    assert (yes["decision"], yes["policies"]) == ("permit", ["told-yes"])
    stage.forbid(Action.CONNECT)
    no = client.post("/api/policy/why", json={**question, "on_call": True}, headers=auth).json()
    assert (no["decision"], no["message"], no["missing"]) == ("deny", "No policy permits that.", ["a permit"])
    assert client.post("/api/policy/why", json={**question, "level": "god"}, headers=auth).status_code == 404


def test_questions_about_others_are_for_those_who_see_the_log(
    client: TestClient, auth: dict[str, str], stage: Stage
) -> None:
    stage.user("lead")
    question = {"target": "orders-db", "level": "read", "as": "lead"}
    assert client.post("/api/policy/why", json=question, headers=auth).status_code == 200
    stage.forbid(Action.AUDIT)
    assert client.post("/api/policy/why", json=question, headers=auth).status_code == 403


def test_the_log_is_for_those_who_may_see_it(client: TestClient, auth: dict[str, str], stage: Stage) -> None:
    paths = (
        "audit/events", "audit/events/evt_x", "audit/events/evt_x/receipt", "log/checkpoint", "log/tile/0/000",
        "log/tile/entries/000",
    )  # fmt: skip
    assert client.get("/api/log/checkpoint", headers=auth).text == "stage\n0\n"
    assert client.get("/api/audit/events?target=orders-db", headers=auth).json() == []
    stage.forbid(Action.AUDIT)
    for path in paths:
        assert client.get(f"/api/{path}", headers=auth).status_code == 403, path
    assert client.get("/api/log/key").text == "vkey\n"


@pytest.mark.parametrize(
    "query", ["since=yesterday", "since=2026-01-31T09:30:00", "limit=0", "limit=5000", "text=" + "x" * 201]
)
def test_searches_that_make_no_sense(client: TestClient, auth: dict[str, str], query: str) -> None:
    assert client.get(f"/api/audit/events?{query}", headers=auth).status_code == 422


def test_without_an_index_there_is_no_search_in_statements(client: TestClient, auth: dict[str, str]) -> None:
    assert client.get("/api/statements", headers=auth).status_code == 503


@pytest.mark.parametrize("what", ["recording", "cast", "watch", "replay"])
def test_a_recording_is_nobodys_without_a_sign_in(client: TestClient, auth: dict[str, str], what: str) -> None:
    path = f"/sessions/ses_x/{what}" if what == "replay" else f"/api/sessions/ses_x/{what}"
    assert client.get(path).status_code == 401
    assert client.get(path, headers=auth).status_code == 404
