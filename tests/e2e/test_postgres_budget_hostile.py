# ruff: noqa: F811 - fixtures are named as they are
"""A level with a budget, and somebody who takes rows away by other ways than a result."""

import struct

import pytest

from gateway.core.budget import Budget, Room
from gateway.wire.postgres_messages import message
from tests.e2e.postgres_wire import signed_in
from tests.e2e.test_postgres_rules import GuardedStage, stage, target  # noqa: F401

NOTICES = b"DO $$DECLARE r record; BEGIN FOR r IN TABLE orders LOOP RAISE INFO '%', r; END LOOP; END$$"
QUOTED = b"SELECT string_agg(note, ',')::int FROM orders"
NOTIFIED = b"LISTEN a; SELECT count(pg_notify('a', note || id)) FROM orders"
SET = b"SELECT set_config('search_path', string_agg(note, ','), false) IS NULL FROM orders"


def query(sql: bytes) -> bytes:
    return message(b"Q", sql + b"\0")


@pytest.mark.parametrize("stage", [{"budget": Budget(Room(rows=10, bytes=2_000))}], indirect=True)
@pytest.mark.parametrize("sql", [NOTICES, QUOTED, NOTIFIED, SET], ids=["notices", "error", "notifications", "setting"])
def test_no_way_around_a_result_takes_more_than_a_result(stage: GuardedStage, sql: bytes) -> None:
    with signed_in(stage) as client:
        client.sendall(query(sql))
        said = b""
        while b"C53400\0" not in said:
            got = client.recv(65536)
            assert got, said[-200:]
            said += got
    assert said.count(b"x" * 100) <= 10


@pytest.mark.parametrize("stage", [{"budget": Budget(Room(bytes=2_000))}], indirect=True)
def test_what_a_function_call_by_number_gives_is_counted(stage: GuardedStage) -> None:
    with stage.connect() as session:
        ((number,),) = session.execute("SELECT 'repeat(text, int)'::regprocedure::oid::int").fetchall()
    body = struct.pack(">ihhhhi", number, 2, 0, 1, 2, 1) + b"x" + struct.pack(">iih", 4, 1_000_000, 0)
    with signed_in(stage) as client:
        client.sendall(message(b"F", body) + query(b"SELECT 'next'"))
        said = b""
        while b"next" not in said:
            got = client.recv(65536)
            assert got, said[-200:]
            said += got
    assert b"C53400\0" in said
    assert b"xxxx" not in said
