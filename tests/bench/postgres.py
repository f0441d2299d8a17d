import os
import re
import subprocess
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep

import psycopg

from gateway.demo.programs import find
from tests.bench.meter import Row, cpu_of_tree, interleaved, memory_kib, timed
from tests.bench.servers import PostgresPaths, Stage

TIMEOUT_S = 600
REST_S = 30.0
LOOK_S = 0.5
RESTS = 0.06  # of a processor, at most
PARTS = ("statements", "copy", "connect")
_TPS = re.compile(r"tps = ([0-9.]+)")


def prepare(stage: Stage, scale: int) -> None:
    """Pgbench's tables, readable and one of them writable at each level: this is a bench, not a shop."""
    dsn = stage.superuser_dsn("orders")
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84))",
            "CREATE TABLE pgbench_branches (bid int PRIMARY KEY)",  # pgbench asks for its size
            f"INSERT INTO pgbench_branches SELECT generate_series(1, {scale})",
            f"INSERT INTO pgbench_accounts SELECT n, 1, 0, '' FROM generate_series(1, {scale} * 100000) AS n",
            "CREATE UNLOGGED TABLE bench_in (LIKE pgbench_accounts)",
            "GRANT SELECT ON pgbench_accounts, pgbench_branches TO orders_read, orders_write",
            "GRANT INSERT ON bench_in TO orders_read, orders_write",
            "VACUUM ANALYZE pgbench_accounts",
        ):
            connection.execute(statement.encode())


def measure(paths: PostgresPaths, stage: Stage, work: Path, parts: Collection[str], *, quick: bool) -> list[Row]:
    """The statements come last: while their sessions are added to the search index, everything else is slower."""
    copies = _copies(paths, stage, work, 1 if quick else 3) if "copy" in parts else []
    logins = Row("connect and `SELECT 1`", "ms", is_rate=False, cpu_unit="ms", notes=paths.notes)
    if "connect" in parts:
        runs = {name: lambda env=env: 1000 * timed(lambda: _connect(env)) for name, env in paths.environments.items()}
        interleaved(logins, runs, paths.pids, 5 if quick else 31, per=1000)
    rows = []
    seconds, rounds = (3, 1) if quick else (8, 3)
    for mode in ("simple", "prepared") if "statements" in parts else ():
        row = Row(f"`pgbench -S -c 8 -M {mode}`", "tps", is_rate=True, cpu_unit="µs per transaction", notes=paths.notes)
        for _ in range(rounds):
            for name, environment in paths.environments.items():
                _rest(paths.pids.values())
                _tps_with_cpu(row, name, environment, paths, mode, seconds)
        rows.append(row)
    return [*rows, *copies, *([logins] if logins.values else [])]


def _rest(pids: Iterable[int]) -> None:
    """Let the gateway seal and index what came before: a quarter of a processor that would be laid to the next row."""
    until = monotonic() + REST_S
    for pid in set(pids):
        used = 1.0
        while used > RESTS * LOOK_S and monotonic() < until:
            used = -cpu_of_tree(pid)
            sleep(LOOK_S)
            used += cpu_of_tree(pid)


def _copies(paths: PostgresPaths, stage: Stage, work: Path, rounds: int) -> list[Row]:
    dump = work / "accounts.copy"
    _psql(paths.environments["direct"], f"\\copy pgbench_accounts TO '{dump}'")
    megabytes = dump.stat().st_size / 1e6
    out = Row(f"COPY out, {megabytes:.0f} MB", "MB/s", is_rate=True, cpu_unit="s/GB", notes=paths.notes)
    into = Row(f"COPY in, {megabytes:.0f} MB", "MB/s", is_rate=True, cpu_unit="s/GB", notes=paths.notes)
    for row, once in ((out, _copy_out), (into, lambda env: _copy_in(env, dump, stage))):
        runs = {name: _rate(once, env, megabytes) for name, env in paths.environments.items()}
        interleaved(row, runs, paths.pids, rounds, per=1000 / megabytes)
    return [out, into]


def _rate(
    once: Callable[[dict[str, str]], float], environment: dict[str, str], megabytes: float
) -> Callable[[], float]:
    return lambda: megabytes / once(environment)


def _tps_with_cpu(
    row: Row, name: str, environment: dict[str, str], paths: PostgresPaths, mode: str, seconds: int
) -> None:
    one = Row("", "", is_rate=True)
    interleaved(one, {name: lambda: _pgbench(environment, mode, seconds)}, paths.pids, 1, per=1e6)
    tps = one.values[name][0]
    row.add(name, tps, one.cpu[name][0] / (tps * seconds) if name in one.cpu else None)


def pgbench_arrivals(environment: dict[str, str], seconds: int) -> float:
    """New sessions per second, each for one statement."""
    return _pgbench(environment, "simple", seconds, "-C")


def _pgbench(environment: dict[str, str], mode: str, seconds: int, *more: str) -> float:
    program = find("pgbench")
    assert program is not None
    argv = [program, "-n", "-S", "-c", "8", "-j", "2", "-M", mode, "-T", str(seconds), *more]
    done = subprocess.run(argv, env={**os.environ, **environment}, capture_output=True, text=True, timeout=TIMEOUT_S)
    found = _TPS.search(done.stdout)
    if done.returncode or not found:
        raise RuntimeError(f"pgbench: {done.stderr[-500:]}")
    return float(found[1])


def _psql(environment: dict[str, str], command: str, stdin: object = subprocess.DEVNULL) -> None:
    argv = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", command]
    subprocess.run(  # type: ignore[call-overload]
        argv, env={**os.environ, **environment}, stdin=stdin, stdout=subprocess.DEVNULL, check=True, timeout=TIMEOUT_S
    )


def _copy_out(environment: dict[str, str]) -> float:
    return timed(lambda: _psql(environment, "COPY pgbench_accounts TO STDOUT"))


def _copy_in(environment: dict[str, str], dump: Path, stage: Stage) -> float:
    with psycopg.connect(stage.superuser_dsn("orders"), autocommit=True) as connection:
        connection.execute("TRUNCATE bench_in")
        connection.execute("CHECKPOINT")  # or the one before is written while this one is measured
    with dump.open("rb") as source:
        return timed(lambda: _psql(environment, "COPY bench_in FROM STDIN", source))


def _connect(environment: dict[str, str]) -> None:
    with connection(environment) as held:
        held.execute("SELECT 1").fetchone()


def connection(environment: dict[str, str]) -> psycopg.Connection:
    """One that libpq would make of these variables."""
    names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password", "PGDATABASE": "dbname"}
    names |= {"PGSSLMODE": "sslmode", "PGSSLROOTCERT": "sslrootcert"}
    return psycopg.connect(**{names[key]: value for key, value in environment.items()}, connect_timeout=20)


def memory(paths: PostgresPaths, counts: tuple[int, ...]) -> list[Row]:
    """Memory of the gateway per idle database session (KiB, proportional set size)."""
    pid, environment = paths.pids["gateway, TLS"], paths.environments["gateway, TLS"]
    before = memory_kib(pid)
    rows = []
    with ExitStack() as stack:
        held = 0
        for count in counts:
            while held < count:
                select_one(stack.enter_context(connection(environment)))
                held += 1
            row = Row(f"PostgreSQL, {count} idle sessions", "KiB each", is_rate=False)
            row.add("gateway", (memory_kib(pid) - before) / count)
            rows.append(row)
    return rows


def select_one(held: psycopg.Connection) -> None:
    """A statement, so that a session is whole."""
    held.execute("SELECT 1").fetchone()
    held.commit()
