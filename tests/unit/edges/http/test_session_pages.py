"""The page of live sessions."""

from dataclasses import replace
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from gateway.app.running_statements import _bound
from gateway.core.decision import Action
from gateway.core.session import Protocol, Running, Session
from gateway.edges.web.views import CSP
from tests.unit.edges.http.test_access import ASK, People
from tests.unit.edges.http.test_login import sign_in
from tests.unit.edges.stage import Stage

SQL = "SELECT '<script>alert(1)</script>'\n FROM orders -- \\x1b \u202e\x1b[2J"


@pytest.fixture
def as_(stage: Stage) -> People:
    return People(stage)


def running(client: TestClient, stage: Stage, as_: People, sealed_for: int = 7) -> Session:
    """A session of oncall whose database has been working for nine seconds."""
    grant = client.post("/api/requests", json=ASK, headers=as_("oncall")).json()["grant"]["id"]
    at = stage.clock.now()
    with stage.ctx.store.begin() as uow:
        found = uow.grants.get(grant)
        assert found is not None
        session = Session(
            "ses_1", grant, found.holder, "oncall", "orders-db", "read", Protocol.POSTGRES, "127.0.0.1:1", "stage",
            at, at + timedelta(hours=1),
        )  # fmt: skip
        uow.sessions.add(session)
        uow.sessions.add(replace(session, id="ses_idle"))
        sealed = stage.ctx.sealer.seal(SQL, _bound("ses_1", sealed_for))
        uow.sessions.show_running({"ses_1": Running(7, "read", at - timedelta(seconds=9), sealed)})
    return session


def shown(client: TestClient, as_: People, name: str) -> str:
    answer = client.get("/sessions", headers=as_(name))
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == CSP
    return answer.text


def test_whoever_may_watch_sees_what_runs_and_that_is_in_the_log(client: TestClient, stage: Stage, as_: People) -> None:
    running(client, stage, as_)
    page = shown(client, as_, "lead")
    assert "orders-db (read), postgres" in page
    assert "read 7, for 9 s" in page
    assert "SELECT &#39;&lt;script&gt;alert(1)&lt;/script&gt;&#39;\n FROM orders -- \\\\x1b \\u202e\\x1b[2J" in page
    assert "ses_idle" in page
    assert stage.events().count(("statement:shown", "ok")) == 1


def test_ones_own_are_shown_and_others_only_where_one_may_watch(client: TestClient, stage: Stage, as_: People) -> None:
    session = running(client, stage, as_)
    assert "for 9 s" in shown(client, as_, "oncall")
    assert ("statement:shown", "ok") not in stage.events()
    stage.forbid(Action.WATCH)
    page = shown(client, as_, "lead")
    assert "None." in page
    assert session.id not in page
    assert client.get("/sessions").status_code == 401
    sign_in(client, "auditor")
    assert '<a href="/sessions">' in client.get("/").text
    assert client.get("/sessions").status_code == 200


def test_a_page_says_that_there_are_more(
    client: TestClient, stage: Stage, as_: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(client, stage, as_)
    assert "These are the newest" not in shown(client, as_, "lead")
    monkeypatch.setattr("gateway.edges.http.routes_sessions.MOST_SESSIONS", 1)
    assert "These are the newest" in shown(client, as_, "lead")


def test_policy_that_forbids_to_watch_a_level_hides_what_runs_there(
    client: TestClient, stage: Stage, as_: People
) -> None:
    """Whoever may not watch the one session sees neither it nor its statement in the lists or by its id."""
    session = running(client, stage, as_)
    with stage.ctx.store.begin() as uow:
        uow.sessions.add(replace(session, id="ses_admin", level="admin"))
    stage.policy.permits = lambda query: query.action is not Action.WATCH or query.facts.level != "read"
    assert client.get("/api/sessions/ses_1/watch", headers=as_("lead")).status_code == 403
    page = shown(client, as_, "lead")
    assert ("ses_1" in page, "ses_admin" in page) == (False, True)
    listed = client.get("/api/sessions?all=true", headers=as_("lead")).json()
    assert [each["id"] for each in listed] == ["ses_admin"]
    assert client.get("/api/sessions/ses_1", headers=as_("lead")).status_code == 404
    assert ("statement:shown", "ok") not in stage.events()


def test_a_text_that_cannot_be_unsealed_is_said_to_be_so(client: TestClient, stage: Stage, as_: People) -> None:
    running(client, stage, as_, sealed_for=8)
    assert "(its text cannot be shown here)" in shown(client, as_, "oncall")
