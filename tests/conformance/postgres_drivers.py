"""What people connect to databases with, at the real door: each driver's script tries feature by feature."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from gateway.adapters.door_tls import end_point_binding
from gateway.core.target import Target
from tests.e2e.node_provider import node
from tests.e2e.postgres_stage import ONCALL, TICKET, Stage, database, door_tls, leased, running_door
from tests.servers import PostgresServer, running_postgres

HERE = Path(__file__).parent / "drivers"
JAR = "/usr/share/java/postgresql.jar"
_SCRIPT_S = 300
_PYTHON = str(Path(os.environ.get("CONFORMANCE_BIN", "")) / "python")

_ALL = (
    "connect",
    "simple",
    "extended",
    "named",
    "pipeline",
    "copy",
    "cancel",
    "notify",
    "notice",
    "transaction",
    "error",
    "binary",
)
DRIVERS: Mapping[str, tuple[list[str], tuple[str, ...]]] = {
    "psycopg 3": ([sys.executable, "by_psycopg.py"], (*_ALL, "large")),
    "asyncpg": ([_PYTHON, "by_asyncpg.py"], (*_ALL, "portal")),
    "SQLAlchemy with psycopg": (
        [_PYTHON, "by_sqlalchemy.py", "psycopg"], ("connect", "extended", "portal", "pipeline", "transaction", "error"),
    ),
    "SQLAlchemy with asyncpg": (
        [_PYTHON, "by_sqlalchemy.py", "asyncpg"], ("connect", "extended", "portal", "pipeline", "transaction", "error"),
    ),
    "pg8000": (
        [_PYTHON, "by_pg8000.py"],
        ("connect", "simple", "extended", "named", "copy", "notify", "notice", "transaction", "error"),
    ),
    "node-postgres": (
        [node(), "by_node_postgres.mjs"], (*(each for each in _ALL if each != "pipeline"), "portal"),
    ),
    "pgjdbc": (["java", "-cp", JAR, "ByJdbc.java"], (*_ALL, "portal", "large", "function")),
}  # fmt: skip


@pytest.fixture(scope="module")
def target(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with database(postgres_server, tmp_path_factory.mktemp("target")) as made:
        yield made


@pytest.fixture(scope="module")
def stage(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    context, ca = door_tls(tmp_path_factory.mktemp("tls"))
    with leased(target, "gw_drivers") as login, running_door(Stage(target, login, ca), context) as running:
        yield running


@pytest.fixture(scope="module")
def scram_stage(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("tls-scram")
    context, ca = door_tls(folder)
    binding = end_point_binding(folder / "door.pem")
    with (
        leased(target, "gw_scram_drivers") as login,
        running_door(Stage(target, login, ca), context, uses_scram=True, binding=binding) as running,
    ):
        yield running


@cache
def outcomes(stage: int, driver: str, ca: str, target: str, level: str = "") -> dict[str, str]:
    """What the driver's script said of each feature. `stage` is the door's port: a script runs once for each."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
        "DRIVER_HOST": "127.0.0.1", "DRIVER_PORT": str(stage), "DRIVER_USER": ONCALL.name, "DRIVER_PASSWORD": TICKET,
        "DRIVER_DATABASE": target, "DRIVER_CA": ca, "DRIVER_LEVEL": level,
    }  # fmt: skip
    argv = DRIVERS[driver][0]
    done = subprocess.run(argv, cwd=HERE, env=environment, capture_output=True, text=True, timeout=_SCRIPT_S)
    said = {}
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        said[rest.partition(":")[0]] = "ok" if word == "ok" else rest
    assert said, done.stderr[-3000:]
    return said


@pytest.mark.timeout(_SCRIPT_S)
@pytest.mark.parametrize(
    ("driver", "feature"),
    [
        pytest.param(driver, feature, marks=pytest.mark.driver(driver, feature))
        for driver, (_, features) in DRIVERS.items()
        for feature in features
    ],
)
def test_driver(stage: Stage, driver: str, feature: str) -> None:
    assert outcomes(stage.port, driver, str(stage.ca_file), stage.target.name)[feature] == "ok"


@pytest.mark.timeout(_SCRIPT_S)
@pytest.mark.parametrize("driver", [pytest.param(each, marks=pytest.mark.driver(each, "scram")) for each in DRIVERS])
def test_driver_that_is_asked_for_scram(scram_stage: Stage, driver: str) -> None:
    said = outcomes(scram_stage.port, driver, str(scram_stage.ca_file), scram_stage.target.name)
    assert set(said.values()) == {"ok"}, said


@pytest.mark.driver("psql", "scram")
def test_psql_that_insists_on_binding(scram_stage: Stage) -> None:
    argv = ("psql", "-XAt", f"{scram_stage.url()}&channel_binding=require", "-c", "SELECT 41 + 1")
    assert program(scram_stage, *argv).stdout == "42\n"


def test_nothing_is_tried_that_no_test_asks_for(stage: Stage) -> None:
    for driver, (_, features) in DRIVERS.items():
        assert outcomes(stage.port, driver, str(stage.ca_file), stage.target.name).keys() == set(features)


def program(stage: Stage, *argv: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(stage.port), "PGUSER": ONCALL.name, "PGPASSWORD": TICKET,
        "PGDATABASE": stage.target.name, "PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(stage.ca_file),
    }  # fmt: skip
    return subprocess.run(argv, env=environment, input=stdin, capture_output=True, text=True, timeout=100)


@pytest.mark.driver(
    "psql", "connect", "simple", "copy", "notify", "notice", "large", "function", "transaction", "error"
)
def test_psql(stage: Stage, tmp_path: Path) -> None:
    """Large objects go by FunctionCall messages here: libpq's lo_import and lo_export."""
    (tmp_path / "blob").write_bytes(os.urandom(3 << 20))
    script = f"""
        CREATE TEMP TABLE t (n int, note text);
        \\copy (SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g) TO '{tmp_path}/rows'
        \\copy t FROM '{tmp_path}/rows'
        SELECT 'rows', count(*) FROM t;
        BEGIN; DELETE FROM t; ROLLBACK;
        SELECT 'kept', count(*) FROM t;
        \\lo_import '{tmp_path}/blob'
        \\lo_export :LASTOID '{tmp_path}/back'
        \\lo_unlink :LASTOID
        LISTEN news; NOTIFY news, 'flash';
        DO $$ BEGIN RAISE NOTICE 'hello'; END $$;
        SELECT 1 / 0;
        \\echo state :SQLSTATE
    """
    done = program(stage, "psql", "-XAt", stdin=script)
    assert "rows|20000\n" in done.stdout, done.stderr
    assert "kept|20000\n" in done.stdout
    assert 'Asynchronous notification "news" with payload "flash"' in done.stdout
    assert "NOTICE:  hello" in done.stderr
    assert "state 22012" in done.stdout
    assert (tmp_path / "back").read_bytes() == (tmp_path / "blob").read_bytes()


@pytest.mark.driver("psql", "cancel")
def test_psql_interrupted(stage: Stage) -> None:
    environment = {**os.environ, "PGCONNECT_TIMEOUT": "10"}
    argv = ["psql", "-XAt", stage.url(), "-c", "SELECT pg_sleep(60)"]
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) as psql:
        recording = stage.recording()
        recording.wait(lambda: any("pg_sleep(60)" in each["sql"] for each in stage.recording().of("statement")))
        time.sleep(0.5)
        psql.send_signal(signal.SIGINT)
        _, said = psql.communicate(timeout=20)
    assert "canceling statement due to user request" in said


@pytest.mark.driver("pg_dump, pg_restore", "connect", "simple", "copy", "transaction", "large")
def test_pg_dump_and_pg_restore(tmp_path: Path) -> None:
    """pg_dump wants a server that is not newer than itself."""
    major = subprocess.run(["pg_dump", "--version"], capture_output=True, text=True).stdout.split()[2].partition(".")[0]
    context, ca = door_tls(tmp_path / "tls")
    with (
        running_postgres(Path(f"/usr/lib/postgresql/{major}")) as server,
        database(server, tmp_path) as target,
        leased(target, "gw_dump") as login,
        running_door(Stage(target, login, ca), context) as stage,
    ):
        dump_and_restore(stage, tmp_path)


def dump_and_restore(stage: Stage, tmp_path: Path) -> None:
    """Of what the level's group owns: a table and a large object."""
    dump = str(tmp_path / "dump")
    made = "CREATE TABLE mine AS SELECT * FROM orders; SELECT lo_from_bytea(4711, repeat('x', 100000)::bytea);"
    assert program(stage, "psql", "-XAt", "-c", made).returncode == 0
    own = ("--no-owner", "--no-privileges")
    done = program(stage, "pg_dump", "-Fc", "--table=mine", "--large-objects", *own, "--file", dump)
    if "unrecognized option" in done.stderr:  # before PostgreSQL 16
        done = program(stage, "pg_dump", "-Fc", "--table=mine", "--blobs", *own, "--file", dump)
    assert done.returncode == 0, done.stderr
    options = ("--clean", "--if-exists", *own, "--single-transaction", "--dbname", stage.target.name)
    again = program(stage, "pg_restore", *options, dump)
    assert again.returncode == 0, again.stderr
    asked = "SELECT count(*), min(length(note)), (SELECT length(lo_get(4711))) FROM mine"
    assert program(stage, "psql", "-XAt", "-c", asked).stdout == "2000|100|100000\n"


@pytest.mark.driver("pgbench", "connect", "simple", "extended", "named", "pipeline")
@pytest.mark.parametrize("mode", ["simple", "extended", "prepared", "pipeline"])
def test_pgbench(stage: Stage, tmp_path: Path, mode: str) -> None:
    script = tmp_path / "one.sql"
    select = "SELECT note FROM orders WHERE id = :id;\n"
    script.write_text(
        "\\set id random(1, 2000)\n"
        + (f"\\startpipeline\n{select}{select}\\endpipeline\n" if mode == "pipeline" else select)
    )
    protocol = "extended" if mode == "pipeline" else mode
    done = program(stage, "pgbench", "-n", "-c", "4", "-t", "50", "-M", protocol, "-f", str(script))
    assert "number of transactions actually processed: 200/200" in done.stdout, done.stderr
