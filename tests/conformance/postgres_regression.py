"""PostgreSQL's own suites through the gateway and directly: regression, isolation and libpq pipelining, side by side.

A superuser is the level's account here, which the gateway never does by itself: the suites make roles, databases and
tablespaces. `REGRESSION_KEEP=DIR` keeps what was printed and the differences.
"""

import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pytest

from gateway.app.open_session import Admitted, Opened
from gateway.app.target_ports import DatabaseLogin
from gateway.core.target import Kind, Level, Target
from tests.conformance.postgres_source import Built, build
from tests.e2e.postgres_stage import ONCALL, TICKET, MemoryRecording, Stage, door_tls, running_door
from tests.servers import PostgresServer, running_postgres

_SUITE_S = 1_800
_SETTINGS = {
    # What pg_regress gives a server that it starts itself; the rest of the suites' expectations are defaults.
    "max_prepared_transactions": "2",
    "log_temp_files": "128kB",
    "autovacuum": "on",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "listen_addresses": "127.0.0.1",
}


class CountingRecording(MemoryRecording):
    """Counts records: the suites' texts are many."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def append(self, kind: str, at: datetime, data: bytes) -> int:
        self.count += 1
        return self.count


@dataclass
class AnyDatabase(Stage):
    """Every database of the server is a target of that name; the ticket opens all of them."""

    def _authenticate(self, user: str, ticket: str, target: str, client: str) -> Admitted:
        who = super()._authenticate(ONCALL.name, ticket, self.target.name, client)
        return replace(who, user=replace(who.user, name=user), grant=replace(who.grant, target=target))

    def _open(self, who: Admitted, client: str) -> Opened:
        opened = super()._open(who, client)
        target = replace(self.target, name=who.grant.target, database=who.grant.target)
        return replace(opened, target=target, recording=CountingRecording())


@dataclass(frozen=True, slots=True)
class Road:
    """One way to the server: `environment` for libpq."""

    name: str
    environment: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything in one folder that the server's user can read. `roads` are the direct one and the gateway's."""

    folder: Path
    tests: Path
    roads: tuple[Road, Road]


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


@contextmanager
def bench(built: Built, *, tls: bool = True) -> Iterator[Bench]:
    """A fresh server and door: what a suite left behind would be seen by the next."""
    folder = Path(tempfile.mkdtemp(prefix="gw-regress-"))
    try:
        folder.chmod(0o755)
        shutil.copytree(built.install, folder / "install", symlinks=True)
        shutil.copytree(built.tests, folder / "test", symlinks=True)
        private = folder / "private"
        private.mkdir(0o700)
        with running_postgres(folder / "install", **_SETTINGS) as started:
            started.execute(f"ALTER ROLE {started.superuser} PASSWORD '{TICKET}'")
            server = replace(started, password=TICKET)
            with _door(server, private) as (stage, ca):
                yield Bench(folder, folder / "test", (_direct(server), _through(stage, server, ca, tls=tls)))
    finally:
        shutil.rmtree(folder)


@contextmanager
def _door(server: PostgresServer, folder: Path) -> Iterator[tuple[Stage, Path]]:
    context, ca = door_tls(folder)
    level = Level("read", server.superuser, 0)
    target = Target(
        "postgres", Kind.POSTGRES, "orders", "test", server.host, server.port, {"read": level},
        database="postgres", admin_dsn_file=str(folder / "none"), tls="disable",
    )  # fmt: skip
    with running_door(
        AnyDatabase(target, DatabaseLogin(server.superuser, TICKET), ca), context, allow_plaintext=True
    ) as stage:
        yield stage, ca


def _direct(server: PostgresServer) -> Road:
    return Road(
        "directly", {"PGHOST": server.host, "PGPORT": str(server.port), **_login(server), "PGSSLMODE": "disable"}
    )


def _through(stage: Stage, server: PostgresServer, ca: Path, *, tls: bool) -> Road:
    safe = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(ca)} if tls else {"PGSSLMODE": "disable"}
    return Road("through the gateway", {"PGHOST": "127.0.0.1", "PGPORT": str(stage.port), **_login(server), **safe})


def _login(server: PostgresServer) -> dict[str, str]:
    return {"PGUSER": server.superuser, "PGPASSWORD": TICKET}


@pytest.mark.timeout(3 * _SUITE_S)
@pytest.mark.parametrize(
    ("suite", "program", "schedule", "at_least", "tls"),
    [
        ("regress", "pg_regress", "parallel_schedule", 200, True),
        # In the clear, as it expects: over TLS libpq has other words for a connection that the server closed.
        ("isolation", "pg_isolation_regress", "isolation_schedule", 100, False),
    ],
)
def test_the_suite_gives_the_same_result(
    built: Built, suite: str, program: str, schedule: str, at_least: int, tls: bool
) -> None:
    results = {}
    for side in (0, 1):
        with bench(built, tls=tls) as up:
            results[side] = _regress(up, up.roads[side], suite, program, schedule)
    directly, through = results[0], results[1]
    print(f"\n{suite}: directly {_score(directly)}, through the gateway {_score(through)}")
    assert len(directly) >= at_least
    assert through == directly
    assert all(directly.values())


def _regress(up: Bench, road: Road, suite: str, program: str, schedule: str) -> dict[str, bool]:
    """Each test's name and whether its output was the expected one."""
    source, out = up.tests / suite, up.folder / f"out-{suite}"
    for each in (out, out / "results", out / "testtablespace"):
        each.mkdir(exist_ok=True)
        each.chmod(0o777)  # the server writes there as another user (COPY TO)
    argv = [
        str(source / program), f"--inputdir={source}", f"--outputdir={out}", f"--bindir={up.folder / 'install' / 'bin'}",
        f"--dlpath={up.tests / 'regress'}", f"--schedule={source / schedule}", "--max-concurrent-tests=20",
        "--dbname=" + ("regression" if suite == "regress" else "isolation_regression"),
        f"--host={road.environment['PGHOST']}", f"--port={road.environment['PGPORT']}", f"--user={road.environment['PGUSER']}",
    ]  # fmt: skip
    done = subprocess.run(
        argv, cwd=source, env={**_plain(), **road.environment}, capture_output=True, text=True, timeout=_SUITE_S, check=False
    )  # fmt: skip
    _keep(f"{suite}-{road.name}", done.stdout + done.stderr, out / "regression.diffs")
    return _outcomes(done.stdout)


def _outcomes(printed: str) -> dict[str, bool]:
    """The lines of pg_regress, before and since PostgreSQL 16."""
    old = re.findall(r"^(?:test|    ) +(\S+) +\.\.\. (ok|FAILED|failed)", printed, re.MULTILINE)
    new = re.findall(r"^(ok|not ok) \d+ +[-+] (\S+)", printed, re.MULTILINE)
    return {name: word == "ok" for name, word in old} | {name: word == "ok" for word, name in new}


@pytest.mark.timeout(_SUITE_S)
def test_libpq_pipelines(built: Built) -> None:
    program = "modules/libpq_pipeline/libpq_pipeline"
    results = []
    for side in (0, 1):
        with bench(built) as up:
            road = up.roads[side]
            environment = {**_plain(), **road.environment}
            listed = subprocess.run([up.tests / program, "tests"], capture_output=True, text=True, check=True)
            results.append({name: _pipeline(up, program, name, environment, road) for name in listed.stdout.split()})
    directly, through = results
    print(f"\nlibpq_pipeline: directly {_score(directly)}, through the gateway {_score(through)}")
    assert directly
    assert through == directly
    assert all(directly.values())


def _pipeline(up: Bench, program: str, name: str, environment: Mapping[str, str], road: Road) -> bool:
    """As its own script (t/001_libpq_pipeline.pl) does: the exit status, and libpq's trace where one is expected."""
    expected = (up.tests / program).parent / "traces" / f"{name}.trace"
    trace = up.folder / f"{secrets.token_hex(4)}.trace"
    options = ["-t", str(trace)] if expected.exists() else []
    argv = [str(up.tests / program), "-r", "700", *options, name, "dbname=postgres"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300, check=False)
    same = not expected.exists() or trace.read_text() == expected.read_text()
    if done.returncode or not same:
        _keep(f"pipeline-{name}-{road.name}", done.stdout + done.stderr, trace)
    return done.returncode == 0 and same


def _score(outcomes: Mapping[str, bool]) -> str:
    failed = [name for name, good in outcomes.items() if not good]
    return f"{len(outcomes) - len(failed)} of {len(outcomes)}" + (f" (failed: {' '.join(failed)})" if failed else "")


def _plain() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _keep(name: str, printed: str, differences: Path) -> None:
    if not (folder := os.environ.get("REGRESSION_KEEP")):
        return
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    plain = name.replace(" ", "-")
    (place / f"{plain}.out").write_text(printed)
    if differences.exists():
        shutil.copy(differences, place / f"{plain}.diffs")
