"""Replication connections: refused, unless the level lets them pass; then every byte of the stream is accounted for."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import psycopg
import pytest
from blake3 import blake3
from psycopg import pq

from gateway.core.session import EndReason
from gateway.core.target import Target
from tests.e2e.postgres_stage import WITHIN, Stage, database, door_tls, leased, running_door
from tests.servers import PostgresServer

STATUS = b"r" + bytes(32) + b"\1"  # Standby status update that asks for an answer


def answered(client: pq.abc.PGconn) -> pq.abc.PGresult | None:
    """The next result. (libpq's own waiting keeps the interpreter's lock, which the door needs.)"""
    until = monotonic() + WITHIN
    while client.is_busy():
        assert monotonic() < until
        sleep(0.01)
        client.consume_input()
    return client.get_result()


def ask(client: pq.abc.PGconn, command: bytes) -> pq.abc.PGresult:
    client.send_query(command)
    client.flush()
    found = answered(client)
    assert found is not None
    if found.status != pq.ExecStatus.COPY_BOTH:
        assert found.status == pq.ExecStatus.TUPLES_OK, found.error_message
        while answered(client) is not None:
            pass
    return found


def streamed_part(client: pq.abc.PGconn) -> bytes | None:
    """None at the end of the stream."""
    until = monotonic() + WITHIN
    while True:
        size, part = client.get_copy_data(1)
        if size:
            return bytes(part) if size > 0 else None
        assert monotonic() < until
        sleep(0.01)
        client.consume_input()


@pytest.fixture
def target(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Target]:
    with database(postgres_server, tmp_path) as made:
        yield made


def test_a_stream_passes_where_the_level_says_so(
    target: Target, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    level = replace(target.levels["read"], replication=True)
    target = replace(target, levels={"read": level})
    context, ca = door_tls(tmp_path / "tls")
    with leased(target) as login, running_door(Stage(target, login, ca), context) as stage:
        connection = stage.connect(replication="true")
        client = connection.pgconn
        known = ask(client, b"IDENTIFY_SYSTEM")
        place, timeline = known.get_value(0, 2), known.get_value(0, 1)
        assert place
        assert timeline
        begun = ask(client, b"START_REPLICATION PHYSICAL %b TIMELINE %b" % (place, timeline))
        assert begun.status == pq.ExecStatus.COPY_BOTH
        postgres_server.execute("SELECT pg_logical_emit_message(true, 'mark', 'in the log')")
        client.put_copy_data(STATUS)
        client.flush()
        got = b""
        while b"in the log" not in got:
            got += streamed_part(client) or b""
        client.put_copy_end()
        client.flush()
        while part := streamed_part(client):
            got += part
        while answered(client) is not None:
            pass
        assert ask(client, b"IDENTIFY_SYSTEM").ntuples == 1
        connection.close()
        assert stage.end_of() is EndReason.CLIENT_CLOSED
        (startup,) = stage.recording().of("startup")
        assert startup["parameters"]["replication"] == "true"
        streamed = stage.recording().of("result")[1]
        assert (streamed["bytes"], streamed["blake3"]) == (len(got), blake3(got).hexdigest())
        assert (streamed["bytes_in"], streamed["blake3_in"]) == (len(STATUS), blake3(STATUS).hexdigest())
        assert streamed["state"] == "done"
        with stage.connect() as ordinary:
            assert ordinary.execute("SELECT current_user").fetchone() == (level.account,)


@pytest.mark.parametrize(
    ("user", "database"), [("oncall%orders-db", "replication"), ("oncall%orders-db/read", "replication")]
)
def test_who_names_no_database_names_the_target_behind_the_user(
    target: Target, tmp_path: Path, user: str, database: str
) -> None:
    """As pg_basebackup and pg_receivewal cannot name a database."""
    level = replace(target.levels["read"], replication=True)
    context, ca = door_tls(tmp_path / "tls")
    lent = replace(target, levels={"read": level})
    with leased(lent) as login, running_door(Stage(lent, login, ca), context) as stage:
        with psycopg.connect(stage.url(replication="true"), user=user, dbname=database, autocommit=True) as session:
            assert ask(session.pgconn, b"IDENTIFY_SYSTEM").ntuples == 1
        with pytest.raises(psycopg.OperationalError, match="This ticket is not valid"):
            psycopg.connect(stage.url(), user=user, dbname="orders-db")


@pytest.mark.parametrize("asked", ["true", "database"])
def test_elsewhere_it_is_refused_and_the_attempt_is_a_session(target: Target, tmp_path: Path, asked: str) -> None:
    context, ca = door_tls(tmp_path / "tls")
    with leased(target) as login, running_door(Stage(target, login, ca), context) as stage:
        with pytest.raises(psycopg.OperationalError, match="level read lets no replication connections pass"):
            stage.connect(replication=asked)
        assert stage.end_of() is EndReason.PROTOCOL_VIOLATION
        assert stage.ends[0][2] == "replication"
