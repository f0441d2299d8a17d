"""Many recorded terminals at one gateway with its default settings, and how soon a revocation is felt by them."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tests.bench.meter import Row, cpu_of_tree, memory_of_tree, threads_of_tree, timed
from tests.bench.servers import SshPaths, Stage

CUT, KEPT = "web-1", "shell%web-1"  # two user names for the same level, so that the two crowds are told apart
SETTLE_S = 5.0
TARGETS_NICE = 10  # targets are other machines; this one ends hundreds of shells on the cores of the gateway


class Crowd:
    """`tests.bench.crowd`, asked."""

    def __init__(self, config: Path) -> None:
        command = [sys.executable, "-m", "tests.bench.crowd", str(config), "web-1.gw"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def send(self, **question: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()

    def answer(self) -> list[float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the crowd is gone")
        return json.loads(line)

    def ask(self, **question: object) -> list[float]:
        self.send(**question)
        return self.answer()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def crowd_of(paths: SshPaths) -> Iterator[Crowd]:
    crowd = Crowd(paths.config)
    try:
        yield crowd
    finally:
        crowd.close()


def grant(stage: Stage, hours: int) -> str:
    """Its id. A session is opened under the grant that lasts longest."""
    about = ("--incident", "INC-1042", "--reason", "bench", "--for", f"{hours}h")
    asked = stage.gw("oncall", "request", "web-1", "--level", "shell", *about)
    return str(asked["grant"]["id"])  # type: ignore[index]


def measure(stage: Stage, paths: SshPaths, held: int) -> list[Row]:
    """`held` terminals, half of them under either grant; then one grant is revoked."""
    pid = paths.pids["gateway"]
    os.setpriority(os.PRIO_PROCESS, stage.pids["sshd"], TARGETS_NICE)
    rows = []
    with crowd_of(paths) as crowd:
        to_revoke = grant(stage, 1)
        crowd.ask(grow=1, user=CUT)  # whatever is made once is made
        before, at_first = memory_of_tree(pid), threads_of_tree(pid)
        arrivals = crowd.ask(grow=held // 2 - 1, user=CUT)
        grant(stage, 2)
        arrivals += crowd.ask(grow=held // 2, user=KEPT)
        rows += [_row(f"{held} terminals, opening one, median", "ms", 1000 * statistics.median(arrivals))]
        time.sleep(SETTLE_S)
        rows += [
            _row(f"{held} idle terminals, memory", "KiB each", (memory_of_tree(pid) - before) / held),
            _row(f"{held} idle terminals, threads", "each", (threads_of_tree(pid) - at_first) / (held - 1)),
            _row("all threads", "", threads_of_tree(pid)),
            _row(f"{held} idle terminals, CPU", "% of a core", 100 * _idle_cpu(pid)),
        ]
        logins = [1000 * timed(lambda: _login(paths)) for _ in range(10)]
        rows += [
            _row(f"`ssh host true` beside {held} terminals, median", "ms", statistics.median(logins)),
            _row(f"`ssh host true` beside {held} terminals, slowest of 10", "ms", max(logins)),
        ]
        rows += _revocation(stage, crowd, to_revoke, held // 2)
    return rows


def _revocation(stage: Stage, crowd: Crowd, grant: str, count: int) -> list[Row]:
    """From the moment that the revocation bears (it is stored after that) to each client's connection closed."""
    crowd.send(cut=CUT)
    revoked = stage.gw("oncall", "revoke", grant, "--reason", "bench")
    since = datetime.fromisoformat(str(revoked["revoked_at"])).timestamp()
    waits = sorted(1000 * (closed - since) for closed in crowd.answer())
    left = crowd.ask(held=True)
    name = f"revoke to cut, {count} terminals"
    cuts = statistics.quantiles(waits, n=100)
    rows = [
        _row(f"{name}, p50", "ms", cuts[49]),
        _row(f"{name}, p99", "ms", cuts[98]),
        _row(f"{name}, last", "ms", waits[-1]),
    ]
    return [*rows, _row("terminals of another grant still open then", "", float(left))]  # type: ignore[arg-type]


def _row(name: str, unit: str, value: float) -> Row:
    row = Row(name, unit, is_rate=False)
    row.add("gateway", value)
    return row


def _idle_cpu(pid: int) -> float:
    before, span = cpu_of_tree(pid), 4.0
    time.sleep(span)
    return (cpu_of_tree(pid) - before) / span


def _login(paths: SshPaths) -> None:
    argv = ["ssh", "-F", str(paths.config), paths.hosts["gateway"], "true"]
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=60)
