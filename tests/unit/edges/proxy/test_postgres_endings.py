import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from gateway.app.end_session import Sealed
from gateway.app.live import End
from gateway.core.session import EndReason, Protocol, Session
from gateway.edges.proxy.postgres_endings import MOST_AT_ONCE, Endings

AT = datetime(2026, 1, 1, tzinfo=UTC)


def sealed(name: str) -> Sealed:
    session = Session(
        id=name,
        grant="grt_1",
        holder="usr_1",
        holder_name="oncall",
        target="orders-db",
        level="read",
        protocol=Protocol.POSTGRES,
        client="192.0.2.7:5000",
        gateway="gw",
        started_at=AT,
        deadline=AT + timedelta(hours=1),
    )
    return Sealed(session, End(EndReason.CLIENT_CLOSED, "", 3, "ab"))


class Books:
    """What was stored, batch by batch. `broken` sessions cannot be."""

    def __init__(self, *broken: str) -> None:
        self.broken = broken
        self.batches: list[list[str]] = []
        self.asked, self.turn = asyncio.Event(), asyncio.Event()
        self.turn.set()

    async def store(self, ended: Sequence[Sealed]) -> None:
        self.asked.set()
        await self.turn.wait()
        names = [each.session.id for each in ended]
        if set(names) & set(self.broken):
            raise RuntimeError("a bug")
        self.batches.append(names)


async def all_of(endings: Endings, *names: str) -> list[BaseException | None]:
    return await asyncio.gather(*(endings.add(sealed(name)) for name in names), return_exceptions=True)


def test_sessions_that_end_together_are_stored_together():
    async def run() -> None:
        books = Books()
        endings = Endings(books.store)
        assert await all_of(endings, "a", "b", "c") == [None, None, None]
        assert await all_of(endings, "d") == [None]
        assert books.batches == [["a", "b", "c"], ["d"]]

    asyncio.run(run())


def test_those_that_end_while_others_are_stored_are_the_next_batch():
    async def run() -> None:
        books = Books()
        endings = Endings(books.store)
        books.turn.clear()
        first = asyncio.create_task(endings.add(sealed("a")))
        await books.asked.wait()
        rest = asyncio.gather(*(endings.add(sealed(name)) for name in ("b", "c")))
        await asyncio.sleep(0)
        assert not first.done()
        books.turn.set()
        await asyncio.gather(first, rest)
        assert books.batches == [["a"], ["b", "c"]]

    asyncio.run(run())


def test_one_that_cannot_be_stored_keeps_no_other_from_it():
    async def run() -> None:
        books = Books("b")
        told = await all_of(Endings(books.store), "a", "b", "c")
        assert [type(each) for each in told] == [type(None), RuntimeError, type(None)]
        assert books.batches == [["a"], ["c"]]

    asyncio.run(run())


def test_a_crowd_is_stored_in_bounded_batches():
    async def run() -> None:
        books = Books()
        await all_of(Endings(books.store), *(f"s{n}" for n in range(MOST_AT_ONCE + 1)))
        assert [len(batch) for batch in books.batches] == [MOST_AT_ONCE, 1]

    asyncio.run(run())


def test_who_waits_no_longer_is_stored_all_the_same():
    async def run() -> None:
        books = Books()
        endings = Endings(books.store)
        gone = asyncio.create_task(endings.add(sealed("a")))
        await asyncio.sleep(0)
        gone.cancel()
        await endings.add(sealed("b"))
        assert books.batches == [["a", "b"]]

    asyncio.run(run())
