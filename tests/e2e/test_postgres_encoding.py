# ruff: noqa: F811 - fixtures are named as they are
"""Statements in one flight at a level with rules: what runs first may set an encoding in which the server reads the
next as another text than was judged.
"""

import socket
from collections.abc import Iterator

import psycopg
import pytest

from gateway.core.statement_rules import StatementRules
from gateway.wire.postgres_messages import message
from tests.e2e.postgres_wire import signed_in
from tests.e2e.test_dry_run_hostile import MADE, query
from tests.e2e.test_postgres_rules import GuardedStage, stage, target  # noqa: F401
from tests.servers import PostgresServer

RULES = StatementRules(require_where=True)
ONLY_RULES = pytest.mark.parametrize("stage", [{"rules": RULES}], indirect=True)
# In UTF-8 a string that ends, a string behind it; in SJIS the first one goes on to the second, and what is in that runs.
TWO_WAYS = b"SELECT E'\xc3\x95\\\\' || '; DELETE FROM kept; --'"
ENDS = (
    b"Refused by the gateway: What was sent before it is not answered yet",
    b"The client_encoding SJIS is not accepted",
)
SYNC, FLUSH = message(b"S", b""), message(b"H", b"")


@pytest.fixture
def kept(stage: GuardedStage, postgres_server: PostgresServer) -> Iterator[psycopg.Connection]:
    """A table of one row that anybody may empty."""
    with psycopg.connect(postgres_server.url(stage.target.database), autocommit=True) as admin:
        admin.execute("CREATE TABLE kept AS SELECT 1 AS id; GRANT ALL ON kept TO PUBLIC")
        yield admin
        admin.execute("DROP TABLE kept")


def count(kept: psycopg.Connection) -> int:
    return len(kept.execute("TABLE kept").fetchall())


def heard(client: socket.socket, *ends: bytes) -> None:
    """Read until one of these is said."""
    said = b""
    while not any(end in said for end in ends):
        got = client.recv(65536)
        assert got, said
        said += got


def extended(sql: bytes, *, until: bytes = b"") -> bytes:
    asked = message(b"P", b"\0" + sql + b"\0\0\0") + message(b"B", b"\0\0" + bytes(6))
    return asked + message(b"E", b"\0" + bytes(4)) + until


@ONLY_RULES
@pytest.mark.parametrize(
    "flight",
    [
        query(b"SELECT pg_temp.f()") + query(TWO_WAYS),
        query(b"UPDATE v SET setting = 'SJIS' WHERE name = 'client_encoding'") + query(TWO_WAYS),
        extended(b"SELECT pg_temp.f()", until=SYNC) + extended(TWO_WAYS, until=SYNC),
        extended(b"SELECT pg_temp.f()") + extended(TWO_WAYS, until=SYNC),
    ],
    ids=["queries", "a view of settings", "rounds", "one round"],
)
def test_no_text_goes_on_that_the_server_could_read_otherwise(
    stage: GuardedStage, kept: psycopg.Connection, flight: bytes
) -> None:
    with signed_in(stage) as client:
        for sql in ("SET backslash_quote = on", *MADE):
            client.sendall(query(sql.encode()))
        client.sendall(flight)
        heard(client, *ENDS)
    assert count(kept) == 1
    assert stage.told() == ["statement:refused"]


@ONLY_RULES
def test_nor_behind_an_answer_that_does_not_tell_of_settings_yet(stage: GuardedStage, kept: psycopg.Connection) -> None:
    """A server tells of them in front of its ReadyForQuery."""
    with signed_in(stage) as client:
        for sql in ("SET backslash_quote = on", *MADE):
            client.sendall(query(sql.encode()))
        client.sendall(extended(b"SELECT pg_temp.f()", until=FLUSH))
        heard(client, b"SELECT 1\0")
        client.sendall(extended(TWO_WAYS, until=SYNC))
        heard(client, *ENDS)
    assert stage.told() == ["statement:refused"]
    assert count(kept) == 1


@ONLY_RULES
def test_other_texts_go_in_one_flight_and_such_ones_by_themselves(stage: GuardedStage) -> None:
    with stage.connect() as session:
        with session.pipeline():
            cursors = [session.execute(f"SELECT 'é' || {n}") for n in range(3)]  # type: ignore[arg-type]
            assert [cursor.fetchone() for cursor in cursors] == [(f"é{n}",) for n in range(3)]
        for _ in range(2):
            assert session.execute("SELECT 'é|'").fetchone() == ("é|",)
        with session.pipeline():
            session.execute("SELECT 1")
            assert session.execute("SELECT %s", ["é|"]).fetchone() == ("é|",)
    assert stage.events == []
