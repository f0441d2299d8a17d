"""asyncpg: binary formats, its own parser of the protocol."""

import asyncio
import datetime as dt
import io
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import asyncpg
from steps import CA, DATABASE, HOST, PASSWORD, PORT, USER, run, sqlstate_of, tls


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


asyncio.run(
    run({
        "connect": connect, "simple": simple, "extended": extended, "named": named, "portal": portal,
        "pipeline": pipeline, "copy": copy, "cancel": cancel, "notify": notify, "notice": notice,
        "transaction": transaction, "error": error, "binary": binary,
    })
)  # fmt: skip
