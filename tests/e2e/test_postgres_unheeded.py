# ruff: noqa: F811 - fixtures are named as they are
"""Statements whose code catches a cancel: they end with their session all the same."""

from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep

import psycopg
import pytest

from gateway.core.budget import Budget, Room
from gateway.core.session import EndReason
from gateway.edges.proxy import postgres, postgres_guarded
from tests.e2e.postgres_stage import WITHIN
from tests.e2e.postgres_wire import signed_in
from tests.e2e.test_postgres_budget_hostile import query
from tests.e2e.test_postgres_rules import GuardedStage, stage, target  # noqa: F401
from tests.servers import PostgresServer

UNENDING = b"""DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(3600) /* unending */;
EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$"""
RUNS = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'DO %unending%' AND usename LIKE 'gw\\_%'"


def wait_until(server: PostgresServer, database: str, *, runs: bool) -> None:
    until = monotonic() + WITHIN
    with psycopg.connect(server.url(database), autocommit=True) as admin:
        while bool(admin.execute(RUNS).fetchall()) != runs:
            assert monotonic() < until, f"it {'never ran' if runs else 'runs on'}"
            sleep(0.05)


@pytest.mark.parametrize("stage", [{"budget": Budget(Room(rows=1_000))}, {}], indirect=True, ids=["guarded", "plain"])
@pytest.mark.parametrize("reason", [EndReason.KILLED, None], ids=["killed", "client gone"])
def test_nothing_goes_on_after_a_session(
    stage: GuardedStage, postgres_server: PostgresServer, reason: EndReason | None
) -> None:
    with signed_in(stage) as client:
        client.sendall(query(UNENDING))
        wait_until(postgres_server, stage.target.database, runs=True)
        if reason is not None:
            stage.live.terminate("ses_0", reason, "")
            assert stage.end_of() is reason
    wait_until(postgres_server, stage.target.database, runs=False)


@pytest.mark.parametrize("stage", [{"budget": Budget(Room(time=timedelta(seconds=0.2)))}], indirect=True)
def test_a_budget_of_time_that_is_not_heeded_ends_the_session(
    stage: GuardedStage, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_guarded, "CANCEL_AGAIN_S", 0.3)
    monkeypatch.setattr(postgres_guarded, "UNHEEDED_S", 0.5)
    with signed_in(stage) as client:
        client.sendall(query(UNENDING))
        wait_until(postgres_server, stage.target.database, runs=True)
        assert stage.end_of() is EndReason.BUDGET_EXCEEDED
        said = b""
        while got := client.recv(65536):
            said += got
    assert b"It went on although it was cancelled" in said
    assert stage.told(2) == ["statement:cut", "session:budget-exceeded"]
    wait_until(postgres_server, stage.target.database, runs=False)


@pytest.mark.parametrize("stage", [{}], indirect=True, ids=["plain"])
def test_it_is_tried_again_while_the_administrator_cannot(
    stage: GuardedStage,
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(postgres, "_UNHEEDED_S", (0.1, 0.5, 1.0, 60.0))
    with signed_in(stage) as client:
        client.sendall(query(UNENDING))
        wait_until(postgres_server, stage.target.database, runs=True)
        file = Path(stage.target.admin_dsn_file)
        url = file.read_text()
        file.write_text("postgresql://nobody@127.0.0.1:1/postgres")
        stage.live.terminate("ses_0", EndReason.KILLED, "")
        assert stage.end_of() is EndReason.KILLED
    until = monotonic() + WITHIN
    while "could not be ended yet" not in caplog.text:
        assert monotonic() < until
        sleep(0.05)
    file.write_text(url)
    wait_until(postgres_server, stage.target.database, runs=False)
