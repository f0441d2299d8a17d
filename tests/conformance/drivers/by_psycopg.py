"""psycopg 3 over its libpq. Environment and output as in steps.py."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from steps import CA, DATABASE, HELD, HOST, PASSWORD, PORT, REFUSED, SHOWN, USER, run, sqlstate_of

Session = psycopg.AsyncConnection[tuple[object, ...]]


@asynccontextmanager
async def session(*, autocommit: bool = True, **more: str) -> AsyncIterator[Session]:
    one = await psycopg.AsyncConnection.connect(
        host=HOST, port=PORT, user=USER, password=PASSWORD, dbname=DATABASE, autocommit=autocommit,
        sslmode="verify-full", sslrootcert=CA, **more,
    )  # fmt: skip
    try:
        yield one
    finally:
        await one.close()


async def value(one: Session, query: str, *arguments: object, **options: object) -> object:
    row = await (await one.execute(query, arguments, **options)).fetchone()  # type: ignore[call-overload]
    return row[0]


async def connect() -> None:
    for more in ({}, {"sslnegotiation": "direct"}, {"max_protocol_version": "3.2"}):
        async with session(**more) as one:
            assert await value(one, "SELECT 1") == 1


async def simple() -> None:
    async with session() as one:
        cursor = await one.execute("SELECT 1; SELECT 2")
        assert cursor.nextset()
        assert await cursor.fetchone() == (2,)


async def extended() -> None:
    async with session() as one:
        assert len(str(await value(one, "SELECT note FROM orders WHERE id = %s", 7))) == 100


async def named() -> None:
    async with session() as one:
        for n in range(1, 51):
            assert await value(one, "SELECT id FROM orders WHERE id = %s", n, prepare=True) == n


async def pipeline() -> None:
    async with session() as one, one.pipeline():
        cursors = [await one.execute("SELECT %s::int", (n,)) for n in range(500)]
        assert [await cursor.fetchone() for cursor in cursors] == [(n,) for n in range(500)]


async def copy() -> None:
    async with session() as one:
        await one.execute("CREATE TEMP TABLE t (n int, note text)")
        async with one.cursor().copy("COPY t FROM STDIN (FORMAT binary)") as into:
            into.set_types(["int4", "text"])
            for n in range(20_000):
                await into.write_row((n, "x" * 100))
        count = 0
        async with one.cursor().copy("COPY t TO STDOUT (FORMAT binary)") as out:
            out.set_types(["int4", "text"])
            async for _ in out.rows():
                count += 1
        assert count == 20_000


async def cancel() -> None:
    for version in ("3.0", "3.2"):
        async with session(max_protocol_version=version) as one:
            sleeping = asyncio.create_task(one.execute("SELECT pg_sleep(30)"))
            await asyncio.sleep(0.5)
            await one.cancel_safe(timeout=10)
            assert await sqlstate_of(sleeping) == "57014"
            assert await value(one, "SELECT 1") == 1


async def notify() -> None:
    async with session() as one, session() as other:
        await one.execute("LISTEN news")
        await other.execute("SELECT pg_notify('news', 'flash')")
        heard = [each.payload async for each in one.notifies(timeout=10, stop_after=1)]
        assert heard == ["flash"]


async def notice() -> None:
    heard: list[str | None] = []
    async with session() as one:
        one.add_notice_handler(lambda said: heard.append(said.message_primary))
        await one.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
    assert heard == ["hello"]


async def large() -> None:
    async with session(autocommit=False) as one:
        oid = await value(one, "SELECT lo_from_bytea(0, %b)", b"\0\7" * 500_000)
        assert await value(one, "SELECT lo_get(%s)", oid) == b"\0\7" * 500_000
        await one.execute("SELECT lo_unlink(%s)", (oid,))


async def transaction() -> None:
    async with session() as one:
        await one.execute("CREATE TEMP TABLE t (n int)")
        async with one.transaction(force_rollback=True), one.transaction():
            await one.execute("INSERT INTO t VALUES (1)")
        assert await value(one, "SELECT count(*) FROM t") == 0


async def error() -> None:
    async with session() as one:
        assert await sqlstate_of(one.execute("SELECT 1 / %s", (0,))) == "22012"
        assert await value(one, "SELECT 1") == 1


async def binary() -> None:
    async with session() as one:
        assert await value(one, "SELECT %b", b"\0\xff" * 500, binary=True) == b"\0\xff" * 500
        assert await value(one, "SELECT 1.5::float8", binary=True) == 1.5


ONE = "SELECT id, email, city FROM people WHERE id = %s"
COUNT = "SELECT count(*) FROM {} WHERE note = %s"


async def masked_read() -> None:
    async with session() as one:
        assert await (await one.execute(ONE, (7,))).fetchone() == (7, SHOWN, "Leeds")
        assert await (await one.execute("SELECT * FROM people ORDER BY id LIMIT 1")).fetchone() == (1, SHOWN, "Leeds")


async def masked_named() -> None:
    async with session() as one:
        for n in range(1, 51):
            assert await (await one.execute(ONE, (n,), prepare=True)).fetchone() == (n, SHOWN, "Leeds")


async def masked_binary() -> None:
    async with session() as one:
        assert await (await one.execute(ONE, (7,), binary=True)).fetchone() == (7, SHOWN, "Leeds")


async def masked_portal() -> None:
    async with session(autocommit=False) as one, one.cursor("c") as cursor:
        await cursor.execute("SELECT email FROM people")
        assert {row[0] async for row in cursor} == {SHOWN}


async def masked_pipeline() -> None:
    async with session() as one, one.pipeline():
        cursors = [await one.execute(ONE, (n,)) for n in range(1, 301)]
        assert [await cursor.fetchone() for cursor in cursors] == [(n, SHOWN, "Leeds") for n in range(1, 301)]


async def masked_refused() -> None:
    async with session(autocommit=False) as one:
        assert await sqlstate_of(one.execute("SELECT id FROM people WHERE email LIKE %s", ("p%",))) == REFUSED
        assert await sqlstate_of(one.execute("SELECT 1")) == "25P02"
        await one.rollback()
        assert await (await one.execute(ONE, (7,))).fetchone() == (7, SHOWN, "Leeds")


async def dry_read() -> None:
    async with session(autocommit=False) as one:
        for n in range(1, 11):
            assert await value(one, "SELECT id FROM orders WHERE id = %s", n, prepare=True, binary=True) == n
        await one.commit()


async def dry_yes() -> None:
    async with session(autocommit=False) as one:
        for n in range(5):
            await one.execute("INSERT INTO yes_notes VALUES (%s, 'psycopg')", (n,), prepare=True)
        assert await sqlstate_of(one.commit()) == HELD
        assert await value(one, COUNT.format("yes_notes"), "psycopg") == 5
        await one.commit()
        assert one.info.transaction_status.name == "IDLE"
    async with session() as other:
        assert await value(other, COUNT.format("yes_notes"), "psycopg") == 5


async def dry_no() -> None:
    async with session(autocommit=False) as one:
        await one.execute("INSERT INTO no_notes VALUES (1, 'psycopg')")
        assert [await sqlstate_of(one.commit()) for _ in range(2)] == [HELD, HELD]
        await one.rollback()
        assert await value(one, COUNT.format("no_notes"), "psycopg") == 0


async def dry_error() -> None:
    async with session(autocommit=False) as one:
        await one.execute("INSERT INTO yes_notes VALUES (1, 'psycopg error')")
        assert await sqlstate_of(one.execute("SELECT 1 / %s", (0,))) == "22012"
        await one.rollback()
        await one.execute("INSERT INTO yes_notes VALUES (1, 'psycopg kept')")
        assert await sqlstate_of(nested(one)) == "22012"
        assert await sqlstate_of(one.commit()) == HELD
        await one.commit()
        assert await value(one, COUNT.format("yes_notes"), "psycopg error") == 0
        assert await value(one, COUNT.format("yes_notes"), "psycopg kept") == 1


async def nested(one: Session) -> None:
    async with one.transaction():
        await one.execute("INSERT INTO yes_notes VALUES (2, 'psycopg kept')")
        await one.execute("SELECT 1 / 0")


async def dry_pipeline() -> None:
    async with session(autocommit=False) as one:
        async with one.pipeline(), one.cursor() as cursor:
            await cursor.executemany("INSERT INTO yes_notes VALUES (%s, 'pipeline')", [(n,) for n in range(300)])
        assert await sqlstate_of(in_a_pipeline(one)) == HELD
        await in_a_pipeline(one)
        assert await value(one, COUNT.format("yes_notes"), "pipeline") == 300


async def in_a_pipeline(one: Session) -> None:
    async with one.pipeline():
        await one.commit()


async def dry_copy() -> None:
    async with session(autocommit=False) as one:
        async with one.cursor().copy("COPY yes_notes FROM STDIN (FORMAT binary)") as into:
            into.set_types(["int4", "text"])
            for n in range(1000):
                await into.write_row((n, "psycopg copy"))
        assert await sqlstate_of(one.commit()) == HELD
        await one.commit()
        assert await value(one, COUNT.format("yes_notes"), "psycopg copy") == 1000


asyncio.run(
    run({
        "connect": connect, "simple": simple, "extended": extended, "named": named, "pipeline": pipeline, "copy": copy,
        "cancel": cancel, "notify": notify, "notice": notice, "large": large, "transaction": transaction,
        "error": error, "binary": binary,
    }, {
        "read": masked_read, "named": masked_named, "binary": masked_binary, "portal": masked_portal,
        "pipeline": masked_pipeline, "refused": masked_refused,
    }, {
        "read": dry_read, "yes": dry_yes, "no": dry_no, "error": dry_error, "pipeline": dry_pipeline, "copy": dry_copy,
    })
)  # fmt: skip
