"""Crowds at the door: what ten thousand who never log in cost, and whom they keep out."""

import asyncio
import resource
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from tests.e2e.ssh_stage import Stage
from tests.e2e.ssh_stage import authorities as authorities
from tests.e2e.ssh_stage import sshd as sshd
from tests.e2e.ssh_stage import stage as stage

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]
STRANGERS = 10_000
AT_ONCE = 400  # being opened; those that the door keeps stay open
ADDRESSES = 200


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


class Flood:
    """Connections from many loopback addresses that say nothing after the identification, and stay while they may."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.opened = 0
        self.most_threads = 0
        self._half = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._pour()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._half.wait(90), "the flood does not come up"
        return self

    def __exit__(self, *_exc: object) -> None:
        self._thread.join(120)

    async def _pour(self) -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._stranger(number, gate) for number in range(STRANGERS)))

    async def _stranger(self, number: int, gate: asyncio.Semaphore) -> None:
        async with gate:
            with suppress(OSError):
                source = (f"127.0.{1 + number % ADDRESSES}.1", 0)
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=source)
                writer.write(b"SSH-2.0-stranger\r\n")
                self._count()
                with suppress(OSError, TimeoutError):
                    await asyncio.wait_for(reader.read(), 1.0)  # until it is thrown out, for a while
                writer.close()

    def _count(self) -> None:
        self.opened += 1
        self.most_threads = max(self.most_threads, status("Threads"))
        if self.opened == STRANGERS // 2:
            self._half.set()


@pytest.mark.usefixtures("many_files")
def test_ten_thousand_who_never_log_in_cost_little_and_keep_nobody_out(stage: Stage) -> None:
    assert stage.door is not None
    assert stage.ssh("web-1.gw", "true").returncode == 0
    threads, memory = status("Threads"), status("VmRSS")
    with Flood(stage.door.port) as flood:
        during = [stage.ssh("web-1.gw", "echo in").stdout for _ in range(5)]
        connections = len(stage.door._connections())
    assert during == [b"in\n"] * 5
    assert flood.opened == STRANGERS
    assert connections <= 2 * 100 + 5
    assert flood.most_threads - threads <= 2 * 100 + 60
    assert status("VmRSS") - memory < 150_000  # KiB
    stage.wait(lambda: not stage.door or len(stage.door._connections()) == 0)
