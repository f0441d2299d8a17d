import json
from pathlib import Path

from gateway.adapters.postgres_parser import PostgresParser
from gateway.adapters.recordings import StatementIndex
from gateway.app.providers import Providers
from gateway.audit.recording import encode
from gateway.edges.http.app import DoorFacts, create_app
from tests.unit.edges.device import DeviceClient
from tests.unit.edges.stage import Stage


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
