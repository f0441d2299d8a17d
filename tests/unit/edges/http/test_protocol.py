import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from gateway.edges.http.protocol import BoundedHttpProtocol, _client_key

HALF = b"GET / HTTP/1.1\r\nHost: x\r\nX: "
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
WITHIN_S = 10
Connect = Callable[[bytes], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


def bounded(head_within: float, most: int = 100) -> type[BoundedHttpProtocol]:
    class Bounded(BoundedHttpProtocol):
        head_within_s = head_within
        most_per_client = most
        open_by_client = {}  # noqa: RUF012  the class under test has it as a ClassVar

    return Bounded


async def answer(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/slow":
        await receive()  # the body
        await receive()  # the end of the connection
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def serving(protocol: type[BoundedHttpProtocol], *, idle: int = 0) -> AsyncIterator[Connect]:
    config = uvicorn.Config(answer, http=protocol, ws="none", lifespan="off", timeout_keep_alive=idle)
    state, opened = ServerState(), []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: protocol(config, state, {}), "127.0.0.1", 0)

    async def connect(sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        opened.append(writer)
        writer.write(sent)
        return reader, writer

    try:
        yield connect
    finally:
        for writer in opened:
            writer.close()
        server.close()
        await asyncio.wait_for(until(lambda: not protocol.open_by_client), WITHIN_S)  # every place was given back


async def until(is_so: Callable[[], object]) -> None:
    while not is_so():  # noqa: ASYNC110  the protocol has no event to wait for
        await asyncio.sleep(0.01)


async def ended(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), WITHIN_S)
    except ConnectionResetError:
        return b""


def test_half_a_head_is_closed_and_the_dribble_of_more_does_not_help() -> None:
    async def scene() -> None:
        async with serving(bounded(0.3)) as connect:
            silent, _ = await connect(b"")
            half, _ = await connect(HALF)
            dribbled, writer = await connect(HALF)

            async def dribble() -> None:
                while True:
                    writer.write(b"x")
                    await asyncio.sleep(0.02)

            dribbling = asyncio.create_task(dribble())
            assert [await ended(each) for each in (silent, half, dribbled)] == [b"", b"", b""]
            dribbling.cancel()

    asyncio.run(scene())


def test_the_second_head_has_a_time_too() -> None:
    async def scene() -> None:
        async with serving(bounded(0.3)) as connect:
            reader, _ = await connect(WHOLE + HALF)
            assert (await ended(reader)).endswith(b"ok")

    asyncio.run(scene())


def test_a_request_that_is_being_answered_is_not_timed() -> None:
    async def scene() -> None:
        async with serving(bounded(0.1)) as connect:
            slow, _ = await connect(SLOW)
            half, _ = await connect(HALF)
            await ended(half)  # so the time for heads is over
            assert not slow.at_eof()

    asyncio.run(scene())


def test_half_sent_heads_make_room_for_whole_ones_of_the_same_client() -> None:
    async def scene() -> None:
        async with serving(bounded(60, most=3)) as connect:
            halves = [(await connect(HALF))[0] for _ in range(3)]
            reader, _ = await connect(WHOLE)
            assert (await asyncio.wait_for(reader.readuntil(b"ok"), WITHIN_S)).startswith(b"HTTP/1.1 200")
            await ended(halves[0])
            assert [half.at_eof() or half.exception() is not None for half in halves] == [True, False, False]

    asyncio.run(scene())


@pytest.mark.parametrize("most", [1, 2])
def test_a_client_has_so_many_answers_at_a_time(most: int) -> None:
    async def scene() -> None:
        protocol = bounded(60, most)
        async with serving(protocol) as connect:
            slow = [(await connect(SLOW))[0] for _ in range(most)]
            mine = protocol.open_by_client
            await asyncio.wait_for(until(lambda: busy(mine) == most), WITHIN_S)
            more, _ = await connect(WHOLE)
            assert await ended(more) == b""
            assert not any(each.at_eof() for each in slow)

    asyncio.run(scene())


def busy(by_client: Any) -> int:
    return sum(not each.is_waiting() for mine in by_client.values() for each in mine)


def test_whoever_has_an_ipv6_address_has_its_whole_network() -> None:
    assert _client_key("2001:db8:1:2::1") == _client_key("2001:db8:1:2:ffff::9") != _client_key("2001:db8:1:3::1")
    assert _client_key("fe80::1%eth0") == "fe80::/64"
    assert _client_key("10.0.0.1") == "10.0.0.1"
    assert _client_key("") == ""
