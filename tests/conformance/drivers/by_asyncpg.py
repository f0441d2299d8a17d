"""asyncpg: binary formats, its own parser of the protocol."""

import asyncio
import datetime as dt
import io
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import asyncpg
from steps import CA, DATABASE, HELD, HOST, PASSWORD, PORT, REFUSED, SHOWN, USER, run, sqlstate_of, tls


@asynccontextmanager
async def session() -> AsyncIterator[asyncpg.Connection]:
    assert CA
    one = await asyncpg.connect(host=HOST, port=PORT, user=USER, password=PASSWORD, database=DATABASE, ssl=tls())
    try:
        yield one
    finally:
        await one.close(timeout=5)


async def connect() -> None:
    async with session() as one:
        assert one.get_server_version().major >= 14
        assert one.get_settings().server_encoding == "UTF8"


async def simple() -> None:
    async with session() as one:
        assert await one.execute("CREATE TEMP TABLE t (n int); INSERT INTO t VALUES (1), (2)") == "INSERT 0 2"


async def extended() -> None:
    async with session() as one:
        assert await one.fetchval("SELECT $1::int + $2::int", 20, 22) == 42


async def named() -> None:
    async with session() as one:
        statement = await one.prepare("SELECT note FROM orders WHERE id = $1")
        for n in range(1, 51):
            assert len(await statement.fetchval(n)) == 100
        assert statement.get_attributes()[0].type.name == "text"


async def portal() -> None:
    async with session() as one, one.transaction():
        count = 0
        async for _ in one.cursor("SELECT id FROM orders", prefetch=100):
            count += 1
        assert count == 2000
        cursor = await one.cursor("SELECT id FROM orders ORDER BY id")
        assert len(await cursor.fetch(10)) == 10
        assert await cursor.forward(5) == 5
        assert (await cursor.fetchrow())["id"] == 16


async def pipeline() -> None:
    async with session() as one:
        await one.execute("CREATE TEMP TABLE t (n int)")
        await one.executemany("INSERT INTO t VALUES ($1)", [(n,) for n in range(5000)])  # one Sync for all of it
        assert await one.fetchval("SELECT count(*) FROM t") == 5000


async def copy() -> None:
    async with session() as one:
        await one.execute("CREATE TEMP TABLE t (n int, note text)")
        rows = [(n, "x" * 100) for n in range(20_000)]
        assert await one.copy_records_to_table("t", records=rows) == "COPY 20000"
        out = io.BytesIO()
        assert await one.copy_from_query("SELECT * FROM t", output=out, format="csv") == "COPY 20000"
        assert out.getvalue().count(b"\n") == 20_000
        again = io.BytesIO(out.getvalue())
        assert await one.copy_to_table("t", source=again, format="csv") == "COPY 20000"


async def cancel() -> None:
    async with session() as one:
        sleeping = asyncio.create_task(one.execute("SELECT pg_sleep(30)"))
        await asyncio.sleep(0.5)
        sleeping.cancel()  # sends a CancelRequest and waits for its effect
        assert (await asyncio.gather(sleeping, return_exceptions=True))[0] is not None
        assert await one.fetchval("SELECT 1") == 1


async def notify() -> None:
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    async with session() as one, session() as other:
        await one.add_listener("news", lambda _one, _pid, channel, payload: heard.put_nowait((channel, payload)))
        await other.execute("SELECT pg_notify('news', 'flash')")
        assert await heard.get() == ("news", "flash")


async def notice() -> None:
    heard = []
    async with session() as one:
        one.add_log_listener(lambda _, said: heard.append(said.message))
        await one.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
        await asyncio.sleep(0.1)
    assert heard == ["hello"]


async def transaction() -> None:
    async with session() as one:
        await one.execute("CREATE TEMP TABLE t (n int)")
        outer = one.transaction()
        await outer.start()
        await one.execute("INSERT INTO t VALUES (1)")
        async with one.transaction():  # a savepoint
            await one.execute("INSERT INTO t VALUES (2)")
        await outer.rollback()
        assert await one.fetchval("SELECT count(*) FROM t") == 0


async def error() -> None:
    async with session() as one:
        assert await sqlstate_of(one.fetch("SELECT 1 / $1::int", 0)) == "22012"
        assert await one.fetchval("SELECT 1") == 1


async def binary() -> None:
    values = (
        uuid.UUID(int=7), Decimal("12345678901234567890.123456789"), b"\0\xff" * 500, [1, None, 3],
        dt.datetime(2026, 2, 28, 23, 59, 59, 999999, tzinfo=dt.UTC),
    )  # fmt: skip
    async with session() as one:
        row = await one.fetchrow("SELECT $1::uuid, $2::numeric, $3::bytea, $4::int[], $5::timestamptz", *values)
        assert tuple(row) == values


ONE = "SELECT id, email, city FROM people WHERE id = $1"
COUNT = "SELECT count(*) FROM {} WHERE note = $1"


async def masked_read() -> None:
    async with session() as one:
        assert tuple(await one.fetchrow(ONE, 7)) == (7, SHOWN, "Leeds")
        assert {row["email"] for row in await one.fetch("SELECT * FROM people")} == {SHOWN}


async def masked_named() -> None:
    async with session() as one:
        statement = await one.prepare(ONE)
        for n in range(1, 51):
            assert tuple(await statement.fetchrow(n)) == (n, SHOWN, "Leeds")


async def masked_portal() -> None:
    async with session() as one, one.transaction():
        count = 0
        async for row in one.cursor("SELECT email FROM people", prefetch=100):
            assert row["email"] == SHOWN
            count += 1
        assert count == 2000


async def masked_refused() -> None:
    async with session() as one:
        outer = one.transaction()
        await outer.start()
        assert await sqlstate_of(one.fetch("SELECT id FROM people WHERE email LIKE $1", "p%")) == REFUSED
        assert await sqlstate_of(one.fetch("SELECT 1")) == "25P02"
        await outer.rollback()
        assert tuple(await one.fetchrow(ONE, 7)) == (7, SHOWN, "Leeds")


async def dry_read() -> None:
    async with session() as one:
        async with one.transaction():
            statement = await one.prepare("SELECT id FROM orders WHERE id = $1")
            assert [await statement.fetchval(n) for n in range(1, 11)] == list(range(1, 11))
        assert await one.fetchval("SELECT count(*) FROM orders") == 2000


async def dry_yes() -> None:
    async with session() as one:
        outer = one.transaction()
        await outer.start()
        statement = await one.prepare("INSERT INTO yes_notes VALUES ($1, 'asyncpg')")
        for n in range(5):
            await statement.fetch(n)
        assert await sqlstate_of(outer.commit()) == HELD
        assert await one.fetchval(COUNT.format("yes_notes"), "asyncpg") == 5
        assert await one.execute("COMMIT") == "COMMIT"
    async with session() as other:
        assert await other.fetchval(COUNT.format("yes_notes"), "asyncpg") == 5


async def dry_no() -> None:
    async with session() as one:
        await one.execute("BEGIN")
        await one.execute("INSERT INTO no_notes VALUES ($1, 'asyncpg')", 1)
        assert [await sqlstate_of(one.execute("COMMIT")) for _ in range(2)] == [HELD, HELD]
        await one.execute("ROLLBACK")
        assert await one.fetchval(COUNT.format("no_notes"), "asyncpg") == 0


async def dry_error() -> None:
    async with session() as one:
        outer = one.transaction()
        await outer.start()
        await one.execute("INSERT INTO yes_notes VALUES ($1, 'asyncpg kept')", 1)
        assert await sqlstate_of(nested(one)) == "22012"
        assert await sqlstate_of(outer.commit()) == HELD
        await one.execute("COMMIT")
        assert await one.fetchval(COUNT.format("yes_notes"), "asyncpg kept") == 1
        await one.reset()
        await one.execute("BEGIN")
        await one.execute("INSERT INTO yes_notes VALUES (2, 'asyncpg kept')")
        assert await sqlstate_of(one.fetch("SELECT 1 / $1::int", 0)) == "22012"
        await one.reset()  # as a pool does
        assert await one.fetchval(COUNT.format("yes_notes"), "asyncpg kept") == 1


async def nested(one: asyncpg.Connection) -> None:
    async with one.transaction():
        await one.execute("INSERT INTO yes_notes VALUES (2, 'asyncpg kept')")
        await one.fetchval("SELECT 1 / $1::int", 0)


async def dry_pipeline() -> None:
    async with session() as one:
        await one.execute("BEGIN")
        await one.executemany("INSERT INTO yes_notes VALUES ($1, 'many')", [(n,) for n in range(2000)])
        assert await sqlstate_of(one.execute("COMMIT")) == HELD
        await one.execute("COMMIT")
        assert await one.fetchval(COUNT.format("yes_notes"), "many") == 2000


async def dry_copy() -> None:
    async with session() as one:
        await one.execute("BEGIN")
        rows = [(n, "asyncpg copy") for n in range(1000)]
        assert await one.copy_records_to_table("yes_notes", records=rows) == "COPY 1000"
        assert await sqlstate_of(one.execute("COMMIT")) == HELD
        await one.execute("COMMIT")
        assert await one.fetchval(COUNT.format("yes_notes"), "asyncpg copy") == 1000


asyncio.run(
    run({
        "connect": connect, "simple": simple, "extended": extended, "named": named, "portal": portal,
        "pipeline": pipeline, "copy": copy, "cancel": cancel, "notify": notify, "notice": notice,
        "transaction": transaction, "error": error, "binary": binary,
    }, {
        "read": masked_read, "named": masked_named, "binary": masked_read, "portal": masked_portal,
        "refused": masked_refused,
    }, {
        "read": dry_read, "yes": dry_yes, "no": dry_no, "error": dry_error, "pipeline": dry_pipeline, "copy": dry_copy,
    })
)  # fmt: skip
