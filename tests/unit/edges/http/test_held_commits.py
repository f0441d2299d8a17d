"""The routes of COMMITs that are held."""

from dataclasses import replace
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from gateway.app.commit_ports import Asking
from gateway.app.hold_commit import ask_commit
from gateway.core.decision import Action
from gateway.core.dry_run import Confirm
from gateway.core.session import Protocol, Session
from gateway.core.written import Under, Write
from tests.unit.edges.http.test_access import ASK, People
from tests.unit.edges.stage import Stage

ASKING = Asking(
    1, "m1", Confirm.APPROVER, 2, 7, (Write("UPDATE t SET a = 1", "d1", "UPDATE 7"), Write("x", "d2", "failed")),
    (Under(1, (("search_path", "secret"),)),), 4,
)  # fmt: skip


@pytest.fixture
def as_(stage: Stage) -> People:
    return People(stage)


@pytest.fixture
def path(client: TestClient, as_: People, stage: Stage) -> str:
    grant = client.post("/api/requests", json=ASK, headers=as_("oncall")).json()["grant"]["id"]
    with stage.ctx.store.begin() as uow:
        found = uow.grants.get(grant)
        assert found is not None
        session = Session(
            "ses_1", grant, found.holder, "oncall", "orders-db", "read", Protocol.POSTGRES, "127.0.0.1:1", "stage",
            stage.clock.now(), stage.clock.now() + timedelta(hours=1),
        )  # fmt: skip
        uow.sessions.add(session)
    ask_commit(stage.ctx, session, ASKING)
    return "/api/sessions/ses_1/commit"


def test_what_is_held_is_shown_and_answered(client: TestClient, as_: People, path: str) -> None:
    shown = client.get(path, headers=as_("lead"))
    assert shown.status_code == 200
    told = shown.json()
    assert told["writes"] == [
        {"sql": "UPDATE t SET a = 1", "tag": "UPDATE 7", "rows": 7}, {"sql": "x", "tag": "failed", "rows": 0}
    ]  # fmt: skip
    assert (told["under"], told["settings_changes"]) == ([{"first": 1, "settings": {"search_path": "secret"}}], 4)
    assert (told["tx"], told["mark"], told["confirm"], told["state"], told["statements"]) == (
        1, "m1", "approver", "waiting", 2
    )  # fmt: skip
    stale = client.post(path, json={"mark": "m0", "verdict": "confirm"}, headers=as_("lead"))
    assert (stale.status_code, stale.json()["code"]) == (409, "commit-changed")
    done = client.post(path, json={"mark": "m1", "verdict": "confirm", "reason": "ok"}, headers=as_("lead"))
    assert done.status_code == 200
    assert (done.json()["state"], done.json()["decided_by"], done.json()["reason"]) == ("confirmed", "lead", "ok")
    no = client.post(path, json={"mark": "m1", "verdict": "refuse"}, headers=as_("oncall"))
    assert no.json()["state"] == "refused"


def test_who_may_not(client: TestClient, as_: People, stage: Stage, path: str) -> None:
    yes = {"mark": "m1", "verdict": "confirm"}
    assert client.get(path).status_code == client.post(path, json=yes).status_code == 401
    own = client.post(path, json=yes, headers=as_("oncall"))
    assert (own.status_code, own.json()["code"]) == (403, "own-commit")
    stage.forbid(Action.APPROVE)
    assert client.get(path, headers=as_("mallory")).status_code == 403
    assert client.post(path, json=yes, headers=as_("mallory")).status_code == 403
    assert client.get(path.replace("ses_1", "ses_none"), headers=as_("oncall")).status_code == 404
    assert client.get(path, headers=as_("oncall")).json()["state"] == "waiting"


@pytest.mark.parametrize(
    "body", [{}, {"mark": "m1"}, {"verdict": "confirm"}, {"mark": "m1", "verdict": "yes"}, {"mark": "m" * 65, "verdict": "confirm"}]
)  # fmt: skip
def test_an_answer_that_makes_no_sense(client: TestClient, as_: People, path: str, body: dict[str, str]) -> None:
    assert client.post(path, json=body, headers=as_("lead")).status_code == 422


def test_the_end_of_the_session_is_the_end_of_it(client: TestClient, as_: People, stage: Stage, path: str) -> None:
    with stage.ctx.store.begin() as uow:
        session = uow.sessions.get("ses_1")
        assert session is not None
        uow.sessions.save(replace(session, ended_at=stage.clock.now()))
    assert client.get(path, headers=as_("lead")).json()["code"] == "nothing-held"
