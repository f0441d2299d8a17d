"""Each reason for which the gateway ends a database session, as a client hears of it."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gateway.core.errors import Conflict
from gateway.core.session import EndReason
from gateway.core.target import Target
from tests.e2e.postgres_stage import WITHIN, Stage, database, door_tls, leased, running_door
from tests.servers import PostgresServer, running_postgres

pytestmark = pytest.mark.servers
CAUSED = [r for r in EndReason if r not in (EndReason.CLIENT_CLOSED, EndReason.INTERRUPTED)]


@pytest.fixture(scope="module")
def target(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with database(postgres_server, tmp_path_factory.mktemp("target")) as made:
        yield made


@pytest.fixture
def stage(target: Target, tmp_path: Path) -> Iterator[Stage]:
    context, ca = door_tls(tmp_path / "tls")
    with leased(target) as login, running_door(Stage(target, login, ca), context) as running:
        yield running


@pytest.mark.parametrize("reason", CAUSED)
def test_every_end_is_told_to_the_client_and_the_first_reason_stands(stage: Stage, reason: EndReason) -> None:
    with stage.connect() as session:
        session.execute("SELECT 1")
        stage.live.terminate("ses_0", reason, "by lead")
        stage.live.terminate("ses_0", EndReason.KILLED, "the first reason stands")
        assert stage.end_of() is reason
        with pytest.raises(psycopg.OperationalError) as told:
            session.execute("SELECT 1")
    assert reason.sentence("by lead") in str(told.value)


def test_a_database_session_is_neither_locked_nor_idle(stage: Stage) -> None:
    with stage.connect() as session:
        session.execute("SELECT 1")
        with pytest.raises(Conflict):
            stage.live.lock("ses_0", locked=True)
        assert stage.live.idle_for("ses_0") == timedelta(0)
        session.execute("SELECT 1")


def asked_until_it_fails(session: psycopg.Connection[Any]) -> None:
    until = time.monotonic() + WITHIN
    while time.monotonic() < until:
        session.execute("SELECT 1")


def refusals_until_it_is_back(stage: Stage) -> Iterator[str]:
    until = time.monotonic() + WITHIN
    while time.monotonic() < until:
        try:
            with stage.connect() as session:
                assert session.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError as not_yet:
            yield str(not_yet)
            time.sleep(0.1)
        else:
            return
    yield "it does not come back"


def test_a_target_that_crashes_ends_its_sessions_with_a_word_and_takes_new_ones(tmp_path: Path) -> None:
    """The server ends all its backends when one is killed, and comes back."""
    context, ca = door_tls(tmp_path / "tls")
    with (
        running_postgres() as server,
        database(server, tmp_path) as target,
        leased(target, "gw_crash") as login,
        running_door(Stage(target, login, ca), context) as stage,
    ):
        busy, idle = stage.connect(), stage.connect()
        threading.Timer(0.5, os.kill, (busy.info.backend_pid, signal.SIGKILL)).start()
        with pytest.raises(psycopg.OperationalError) as cut:
            busy.execute("SELECT pg_sleep(60)")
        assert (cut.value.sqlstate, str(cut.value)) == ("08006", "The target closed the connection.")
        with pytest.raises(psycopg.OperationalError) as gone:
            asked_until_it_fails(idle)
        assert gone.value.sqlstate in ("08006", "57P02")
        assert {stage.end_of(0), stage.end_of(1)} == {EndReason.TARGET_CLOSED}
        assert stage.recording(0).of("result")[-1]["state"] == "unknown"
        for why in refusals_until_it_is_back(stage):
            assert "orders-db refused the session: the database" in why
            assert "Try again in a moment" in why
