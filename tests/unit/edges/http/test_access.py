from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from gateway.core.decision import Action
from gateway.core.obligation import Obligations
from tests.unit.edges.stage import Stage

ASK = {"target": "orders-db", "level": "read", "duration": "1h", "reason": "slow", "incident": "INC-1042"}


class People:
    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __call__(self, name: str) -> dict[str, str]:
        with self.stage.ctx.store.read() as uow:
            user = uow.users.by_name(name)
        return {"authorization": f"Bearer {self.stage.token(user or self.stage.user(name))}"}


@pytest.fixture
def as_(stage: Stage) -> People:
    return People(stage)


def test_a_request_that_is_granted_at_once(client: TestClient, as_: People) -> None:
    answer = client.post("/api/requests", json=ASK, headers=as_("oncall"))
    told = answer.json()
    assert answer.status_code == 201
    assert told["state"] == "granted"
    assert told["decision"]["policies"] == ["told-yes"]
    assert told["grant"]["state"] == "active"
    grants = client.get("/api/grants", headers=as_("oncall")).json()
    assert [g["id"] for g in grants] == [told["grant"]["id"]]
    assert {"id", "target", "level", "not_after", "state"} <= set(grants[0])


def test_a_request_that_waits_is_202_and_somebody_else_answers(client: TestClient, as_: People, stage: Stage) -> None:
    stage.policy.obligations = Obligations(approvals=1)
    asked = client.post("/api/requests", json=ASK, headers=as_("oncall"))
    assert asked.status_code == 202
    assert asked.json()["grant"] is None
    request_id = asked.json()["request"]["id"]
    own = client.post(f"/api/requests/{request_id}/approve", json={}, headers=as_("oncall"))
    assert own.status_code == 403
    assert own.json()["code"] == "own-request"
    assert [r["id"] for r in client.get("/api/requests/pending", headers=as_("lead")).json()] == [request_id]
    assert client.get("/api/requests/pending", headers=as_("oncall")).json() == []
    done = client.post(f"/api/requests/{request_id}/approve", json={"note": "ok"}, headers=as_("lead"))
    assert done.status_code == 200
    assert done.json()["state"] == "granted"
    assert done.json()["request"]["approvals"][0]["approver"] == "lead"
    again = client.post(f"/api/requests/{request_id}/reject", json={}, headers=as_("lead"))
    assert again.status_code == 409


def test_another_persons_things_do_not_exist(client: TestClient, as_: People, stage: Stage) -> None:
    told = client.post("/api/requests", json=ASK, headers=as_("oncall")).json()
    stage.forbid(Action.WATCH, Action.APPROVE, Action.REVOKE, Action.KILL)
    mallory = as_("mallory")
    for path in (f"grants/{told['grant']['id']}", f"requests/{told['request']['id']}", "grants/grt_none"):
        answer = client.get(f"/api/{path}", headers=mallory)
        assert answer.status_code == 404
    for listed in ("grants", "requests", "sessions"):
        assert client.get(f"/api/{listed}?all=true", headers=mallory).json() == []
    assert client.get(f"/api/grants/{told['grant']['id']}", headers=as_("oncall")).status_code == 200
    refused = client.post(f"/api/grants/{told['grant']['id']}/revoke", json={}, headers=mallory)
    assert refused.status_code == 403


def test_revoking_ends_a_grant_once(client: TestClient, as_: People) -> None:
    grant = client.post("/api/requests", json=ASK, headers=as_("oncall")).json()["grant"]["id"]
    gone = client.post(f"/api/grants/{grant}/revoke", json={"reason": "done"}, headers=as_("oncall"))
    assert gone.json()["state"] == "revoked"
    assert client.post(f"/api/grants/{grant}/revoke", json={}, headers=as_("oncall")).status_code == 409


def test_a_grant_is_extended_from_now_and_only_by_its_holder(client: TestClient, as_: People, stage: Stage) -> None:
    oncall = as_("oncall")
    grant = client.post("/api/requests", json={**ASK, "target": "web-1", "level": "shell"}, headers=oncall).json()[
        "grant"
    ]
    path = f"/api/grants/{grant['id']}/extend"
    longer = client.post(path, json={"duration": "2h"}, headers=oncall)
    assert longer.status_code == 200
    assert longer.json()["not_after"] > grant["not_after"]
    assert client.post(path, json={"duration": "1h"}, headers=oncall).json()["code"] == "not-longer"
    assert client.post(path, json={"duration": "1w"}, headers=oncall).status_code == 422
    assert client.post(path, json={"duration": "3h"}, headers=as_("lead")).status_code == 404
    stage.forbid(Action.CONNECT)
    assert client.post(path, json={"duration": "3h"}, headers=oncall).status_code == 403


def test_break_glass_owes_a_review_that_somebody_else_signs(client: TestClient, as_: People, stage: Stage) -> None:
    stage.policy.obligations = Obligations(review=True)
    grant = client.post("/api/break-glass", json={**ASK, "level": "admin"}, headers=as_("oncall")).json()["grant"]
    assert grant["kind"] == "break-glass"
    owed = client.get("/api/reviews", headers=as_("lead")).json()
    assert [(r["grant"], r["holder"]) for r in owed] == [(grant["id"], "oncall")]
    verdict = {"verdict": "justified", "note": "Read the recording."}
    assert client.post(f"/api/reviews/{grant['id']}", json=verdict, headers=as_("oncall")).status_code == 403
    signed = client.post(f"/api/reviews/{grant['id']}", json=verdict, headers=as_("lead"))
    assert signed.json()["reviewer"] == "lead"
    assert client.get("/api/reviews", headers=as_("lead")).json() == []


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"target": "nowhere"}, 404), ({"level": "god"}, 404), ({"duration": "1w"}, 422), ({"duration": "0h"}, 422),
        ({"duration": "99h"}, 403), ({"reason": " "}, 403), ({"reason": "x" * 501}, 422), ({"target": ""}, 422),
        ({"target": "x" * 129}, 422), ({"holder": "lead"}, 422), ({"approvals": 9}, 422),
    ],
)  # fmt: skip
def test_asks_that_make_no_sense(client: TestClient, as_: People, change: dict[str, object], status: int) -> None:
    assert client.post("/api/requests", json={**ASK, **change}, headers=as_("oncall")).status_code == status


def test_targets_say_what_policy_would_and_hide_where_they_are(client: TestClient, as_: People, stage: Stage) -> None:
    stage.policy.permits = lambda q: q.facts.level == "read"
    answer = client.get("/api/targets", headers=as_("oncall"))
    database = next(t for t in answer.json() if t["name"] == "orders-db")
    assert {lv["name"]: lv["decision"]["permitted"] for lv in database["levels"]} == {"read": True, "admin": False}
    assert database["levels"][1]["decision"]["detail"]
    assert "orders_read" not in answer.text


def test_a_ticket_needs_a_grant(client: TestClient, as_: People) -> None:
    oncall = as_("oncall")
    assert client.post("/api/targets/orders-db/ticket", json={}, headers=oncall).status_code == 403
    client.post("/api/requests", json=ASK, headers=oncall)
    answer = client.post("/api/targets/orders-db/ticket", json={}, headers=oncall)
    assert answer.status_code == 201
    assert answer.json()["user"] == "oncall"
    assert answer.json()["password"].startswith("gwt_")
    assert answer.json()["kind"] == "postgres"
    without = client.post("/api/targets/web-1/ticket", json={"single_use": True}, headers=oncall)
    assert (without.status_code, without.json()["code"]) == (403, "no-grant")
    assert (
        client.get("/api/whoami", headers={"authorization": f"Bearer {answer.json()['password']}"}).status_code == 401
    )


def test_a_certificate_for_the_door(client: TestClient, as_: People) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    answer = client.post("/api/ssh-certificate", json={"public_key": public}, headers=as_("oncall"))
    assert answer.status_code == 201
    assert answer.json()["certificate"].startswith("ssh-ed25519-cert-v01@openssh.com ")
    assert client.post("/api/ssh-certificate", json={"public_key": "x"}, headers=as_("oncall")).status_code == 403


def test_a_certificate_for_the_database_door(client: TestClient, as_: People) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    answer = client.post("/api/database-certificate", json={"public_key": public}, headers=as_("oncall"))
    assert answer.status_code == 201
    assert answer.json()["user"] == "oncall"
    assert x509.load_pem_x509_certificate(answer.json()["certificate"].encode())
    assert client.post("/api/database-certificate", json={"public_key": "x"}, headers=as_("oncall")).status_code == 403
    assert client.post("/api/database-certificate", json={"public_key": public}).status_code == 401


def test_disabling_takes_effect_on_the_next_call(client: TestClient, as_: People, stage: Stage) -> None:
    oncall, lead = as_("oncall"), as_("lead")
    assert client.post("/api/users/oncall/disable", json={"reason": "left"}, headers=lead).json()["enabled"] is False
    assert client.get("/api/whoami", headers=oncall).status_code == 401
    assert client.post("/api/users/oncall/enable", headers=lead).json()["enabled"] is True
    stage.forbid(Action.ADMINISTER)
    assert client.post("/api/users/oncall/disable", json={}, headers=lead).status_code == 403


def test_logging_out_ends_the_token(client: TestClient, as_: People) -> None:
    oncall = as_("oncall")
    assert client.post("/api/logout", headers=oncall).status_code == 204
    assert client.get("/api/whoami", headers=oncall).status_code == 401


def test_a_grant_tells_its_state_as_of_now(client: TestClient, as_: People, stage: Stage) -> None:
    oncall = as_("oncall")
    client.post("/api/requests", json=ASK, headers=oncall)
    stage.clock.advance(timedelta(hours=1))
    assert [g["state"] for g in client.get("/api/grants", headers=oncall).json()] == ["expired"]
