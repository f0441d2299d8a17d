import asyncio
import json
import socket
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Self

import pytest

from gateway.app.recording_ports import RecordingFailed
from gateway.core.session import EndReason
from gateway.edges.proxy.postgres_books import Backlog
from gateway.edges.proxy.postgres_leg import SCRATCH, Leg
from gateway.edges.proxy.postgres_relay import _CANCEL_AGAIN_S, PostgresSession
from gateway.edges.proxy.postgres_room import SPOOL_ALL
from gateway.wire.postgres_messages import message

AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
ROOM = 1 << 20  # bytes: a recorder blocks its caller beyond some such amount
PATIENCE = 20.0
UNTOLD = "the gateway could not account for it"


def on_a_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(**arguments: object) -> None:
        asyncio.run(test(**arguments))

    return run


class StalledSpool:
    """A recording whose disk writes only when it is told to, and which must never be filled up."""

    def __init__(self) -> None:
        self.records: list[dict[str, object]] = []
        self.queued = 0
        self.is_broken = False
        self._waiting: list[tuple[int, Callable[[bool], None]]] = []

    def append(self, kind: str, at: datetime, data: bytes) -> int:
        del at
        if self.is_broken:
            raise RecordingFailed("the disk is gone")
        self.queued += len(data)
        assert self.queued <= ROOM, "the event loop would stand still here"
        self.records.append({"kind": kind, **json.loads(data)})
        return len(self.records) - 1

    def append_all(self, records: Sequence[tuple[str, int, bytes]]) -> int:
        return [self.append(kind, AT, data) for kind, _, data in records][-1] if records else -1

    def wait_durable(self, seq: int, timeout: timedelta) -> None:
        raise AssertionError("a session waits for nothing")

    def on_durable(self, seq: int, callback: Callable[[bool], None]) -> None:
        self._waiting.append((seq, callback))

    def digest(self) -> tuple[int, str]:
        return len(self.records), ""

    def seal(self) -> tuple[int, str]:
        return self.digest()

    def sync(self, *, ok: bool = True) -> None:
        self.queued = 0
        waiting, self._waiting = self._waiting, []
        for _, callback in waiting:
            callback(ok)


class Relay:
    """A session between two sockets whose far ends are `client` and `target`."""

    def __init__(self, *, is_strict: bool, backlog: Backlog | None = None) -> None:
        self.spool = StalledSpool()
        self._backlog = backlog or Backlog()
        self._is_strict = is_strict

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        scratch = memoryview(bytearray(SCRATCH))
        self._legs, far = [], []
        for _ in range(2):
            ours, theirs = socket.socketpair()
            leg = Leg(scratch)
            await loop.connect_accepted_socket(lambda leg=leg: leg, ours)
            self._legs.append(leg)
            far.append(await asyncio.open_connection(sock=theirs, limit=1 << 24))
        (self.client, self.to_client), (self.target, self.to_target) = far
        self.session = PostgresSession(self._legs[0], self.spool, lambda: AT, self._backlog, is_strict=self._is_strict)
        self.session.start(self._legs[1], b"", b"", b"")
        return self

    async def __aexit__(self, *_: object) -> None:
        for leg in self._legs:
            leg.abort()
        for writer in (self.to_client, self.to_target):
            writer.close()
        await asyncio.wait_for(self.session.wait_over(), PATIENCE)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - the relay has no event for a test
                await asyncio.sleep(0)

    async def synced(self, reading: "asyncio.Task[bytes]") -> bytes:
        """Let the disk write again and again until `reading` is done."""
        async with asyncio.timeout(PATIENCE):
            while not reading.done():
                self.spool.sync()
                await asyncio.sleep(0)
        return reading.result()


PARSE = message(b"P", b"s\0" + b"x" * 2000 + b"\0\0\0")
BIND = message(b"B", b"\0s\0" + bytes(6))
ONE = message(b"Q", b"DELETE\0")
LONG = message(b"Q", b"x" * 900_000 + b"\0")  # its records are more than may wait for the disk
MANY = 4000  # each told with its text: 8 MB of records from 60 kB


@pytest.mark.parametrize("is_strict", [False, True])
@on_a_loop
async def test_a_disk_that_stands_still_pauses_the_session_and_not_the_loop(is_strict: bool) -> None:
    async with Relay(is_strict=is_strict) as relay:
        asked = PARSE + MANY * BIND
        relay.to_client.write(asked)
        await relay.until(lambda: relay.spool.queued > ROOM // 4)
        arrived = await relay.synced(asyncio.create_task(relay.target.readexactly(len(asked))))
        assert arrived == asked
        assert [r["n"] for r in relay.spool.records] == list(range(1, MANY + 1))


@on_a_loop
async def test_results_come_through_and_are_all_recorded_while_the_disk_stands_still() -> None:
    async with Relay(is_strict=False) as relay:
        asked = message(b"Q", b"many\0") * 5000
        answer = (message(b"C", b"SELECT 1\0") + message(b"Z", b"I")) * 5000
        relay.to_client.write(asked)
        await relay.synced(asyncio.create_task(relay.target.readexactly(len(asked))))
        relay.to_target.write(answer)
        assert await relay.synced(asyncio.create_task(relay.client.readexactly(len(answer)))) == answer
        relay.spool.sync()
        await relay.until(lambda: relay.spool.sync() or len(relay.spool.records) == 10_000)
        assert [r["n"] for r in relay.spool.records if r["kind"] == "result"] == list(range(1, 5001))


@on_a_loop
async def test_a_disk_that_fails_while_the_session_waits_for_it_ends_the_session() -> None:
    async with Relay(is_strict=False) as relay:
        relay.to_client.write(PARSE + MANY * BIND)
        await relay.until(lambda: relay.spool.queued > ROOM // 4)
        relay.spool.is_broken = True
        relay.spool.sync(ok=False)
        reason, _ = await asyncio.wait_for(relay.session.wait_over(), PATIENCE)
        assert reason is EndReason.RECORDING_FAILED


@on_a_loop
async def test_what_could_not_be_recorded_yet_is_recorded_when_the_session_is_over() -> None:
    async with Relay(is_strict=False) as relay:
        relay.to_client.write(PARSE + MANY * BIND)
        await relay.until(lambda: relay.spool.queued > ROOM // 4)
        relay.session.end(EndReason.KILLED)
        await asyncio.wait_for(relay.session.wait_over(), PATIENCE)
        told = len(relay.spool.records)
        relay.spool.queued = -100 * ROOM  # it may block now
        relay.session.record_rest()
        assert told < MANY <= len([r for r in relay.spool.records if r["kind"] == "statement"])


@on_a_loop
async def test_nothing_goes_on_before_its_record_is_on_disk_where_that_is_required() -> None:
    async with Relay(is_strict=True) as relay:
        asked = message(b"Q", b"DELETE\0")
        relay.to_client.write(asked)
        await relay.until(lambda: len(relay.spool.records) == 1)
        reading = asyncio.create_task(relay.target.readexactly(len(asked)))
        await asyncio.sleep(0)
        assert not reading.done()
        relay.spool.sync()
        assert await asyncio.wait_for(reading, PATIENCE) == asked


@on_a_loop
async def test_what_comes_while_the_disk_writes_is_recorded_at_once_and_waits_for_its_own_sync() -> None:
    backlog = Backlog()
    async with Relay(is_strict=True, backlog=backlog) as one, Relay(is_strict=True, backlog=backlog) as other:
        one.to_client.write(ONE)
        await one.until(lambda: len(one.spool.records) == 1)
        other.to_client.write(ONE)
        one.to_client.write(ONE)
        await one.until(lambda: len(one.spool.records) == 2 and len(other.spool.records) == 1)
        reading = asyncio.create_task(other.target.readexactly(len(ONE)))
        one.spool.sync()
        assert await asyncio.wait_for(one.target.readexactly(2 * len(ONE)), PATIENCE) == 2 * ONE
        for _ in range(5):
            await asyncio.sleep(0)
        assert not reading.done(), "it is not on disk"
        assert await other.synced(reading) == ONE


@on_a_loop
async def test_a_disk_that_fails_ends_every_session_that_waits_for_it() -> None:
    backlog = Backlog()
    async with Relay(is_strict=True, backlog=backlog) as one, Relay(is_strict=True, backlog=backlog) as other:
        for relay in (one, other):
            relay.to_client.write(ONE)
            await relay.until(lambda relay=relay: len(relay.spool.records) == 1)
        for relay in (one, other):
            relay.spool.sync(ok=False)
        for relay in (one, other):
            reason, _ = await asyncio.wait_for(relay.session.wait_over(), PATIENCE)
            assert reason is EndReason.RECORDING_FAILED
            assert await relay.target.read() == b""


@on_a_loop
async def test_what_idle_sessions_wrote_long_ago_takes_no_room() -> None:
    backlog = Backlog()
    async with Relay(is_strict=False, backlog=backlog) as idle, Relay(is_strict=False, backlog=backlog) as busy:
        idle.to_client.write(ONE)
        await idle.until(lambda: len(idle.spool.records) == 1)
        backlog.bytes += SPOOL_ALL - 50  # of others
        busy.to_client.write(ONE)
        await busy.until(lambda: idle.spool.sync() or busy.spool.sync() or backlog.bytes == SPOOL_ALL - 50)
        assert backlog.owing == set()


@on_a_loop
async def test_a_client_that_leaves_at_once_has_asked_all_the_same() -> None:
    backlog = Backlog()
    async with Relay(is_strict=True, backlog=backlog) as one, Relay(is_strict=True, backlog=backlog) as other:
        one.to_client.write(ONE)
        await one.until(lambda: len(one.spool.records) == 1)
        other.to_client.write(ONE)
        other.to_client.close()
        await one.until(lambda: len(other.spool.records) == 1)
        assert await other.synced(asyncio.create_task(other.target.read())) == ONE
        reason, _ = await asyncio.wait_for(other.session.wait_over(), PATIENCE)
        assert reason is EndReason.CLIENT_CLOSED


@on_a_loop
async def test_a_mistake_in_what_waited_ends_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Relay(is_strict=True) as relay:
        monkeypatch.setattr(relay.session, "_from_client", lambda chunk: chunk.no_such_thing)
        relay.to_client.write(ONE)
        assert await asyncio.wait_for(relay.session.wait_over(), PATIENCE) == (EndReason.GATEWAY_FAULT, UNTOLD)
        assert UNTOLD.encode() in await relay.client.read()
        assert await relay.target.read() == b""


@on_a_loop
async def test_a_mistake_in_what_waited_ends_the_session_of_a_client_that_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backlog = Backlog()
    async with Relay(is_strict=True, backlog=backlog) as one, Relay(is_strict=True, backlog=backlog) as other:
        one.to_client.write(ONE)
        await one.until(lambda: len(one.spool.records) == 1)
        monkeypatch.setattr(other.session, "_from_client", lambda chunk: chunk.no_such_thing)
        other.to_client.write(ONE)
        other.to_client.close()
        reason, _ = await asyncio.wait_for(other.session.wait_over(), PATIENCE)
        assert reason is EndReason.GATEWAY_FAULT
        assert await other.target.read() == b""


@on_a_loop
async def test_an_answer_does_not_wait_for_the_disk_and_is_recorded_before_the_next_question() -> None:
    async with Relay(is_strict=True) as relay:
        asked, answer = message(b"Q", b"DELETE\0"), message(b"C", b"DELETE 7\0") + message(b"Z", b"I")
        relay.to_client.write(asked)
        await relay.synced(asyncio.create_task(relay.target.readexactly(len(asked))))
        relay.to_target.write(answer)
        assert await asyncio.wait_for(relay.client.readexactly(len(answer)), PATIENCE) == answer
        relay.to_client.write(asked)
        await relay.until(lambda: len(relay.spool.records) == 3)
        assert [(r["kind"], r["n"]) for r in relay.spool.records] == [("statement", 1), ("result", 1), ("statement", 2)]
        relay.spool.sync()
        assert await asyncio.wait_for(relay.target.readexactly(len(asked)), PATIENCE) == asked


@on_a_loop
async def test_small_statements_go_on_at_once_and_are_recorded_soon() -> None:
    async with Relay(is_strict=False) as relay:
        asked = message(b"Q", b"SELECT 1\0")
        relay.to_client.write(asked)
        assert await asyncio.wait_for(relay.target.readexactly(len(asked)), PATIENCE) == asked
        await relay.until(lambda: len(relay.spool.records) == 1)


@on_a_loop
async def test_a_session_that_broke_the_protocol_ends_and_all_that_went_on_is_recorded() -> None:
    async with Relay(is_strict=False) as relay:
        odd, behind = b"Q" + bytes(9), message(b"Q", b"DROP TABLE t\0")
        relay.to_client.write(odd + behind)
        reason, _ = await asyncio.wait_for(relay.session.wait_over(), PATIENCE)
        assert reason is EndReason.PROTOCOL_VIOLATION
        relay.session.record_rest()
        octets = [bytes.fromhex(str(r["hex"])) for r in relay.spool.records if r["kind"] == "unread"]
        assert b"".join(octets) == odd + behind
        assert (await relay.client.read())[:1] == b"E"


@pytest.mark.parametrize("is_strict", [False, True])
@on_a_loop
async def test_a_recorder_that_fails_ends_the_session_once(is_strict: bool) -> None:
    async with Relay(is_strict=is_strict) as relay:
        relay.spool.is_broken = True
        relay.to_client.write(message(b"Q", b"SELECT 1\0"))
        reason, _ = await asyncio.wait_for(relay.session.wait_over(), PATIENCE)
        assert reason is EndReason.RECORDING_FAILED


@pytest.mark.parametrize(("is_strict", "asked"), [(True, ONE), (True, LONG), (False, LONG)])
@on_a_loop
async def test_a_statement_that_waits_for_its_record_is_cancelled_once_it_is_at_the_target(
    is_strict: bool, asked: bytes
) -> None:
    asked_for: list[bool] = []
    async with Relay(is_strict=is_strict) as relay:
        arrived = asyncio.create_task(relay.target.readexactly(len(asked)))

        async def ask() -> None:
            asked_for.append(arrived.done())

        relay.session.cancel_request = ask
        relay.to_client.write(asked)
        await relay.until(lambda: len(relay.spool.records) > 0)
        relay.session.cancel("lead", 0)
        for _ in range(3):
            await asyncio.sleep(_CANCEL_AGAIN_S)
        assert asked_for == []  # there is nothing at the target that could be cancelled
        assert await relay.synced(arrived) == asked
        await relay.until(lambda: bool(asked_for))
        assert asked_for == [True]
        assert [r["by"] for r in relay.spool.records if r["kind"] == "cancel"] == ["lead"]


@on_a_loop
async def test_a_cancel_that_comes_late_leaves_the_next_statement_alone() -> None:
    asked_for: list[str] = []
    async with Relay(is_strict=True) as relay:

        async def ask() -> None:
            asked_for.append("cancel")

        relay.session.cancel_request = ask
        relay.to_client.write(ONE)
        await relay.until(lambda: len(relay.spool.records) == 1)
        relay.session.cancel("lead", 2)
        await relay.synced(asyncio.create_task(relay.target.readexactly(len(ONE))))
        await asyncio.sleep(2 * _CANCEL_AGAIN_S)
        assert asked_for == []
