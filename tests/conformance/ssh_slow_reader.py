"""Ten gigabytes through a slow reader: the gateway's memory stays flat. `SLOW_READER_GB=1` for a shorter run."""

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.bench.meter import memory_of_tree
from tests.e2e.stage import Stage, directory, running

GIGABYTES = float(os.environ.get("SLOW_READER_GB", "10"))
OCTETS = int(GIGABYTES * 1e9)
GULP = 64_000_000
PAUSE_S = 0.1  # after each gulp: the target is never waited for, the reader always is
MOST_KIB = 64_000  # growth; one channel may hold 8 MiB each way


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with directory() as path, running(path) as up:
        up.ask("web-1", "shell")
        yield up


@pytest.mark.timeout(900)
@pytest.mark.client("OpenSSH ssh", "command")
def test_ten_gigabytes_through_a_slow_reader(stage: Stage) -> None:
    gateway = stage.pids()["gateway"]
    argv = ["ssh", "-F", str(stage.ssh_config()), "-o", "LogLevel=ERROR", "web-1.gw", f"head -c {OCTETS} /dev/zero"]
    got, sizes, begun = 0, [], time.monotonic()
    with subprocess.Popen(argv, env=stage.env("oncall"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        while chunk := client.stdout.read(GULP):
            got += len(chunk)
            sizes.append(memory_of_tree(gateway))
            time.sleep(PAUSE_S)
    seconds = time.monotonic() - begun
    growth = max(sizes) - sizes[0]
    print(
        f"\n{got / 1e9:.1f} GB in {seconds:.0f} s; memory {sizes[0]} KiB after the first gulp, at most {growth} KiB more"
    )
    assert client.returncode == 0
    assert got == OCTETS
    assert growth < MOST_KIB
