"""Which transaction each statement ran in and how it ended, with a real server's tags and warnings."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from gateway.core.target import Target
from tests.e2e.postgres_stage import Stage, database, door_tls, leased, running_door
from tests.servers import PostgresServer

DEFERRED = """
CREATE TEMP TABLE a (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);
"""


@pytest.fixture(scope="module")
def target(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with database(postgres_server, tmp_path_factory.mktemp("target")) as made:
        yield made


@pytest.fixture
def stage(target: Target, tmp_path: Path) -> Iterator[Stage]:
    context, ca = door_tls(tmp_path / "tls")
    with leased(target) as login, running_door(Stage(target, login, ca), context) as running:
        yield running


def outcomes(stage: Stage) -> list[tuple[int, str]]:
    stage.end_of()
    return [(each["tx"], each["outcome"]) for each in stage.recording().of("transaction")]


def test_psql_in_and_out_of_transactions(stage: Stage) -> None:
    said = (
        DEFERRED, "BEGIN", "INSERT INTO a VALUES (1)", "SAVEPOINT s", "SELECT 1/0", "ROLLBACK TO s", "COMMIT",
        "BEGIN", "INSERT INTO a VALUES (1)", "COMMIT",
        "BEGIN", "SELECT 1/0", "COMMIT",
        "BEGIN", "BEGIN", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "END", "COMMIT", "SELECT 1",
        # Both kinds of ROLLBACK in one text: which came first, the wire does not tell.
        "BEGIN; SELECT 1; SAVEPOINT s; ROLLBACK TO s; COMMIT; BEGIN; SELECT 2; ROLLBACK",
        "BEGIN",
    )  # fmt: skip
    stage.psql("-v", "ON_ERROR_STOP=0", *(part for sql in said for part in ("-c", sql)))
    assert outcomes(stage) == [
        (1, "committed"), (2, "rolled-back"), (3, "rolled-back"),
        (4, "committed"), (5, "rolled-back"), (6, "committed"), (7, "unknown"), (8, "rolled-back"), (9, "lost"),
    ]  # fmt: skip
    members = [each.get("tx", 0) for each in stage.recording().of("result")]
    assert members == [0, *[1] * 6, *[2] * 3, *[3] * 3, 4, 4, 4, 5, 6, 0, 0, 8, 9]


def test_what_hidden_warnings_and_an_unusual_text_hide_is_not_claimed(stage: Stage) -> None:
    said = (
        DEFERRED, "SET client_min_messages = error", "BEGIN", "INSERT INTO a VALUES (1)", "SAVEPOINT s",
        'ROLLBACK TO"s"; BEGIN', "COMMIT", "SELECT count(*) FROM a",
    )  # fmt: skip
    done = stage.psql(*(part for sql in said for part in ("-c", sql)))
    assert done.stdout.split()[-1] == "1"
    assert outcomes(stage) == [(1, "unknown"), (2, "committed")]


def test_a_driver_that_pipelines(stage: Stage) -> None:
    with stage.connect() as session, session.pipeline():
        for sql in ("BEGIN", "SELECT 1", "COMMIT", "BEGIN", "SELECT 2", "ROLLBACK"):
            session.execute(sql)
    assert outcomes(stage) == [(1, "committed"), (2, "rolled-back")]


def test_a_driver_s_own_transactions(stage: Stage) -> None:
    with stage.connect(autocommit=False) as session:
        session.execute("SELECT 1")
        session.commit()
        with pytest.raises(psycopg.errors.DivisionByZero):
            session.execute("SELECT 1/0", prepare=True)
        session.rollback()
        with session.transaction(), session.transaction(force_rollback=True):
            session.execute("SELECT 1")
        session.commit()
    assert outcomes(stage) == [(1, "committed"), (2, "rolled-back"), (3, "committed")]
