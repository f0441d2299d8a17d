"""Each reason for which the gateway ends a database session, as a client hears of it."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from gateway.core.errors import Conflict
from gateway.core.session import EndReason
from gateway.core.target import Target
from tests.e2e.postgres_stage import Stage, database, door_tls, leased, running_door
from tests.servers import PostgresServer

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
