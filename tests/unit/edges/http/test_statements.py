import json
from pathlib import Path

from gateway.adapters.postgres_parser import PostgresParser
from gateway.adapters.recordings import StatementIndex
from gateway.app.providers import Providers
from gateway.audit.recording import encode
from gateway.edges.http.app import DoorFacts, create_app
from tests.unit.edges.device import DeviceClient
from tests.unit.edges.stage import Stage


def client_of(stage: Stage, index: StatementIndex) -> DeviceClient:
    doors = DoorFacts("", 0, "", "", 0, "", "")
    app = create_app(stage.ctx, Providers(), doors, public_url="http://testserver", statements=index)
    auth = {"authorization": f"Bearer {stage.token(stage.user('auditor'))}"}
    return DeviceClient(app, headers=auth)


def test_a_new_index_names_some_of_what_it_lacks(stage: Stage, tmp_path: Path) -> None:
    index = StatementIndex(tmp_path / "index" / "statements.sqlite")
    every = [f"ses_{n:03}" for n in range(150)]
    assert index.note_if_blank(lambda: every) == 150
    told = client_of(stage, index).get("/api/statements").json()
    assert told == {"statements": [], "incomplete": every[:100], "incomplete_count": 150}
    index.close()


def test_an_index_that_cannot_be_read_says_so(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "index").write_text("in the way")
    answer = client_of(stage, StatementIndex(tmp_path / "index" / "statements.sqlite")).get("/api/statements")
    assert (answer.status_code, answer.json()["code"]) == (503, "index-unreadable")


def test_statements_by_what_they_do(stage: Stage, tmp_path: Path) -> None:
    index = StatementIndex(tmp_path / "index" / "statements.sqlite", PostgresParser())
    for number, sql in enumerate(["select 1", "delete from t where a = 1", "delete from t where a = 2", "oops"]):
        frame = encode(number, number, "statement", json.dumps({"n": number, "sql": sql}).encode())
        index.feed([("ses_1", "statement", frame)])
    doors = DoorFacts("", 0, "", "", 0, "", "")
    app = create_app(stage.ctx, Providers(), doors, public_url="http://testserver", statements=index)
    auth = {"authorization": f"Bearer {stage.token(stage.user('auditor'))}"}
    client = DeviceClient(app)

    def found(query: str) -> list[dict[str, object]]:
        answer = client.get(f"/api/statements?{query}", headers=auth)
        assert answer.status_code == 200, answer.text
        told: list[dict[str, object]] = answer.json()["statements"]
        return told

    writes = found("kind=write")
    assert [each["sql"] for each in writes] == ["delete from t where a = 2", "delete from t where a = 1"]
    assert found(f"fingerprint={writes[0]['fingerprint']}") == writes
    assert [each["kind"] for each in found("text=oops")] == ["unknown"]
    for wrong in ("kind=evil", "fingerprint=xyz"):
        assert client.get(f"/api/statements?{wrong}", headers=auth).status_code == 422
    index.close()
