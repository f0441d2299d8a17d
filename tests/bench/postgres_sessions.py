"""Database sessions rather than statements: one client's waiting, arrivals, grants, and how soon a revocation is felt."""

import selectors
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import psycopg

from gateway.edges.cli.client import Api
from gateway.edges.cli.device import DeviceKey
from tests.bench.meter import Row, interleaved, timed
from tests.bench.postgres import arrivals, connection, select_one
from tests.bench.servers import PostgresPaths, Stage, libpq_environment

LEVEL = {"target": "orders-db", "level": "read"}
WITHIN_S = 60.0


def measure(paths: PostgresPaths, stage: Stage, *, quick: bool) -> list[Row]:
    """Beside the alternatives; then what only the gateway does."""
    rounds, seconds = (1, 3) if quick else (3, 8)
    waiting = Row("one client, prepared `SELECT 1`, p50", "µs", is_rate=False, notes=paths.notes)
    interleaved(waiting, {n: lambda env=env: _statement_us(env) for n, env in paths.environments.items()}, {}, rounds)
    coming = Row("new sessions, 8 clients (`pgbench -C`)", "sessions/s", is_rate=True, notes=paths.notes)
    runs = {n: lambda env=env: arrivals(env, seconds) for n, env in paths.environments.items()}
    interleaved(coming, runs, {}, rounds)
    return [waiting, coming, _grants(stage, 5 if quick else 15)]


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


@contextmanager
def _crowd(environment: dict[str, str], count: int) -> Iterator[list[psycopg.Connection]]:
    with ExitStack() as stack:
        held = [stack.enter_context(connection(environment)) for _ in range(count)]
        for each in held:
            select_one(each)
        yield held


def revocation(stage: Stage, counts: tuple[int, ...]) -> list[Row]:
    """From the moment that the revocation bears (it is stored after that) to each client's connection told and closed."""
    rows = []
    api = _api(stage)
    for count in counts:
        grant = _granted(api)
        waits = []
        with _crowd(_environment(stage), count) as held:
            revoked = api.post(f"/api/grants/{grant}/revoke", {"reason": "bench"})
            since = datetime.fromisoformat(str(revoked["revoked_at"])).timestamp()
            waits = sorted(1000 * (at - since) for at in _ends(held))
        for share, name in ((50, "p50"), (99, "p99")):
            row = Row(f"revoke to cut, {count} sessions, {name}", "ms", is_rate=False)
            row.add("gateway", waits[min(len(waits) - 1, len(waits) * share // 100)])
            rows.append(row)
    return rows


def _ends(held: list[psycopg.Connection]) -> Iterator[float]:
    """When each had its last word to read."""
    until = time.monotonic() + WITHIN_S
    with selectors.DefaultSelector() as selector:
        for each in held:
            selector.register(each.fileno(), selectors.EVENT_READ)
        while selector.get_map():
            if time.monotonic() > until:
                raise RuntimeError(f"{len(selector.get_map())} sessions are still open")
            for key, _ in selector.select(1.0):
                selector.unregister(key.fileobj)
                yield time.time()
