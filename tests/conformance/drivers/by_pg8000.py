"""pg8000: Python alone, extended protocol. Environment and output as in steps.py."""

import asyncio
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pg8000.native
from steps import CA, DATABASE, HELD, HOST, PASSWORD, PORT, REFUSED, SHOWN, USER, Step, run, tls

Session = pg8000.native.Connection
ONE = "SELECT id, email, city FROM people WHERE id = :id"
COUNT = "SELECT count(*) FROM {} WHERE note = :note"


@contextmanager
def session() -> Iterator[Session]:
    assert CA
    one = Session(USER, host=HOST, port=PORT, password=PASSWORD, database=DATABASE, ssl_context=tls())
    try:
        yield one
    finally:
        one.close()


def state_of(failing: Callable[[], object]) -> str:
    """The code that it fails with; "" when it does not fail."""
    try:
        failing()
    except pg8000.native.DatabaseError as why:
        return str(why.args[0]["C"])
    return ""


def connect() -> None:
    with session() as one:
        assert one.run("SELECT 1") == [[1]]


def simple() -> None:
    with session() as one:
        one.run("CREATE TEMP TABLE t (n int); INSERT INTO t VALUES (1), (2)")
        assert one.run("SELECT count(*) FROM t") == [[2]]


def extended() -> None:
    with session() as one:
        assert len(one.run("SELECT note FROM orders WHERE id = :id", id=7)[0][0]) == 100


def named() -> None:
    with session() as one:
        prepared = one.prepare("SELECT id FROM orders WHERE id = :id")
        assert [prepared.run(id=n) for n in range(1, 51)] == [[[n]] for n in range(1, 51)]
        prepared.close()


def copy() -> None:
    with session() as one:
        one.run("CREATE TEMP TABLE t (n int, note text)")
        rows = io.BytesIO(b"".join(b"%d\txxxx\n" % n for n in range(5000)))
        one.run("COPY t FROM STDIN", stream=rows)
        out = io.BytesIO()
        one.run("COPY t TO STDOUT", stream=out)
        assert out.getvalue() == rows.getvalue()


def notify() -> None:
    with session() as one, session() as other:
        one.run("LISTEN news")
        other.run("SELECT pg_notify('news', 'flash')")
        one.run("SELECT 1")
        assert one.notifications[0][1:] == ("news", "flash")


def notice() -> None:
    with session() as one:
        one.run("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
        assert one.notices[0][b"M"] == b"hello"


def transaction() -> None:
    with session() as one:
        one.run("CREATE TEMP TABLE t (n int)")
        one.run("START TRANSACTION")
        one.run("INSERT INTO t VALUES (:n)", n=1)
        one.run("ROLLBACK")
        assert one.run("SELECT count(*) FROM t") == [[0]]


def error() -> None:
    with session() as one:
        assert state_of(lambda: one.run("SELECT 1 / cast(:n AS int)", n=0)) == "22012"
        assert one.run("SELECT 1") == [[1]]


def masked_read() -> None:
    with session() as one:
        assert one.run(ONE, id=7) == [[7, SHOWN, "Leeds"]]
        assert one.run("SELECT * FROM people WHERE id = 7") == [[7, SHOWN, "Leeds"]]


def masked_named() -> None:
    with session() as one:
        prepared = one.prepare(ONE)
        assert [prepared.run(id=n) for n in range(1, 51)] == [[[n, SHOWN, "Leeds"]] for n in range(1, 51)]


def masked_refused() -> None:
    with session() as one:
        one.run("START TRANSACTION")
        assert state_of(lambda: one.run("SELECT id FROM people WHERE email LIKE :what", what="p%")) == REFUSED
        assert state_of(lambda: one.run("SELECT 1")) == "25P02"
        one.run("ROLLBACK")
        assert one.run(ONE, id=7) == [[7, SHOWN, "Leeds"]]


def dry_read() -> None:
    with session() as one:
        one.run("START TRANSACTION")
        assert one.run("SELECT id FROM orders WHERE id = :id", id=7) == [[7]]
        one.run("COMMIT")


def dry_yes() -> None:
    with session() as one:
        prepared = one.prepare("INSERT INTO yes_notes VALUES (:n, 'pg8000')")
        one.run("START TRANSACTION")
        for n in range(5):
            prepared.run(n=n)
        assert state_of(lambda: one.run("COMMIT")) == HELD
        assert one.run(COUNT.format("yes_notes"), note="pg8000") == [[5]]
        one.run("COMMIT")
        with session() as other:
            assert other.run(COUNT.format("yes_notes"), note="pg8000") == [[5]]


def dry_no() -> None:
    with session() as one:
        one.run("START TRANSACTION")
        one.run("INSERT INTO no_notes VALUES (:n, 'pg8000')", n=1)
        assert [state_of(lambda: one.run("COMMIT")) for _ in range(2)] == [HELD, HELD]
        one.run("ROLLBACK")
        assert one.run(COUNT.format("no_notes"), note="pg8000") == [[0]]


def dry_error() -> None:
    with session() as one:
        one.run("START TRANSACTION")
        one.run("INSERT INTO yes_notes VALUES (:n, 'pg8000 kept')", n=1)
        one.run("SAVEPOINT s")
        assert state_of(lambda: one.run("SELECT 1 / cast(:n AS int)", n=0)) == "22012"
        one.run("ROLLBACK TO s")
        assert state_of(lambda: one.run("COMMIT")) == HELD
        one.run("COMMIT")
        assert one.run(COUNT.format("yes_notes"), note="pg8000 kept") == [[1]]


def dry_copy() -> None:
    with session() as one:
        one.run("START TRANSACTION")
        rows = io.BytesIO(b"1\tpg8000 copy\n")  # it sends COPY by the extended protocol
        assert state_of(lambda: one.run("COPY yes_notes FROM STDIN", stream=rows)) == REFUSED
        one.run("ROLLBACK")
        assert one.run(COUNT.format("yes_notes"), note="pg8000 copy") == [[0]]


def steps(*told: Callable[[], None]) -> dict[str, Step]:
    def step(of: Callable[[], None]) -> Step:
        return lambda: asyncio.to_thread(of)

    return {each.__name__.removeprefix("masked_").removeprefix("dry_"): step(each) for each in told}


asyncio.run(
    run(
        steps(connect, simple, extended, named, copy, notify, notice, transaction, error),
        steps(masked_read, masked_named, masked_refused),
        steps(dry_read, dry_yes, dry_no, dry_error, dry_copy),
    )
)
