"""SQLAlchemy's asynchronous engine: `by_sqlalchemy.py psycopg|asyncpg`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import URL, Column, Integer, MetaData, Table, Text, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from steps import CA, DATABASE, HOST, PASSWORD, PORT, USER, run, sqlstate_of, tls

DRIVER = sys.argv[1]
NOTES = Table("notes", MetaData(), Column("n", Integer, primary_key=True), Column("note", Text), prefixes=["TEMPORARY"])


@asynccontextmanager
async def engine() -> AsyncIterator[AsyncEngine]:
    url = URL.create(f"postgresql+{DRIVER}", USER, PASSWORD, HOST, PORT, DATABASE)
    arguments = {"ssl": tls()} if DRIVER == "asyncpg" else {"sslmode": "verify-full", "sslrootcert": CA}
    made = create_async_engine(url, connect_args=arguments, pool_size=4)
    try:
        yield made
    finally:
        await made.dispose()


async def connect() -> None:
    async with engine() as made:  # a pool: several connections, and each is asked whether it lives

        async def one() -> None:
            async with made.connect() as session:
                await session.execute(text("SELECT pg_sleep(0.1)"))

        await asyncio.gather(*(one() for _ in range(8)))


async def extended() -> None:
    async with engine() as made, made.connect() as session:
        found = await session.execute(text("SELECT note FROM orders WHERE id = :id"), {"id": 7})
        assert len(found.scalar_one()) == 100


async def portal() -> None:
    async with engine() as made, made.connect() as session:
        rows = await session.stream(text("SELECT id FROM orders"))
        assert len([row async for row in rows]) == 2000


async def pipeline() -> None:
    async with engine() as made, made.begin() as session:
        await session.run_sync(NOTES.create)
        await session.execute(insert(NOTES), [{"n": n, "note": "x"} for n in range(5000)])
        assert len((await session.execute(select(NOTES.c.n))).all()) == 5000


async def transaction() -> None:
    async with engine() as made, made.connect() as session:
        await session.run_sync(NOTES.create)
        await session.commit()
        await session.execute(insert(NOTES), {"n": 1})
        async with session.begin_nested():
            await session.execute(insert(NOTES), {"n": 2})
        await session.rollback()
        assert (await session.execute(select(NOTES.c.n))).all() == []


async def error() -> None:
    async with engine() as made, made.connect() as session:
        assert await sqlstate_of(session.execute(text("SELECT 1 / :n"), {"n": 0})) == "22012"
        await session.rollback()
        assert (await session.execute(text("SELECT 1"))).scalar_one() == 1


asyncio.run(
    run({
        "connect": connect, "extended": extended, "portal": portal, "pipeline": pipeline, "transaction": transaction,
        "error": error,
    })
)  # fmt: skip
