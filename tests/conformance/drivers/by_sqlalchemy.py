"""SQLAlchemy's asynchronous engine: `by_sqlalchemy.py psycopg|asyncpg`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import URL, Column, Integer, MetaData, Table, Text, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from steps import CA, DATABASE, HELD, HOST, PASSWORD, PORT, REFUSED, SHOWN, USER, run, sqlstate_of, tls

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


YES = Table("yes_notes", MetaData(), Column("n", Integer), Column("note", Text))
NO = Table("no_notes", MetaData(), Column("n", Integer), Column("note", Text))
PEOPLE = Table("people", MetaData(), Column("id", Integer), Column("email", Text), Column("city", Text))
WHO = f"SQLAlchemy, {DRIVER}"


async def masked_read() -> None:
    async with engine() as made, made.connect() as session:
        for n in range(1, 51):
            assert (await session.execute(select(PEOPLE).where(PEOPLE.c.id == n))).one() == (n, SHOWN, "Leeds")


async def masked_portal() -> None:
    async with engine() as made, made.connect() as session:
        rows = await session.stream(select(PEOPLE.c.email))
        assert [row[0] async for row in rows] == [SHOWN] * 2000


async def masked_refused() -> None:
    async with engine() as made, made.connect() as session:
        assert await sqlstate_of(session.execute(select(PEOPLE).where(PEOPLE.c.email.like("p%")))) == REFUSED
        await session.rollback()
        assert (await session.execute(select(PEOPLE.c.email).limit(1))).scalar_one() == SHOWN


async def dry_read() -> None:
    async with engine() as made, made.begin() as session:
        assert (await session.execute(text("SELECT count(*) FROM orders"))).scalar_one() == 2000


async def count(session: AsyncConnection, table: Table, note: str) -> int:
    return (await session.execute(select(func.count()).select_from(table).where(table.c.note == note))).scalar_one()


async def by_driver(session: AsyncConnection, word: str) -> None:
    """SQLAlchemy takes a transaction whose COMMIT fails for ended, and neither commits again nor rolls back."""
    raw = (await session.get_raw_connection()).driver_connection
    await raw.execute(word)
    await session.rollback()  # which sends nothing


async def dry_yes() -> None:
    async with engine() as made, made.connect() as session:
        for n in range(5):
            await session.execute(insert(YES), {"n": n, "note": WHO})
        assert await sqlstate_of(session.commit()) == HELD
        await by_driver(session, "COMMIT")
    async with engine() as made, made.connect() as other:
        assert await count(other, YES, WHO) == 5


async def dry_no() -> None:
    async with engine() as made:
        async with made.connect() as session:
            await session.execute(insert(NO), {"n": 1, "note": WHO})
            assert await sqlstate_of(session.commit()) == HELD
            assert await sqlstate_of(by_driver(session, "COMMIT")) == HELD
            await by_driver(session, "ROLLBACK")
        async with made.connect() as session:
            assert await count(session, NO, WHO) == 0


async def dry_error() -> None:
    async with engine() as made, made.connect() as session:
        await session.execute(insert(YES), {"n": 1, "note": f"{WHO} kept"})
        assert await sqlstate_of(nested(session)) == "22012"
        assert await sqlstate_of(session.commit()) == HELD
        await by_driver(session, "COMMIT")
    async with engine() as made, made.connect() as other:
        assert await count(other, YES, f"{WHO} kept") == 1


async def nested(session: AsyncConnection) -> None:
    async with session.begin_nested():
        await session.execute(insert(YES), {"n": 2, "note": f"{WHO} kept"})
        await session.execute(text("SELECT 1 / :n"), {"n": 0})


async def dry_pipeline() -> None:
    async with engine() as made, made.connect() as session:
        await session.execute(insert(YES), [{"n": n, "note": f"{WHO} many"} for n in range(3000)])
        assert await sqlstate_of(session.commit()) == HELD
        await by_driver(session, "COMMIT")
        assert await count(session, YES, f"{WHO} many") == 3000


asyncio.run(
    run({
        "connect": connect, "extended": extended, "portal": portal, "pipeline": pipeline, "transaction": transaction,
        "error": error,
    }, {
        "read": masked_read, "portal": masked_portal, "refused": masked_refused,
    }, {
        "read": dry_read, "yes": dry_yes, "no": dry_no, "error": dry_error, "pipeline": dry_pipeline,
    })
)  # fmt: skip
