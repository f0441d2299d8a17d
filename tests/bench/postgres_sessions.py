"""Database sessions rather than statements: one client's waiting, arrivals, grants, and how soon a revocation is felt."""

import json
import os
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from gateway.edges.cli.client import Api
from gateway.edges.cli.device import DeviceKey
from tests.bench import arrivals
from tests.bench.meter import Row, cpu_of_tree, interleaved, memory_kib, timed
from tests.bench.postgres import connection, pgbench_arrivals, select_one
from tests.bench.servers import PostgresPaths, Stage, libpq_environment

LEVEL = {"target": "orders-db", "level": "read"}
WITHIN_S = 60.0
CLIENTS = 8
_SETTLE_S = 0.5
OF_A_GRANT = 500
_IDLE_S = 5.0


def measure(paths: PostgresPaths, stage: Stage, *, quick: bool) -> list[Row]:
    """Beside the alternatives; then what only the gateway does."""
    rounds, seconds = (1, 3) if quick else (3, 8)
    waiting = Row("one client, prepared `SELECT 1`, p50", "µs", is_rate=False, notes=paths.notes)
    interleaved(waiting, {n: lambda env=env: _statement_us(env) for n, env in paths.environments.items()}, {}, rounds)
    coming = Row("new sessions, 8 clients (`pgbench -C`)", "sessions/s", is_rate=True, notes=paths.notes)
    runs = {n: lambda env=env: pgbench_arrivals(env, seconds) for n, env in paths.environments.items()}
    interleaved(coming, runs, {}, rounds)
    opening = Row("new session to first row, one light client, p50", "ms", is_rate=False, notes=paths.notes)
    for _ in range(rounds):
        for name, environment in paths.environments.items():
            opening.add(name, statistics.median(_opened(environment, seconds, 1)))
    return [waiting, coming, opening, _crowds(paths, seconds, rounds), _grants(stage, 5 if quick else 15)]


def _crowds(paths: PostgresPaths, seconds: int, rounds: int) -> Row:
    """Sessions a second by clients that cost little, and what each costs the one in the middle."""
    name = f"new sessions, {CLIENTS} light clients"
    row = Row(name, "sessions/s", is_rate=True, cpu_unit="ms per session", notes=paths.notes)
    for _ in range(rounds):
        for path, environment in paths.environments.items():
            pid = paths.pids.get(path)
            before = cpu_of_tree(pid) if pid else 0.0
            count = len(_opened(environment, seconds, CLIENTS))
            time.sleep(_SETTLE_S)  # what is left to do for those that have gone
            row.add(path, count / seconds, 1000 * (cpu_of_tree(pid) - before) / (count + CLIENTS) if pid else None)
    return row


def _opened(environment: dict[str, str], seconds: int, clients: int) -> list[float]:
    """Milliseconds of each session that so many processes open one after another."""
    command = [sys.executable, "-m", "tests.bench.arrivals", str(seconds)]
    crowd = [
        subprocess.Popen(
            command, env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(clients)
    ]
    try:
        for each in crowd:
            _line(each)
        for each in crowd:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        return [took for each in crowd for took in json.loads(_line(each))]
    finally:
        for each in crowd:
            each.kill()
            each.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a client of the bench is gone")
    return line


def _statement_us(environment: dict[str, str], count: int = 2000) -> float:
    with connection(environment) as held:
        held.prepare_threshold = 0
        held.autocommit = True
        spans = [timed(lambda: held.execute("SELECT 1")) for _ in range(count)]
    return 1e6 * statistics.median(spans)


def _api(stage: Stage) -> Api:
    environment = stage.env("oncall")
    key = DeviceKey((Path(environment["GW_HOME"]) / "device.key").read_text())
    return Api(environment["GW_URL"], environment["GW_TOKEN"], key)


def _granted(api: Api) -> str:
    asked = {**LEVEL, "reason": "bench", "incident": "INC-1042", "duration": "1h"}
    return str(api.post("/api/requests", asked)["grant"]["id"])


def _environment(stage: Stage) -> dict[str, str]:
    return libpq_environment(str(stage.gw("oncall", "connect", "orders-db", "--level", "read")["url"]))


def _grants(stage: Stage, rounds: int) -> Row:
    """From the answer that there is a grant to the first row under it: ticket, role and session are made meanwhile."""
    row = Row("grant to first row (ticket, new role, session)", "ms", is_rate=False)
    api, environment = _api(stage), _environment(stage)
    for _ in range(rounds):
        grant = _granted(api)
        row.add("gateway, TLS", 1000 * timed(lambda: _first_row(api, environment)))
        api.post(f"/api/grants/{grant}/revoke", {"reason": "bench"})
    return row


def _first_row(api: Api, environment: dict[str, str]) -> None:
    ticket = api.post("/api/targets/orders-db/ticket", {"level": "read", "single_use": False})
    with connection(environment | {"PGPASSWORD": str(ticket["password"])}) as held:
        select_one(held)


def revocation(stage: Stage, counts: tuple[int, ...]) -> list[Row]:
    """From the moment that the revocation bears (it is stored after that) to each client's connection told and closed."""
    rows = []
    api = _api(stage)
    for count in counts:
        grant = _granted(api)
        with _crowd(_environment(stage), count) as crowd:
            waits = _cut(api, grant, crowd)
        for share, name in ((50, "p50"), (99, "p99")):
            row = Row(f"revoke to cut, {count} sessions, {name}", "ms", is_rate=False)
            row.add("gateway", waits[min(len(waits) - 1, len(waits) * share // 100)])
            rows.append(row)
    return rows


def held(stage: Stage, count: int) -> list[Row]:
    """Idle recorded sessions of one gateway: what each costs, who gets in beside them, how soon one grant's are cut."""
    pid, api = stage.pids["gateway"], _api(stage)
    environment: dict[str, str] = {}
    with ExitStack() as stack:
        opened: list[arrivals.Connection] = []
        before, grant = 0, ""
        for n in range(count):
            if n % OF_A_GRANT == 0:  # a role of its own each: its connections are limited
                grant, environment = _granted(api), _environment(stage)
                tls = arrivals.tls_of(environment)
            if n == 0:
                for _ in range(30):  # what the first sessions of a process cost stays
                    arrivals.arrive(environment, tls)
                time.sleep(_IDLE_S)
                before = memory_kib(pid)
            opened.append(arrivals.Connection(environment, tls))
            stack.callback(opened[-1].socket.close)
            opened[-1].select_one()
        time.sleep(_IDLE_S)
        each = Row(f"{count} idle sessions, memory", "KiB each", is_rate=False)
        each.add("gateway", (memory_kib(pid) - before) / count)
        busy = Row(f"{count} idle sessions, CPU", "% of a core", is_rate=False)
        spent = cpu_of_tree(pid)
        time.sleep(_IDLE_S)
        busy.add("gateway", 100 * (cpu_of_tree(pid) - spent) / _IDLE_S)
        late = sorted(1000 * arrivals.arrive(environment, tls) for _ in range(30))
        beside = Row(f"new session to first row beside {count}, p50", "ms", is_rate=False)
        beside.add("gateway", statistics.median(late))
        last = opened[(count - 1) // OF_A_GRANT * OF_A_GRANT :]
        waits = _cut(api, grant, last)
        cut = Row(f"revoke to cut, {len(last)} of {count} sessions, p99", "ms", is_rate=False)
        cut.add("gateway", waits[min(len(waits) - 1, len(waits) * 99 // 100)])
        for session in opened[: -len(last)]:
            session.select_one()  # the other grants' go on
    return [each, busy, beside, cut]


def _cut(api: Api, grant: str, crowd: list[arrivals.Connection]) -> list[float]:
    """Milliseconds from when the revocation bears to each client's last word."""
    with ThreadPoolExecutor(1) as person:
        # Not after the answer, which comes when the revocation is in the log: by then most are cut.
        revoking = person.submit(api.post, f"/api/grants/{grant}/revoke", {"reason": "bench"})
        ends = list(_ends(crowd))
        since = datetime.fromisoformat(str(revoking.result()["revoked_at"])).timestamp()
    return sorted(1000 * (at - since) for at in ends)


@contextmanager
def _crowd(environment: dict[str, str], count: int) -> Iterator[list[arrivals.Connection]]:
    """Clients that cost little: here hundreds of them share the gateway's cores."""
    tls = arrivals.tls_of(environment)
    with ExitStack() as stack:
        held = []
        for _ in range(count):
            held.append(arrivals.Connection(environment, tls))
            stack.callback(held[-1].socket.close)
            held[-1].select_one()
        yield held


def _ends(held: list[arrivals.Connection]) -> Iterator[float]:
    """When each had its last word to read."""
    until = time.monotonic() + WITHIN_S
    with selectors.DefaultSelector() as selector:
        for each in held:
            selector.register(each.socket, selectors.EVENT_READ)
        while selector.get_map():
            if time.monotonic() > until:
                raise RuntimeError(f"{len(selector.get_map())} sessions are still open")
            for key, _ in selector.select(1.0):
                selector.unregister(key.fileobj)
                yield time.time()
