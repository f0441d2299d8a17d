import asyncio
import socket
from collections.abc import Awaitable, Callable

from gateway.edges.proxy.listener import Admission, Listener

WITHIN = 10


class Door:
    """Keeps every connection until its peer ends it; `admissions` in the order of arrival."""

    def __init__(self) -> None:
        self.admissions: list[Admission] = []
        self.arrived = asyncio.Condition()
        self.listener = Listener(self._serve, max_strangers=3)
        self.port = 0

    async def _serve(self, sock: socket.socket, admission: Admission) -> None:
        async with self.arrived:
            self.admissions.append(admission)
            self.arrived.notify_all()
        reader, writer = await asyncio.open_connection(sock=sock)
        await reader.read()
        writer.close()

    async def dial(self, source: str = "127.0.0.1") -> asyncio.StreamReader:
        before = len(self.admissions)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0))
        self.writers.append(writer)
        async with self.arrived:
            await asyncio.wait_for(self.arrived.wait_for(lambda: len(self.admissions) > before), WITHIN)
        return reader

    async def play(self, scene: Callable[["Door"], Awaitable[None]]) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.port = await self.listener.start("127.0.0.1", 0)
        await scene(self)
        for writer in self.writers:
            writer.close()
        await self.listener.stop()
        await self.listener.wait_idle(WITHIN)


def run(scene: Callable[[Door], Awaitable[None]]) -> None:
    async def main() -> None:
        await Door().play(scene)

    asyncio.run(main())


async def is_ended(reader: asyncio.StreamReader) -> bool:
    return await asyncio.wait_for(reader.read(), WITHIN) == b""


def test_the_oldest_of_the_largest_crowd_makes_room() -> None:
    async def scene(door: Door) -> None:
        alone = await door.dial("127.0.0.2")
        first, second = await door.dial(), await door.dial()
        await door.dial("127.0.0.3")
        assert await is_ended(first)
        assert not alone.at_eof()
        assert not second.at_eof()

    run(scene)


def test_who_has_signed_in_or_is_about_to_is_never_evicted() -> None:
    async def scene(door: Door) -> None:
        settled, signed_in, silent = await door.dial(), await door.dial(), await door.dial()
        door.admissions[0].settle()
        door.admissions[1].release()
        await door.dial()
        await door.dial()
        assert await is_ended(silent)
        assert not settled.at_eof()
        assert not signed_in.at_eof()

    run(scene)


def test_while_none_may_be_evicted_the_newest_is_turned_away() -> None:
    async def scene(door: Door) -> None:
        for _ in range(3):
            await door.dial()
            door.admissions[-1].settle()
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        assert await is_ended(reader)
        writer.close()
        door.admissions[0].release()
        door.admissions[0].release()
        await door.dial()
        assert len(door.admissions) == 4

    run(scene)
