"""What is compared: the demo's stage with the gateway, and beside it a plain sshd, a jump host and PgBouncer."""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg
from psycopg import sql

from gateway.demo import owners, sshd
from gateway.demo.ports import free_port
from gateway.demo.processes import Processes, listens
from gateway.demo.programs import find

GW = [sys.executable, "-m", "gateway"]
READY_S = 180
REQUIRE = "gateway, TLS, `require`"  # no statement goes on before its attempt is on disk


@dataclass(frozen=True, slots=True)
class Stage:
    """A running demo stage, seen from outside."""

    directory: Path
    facts: dict[str, object]
    pids: dict[str, int]

    def env(self, account: str) -> dict[str, str]:
        accounts = self.facts["accounts"]
        assert isinstance(accounts, dict)
        return {**os.environ, **accounts[account]["env"]}

    def gw(self, account: str, *words: str) -> dict[str, object]:
        done = subprocess.run(
            [*GW, *words, "--json"], env=self.env(account), capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"gw {' '.join(words)}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def superuser_dsn(self, database: str) -> str:
        dsn = (self.directory / "secrets" / "postgres.dsn").read_text().strip()
        return dsn.replace("/postgres?", f"/{database}?")


@contextmanager
def running_stage(directory: Path) -> Iterator[Stage]:
    process = subprocess.Popen(
        [*GW, "demo", "--json", "--dir", str(directory)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the stage did not come up; logs are in {directory / 'log'}")
        stage = json.loads((directory / "stage.json").read_text())
        yield Stage(directory, json.loads(line), stage["pids"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


# ---------------------------------------------------------------- SSH: direct, jump, gateway


FORCED = "Ciphers aes128-gcm@openssh.com\nKexAlgorithms curve25519-sha256\n"


@dataclass(frozen=True, slots=True)
class SshPaths:
    """Host aliases of one OpenSSH config file, by path; `pids` of what stands in the middle.

    `config` has one cipher and one key exchange for all, so that a table compares paths and not algorithms; with
    `unforced` each path takes what its two ends choose by themselves, as people have it.
    """

    config: Path
    unforced: Path
    hosts: dict[str, str]
    pids: dict[str, int]


def ssh_paths(stage: Stage, processes: Processes, work: Path) -> SshPaths:
    """Two more sshds (a target and a jump host) with a CA of their own, and the gateway's own config."""
    user = owners.shell_account()
    ca, identity = work / "bench_ca", work / "bench_id"
    for key in (ca, identity):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-s", ca, "-I", "bench", "-n", user, "-V", "+1d", f"{identity}.pub"], check=True
    )
    (work / "log").mkdir(exist_ok=True)
    target = sshd.start(processes, work, free_port(), ca.with_suffix(".pub"), (user,), "sshd-target")
    jump = sshd.start(processes, work, free_port(), ca.with_suffix(".pub"), (user,), "sshd-jump")
    known = work / "known_hosts"
    known.write_text("".join(f"[127.0.0.1]:{s.port} {s.host_key}\n" for s in (target, jump)))
    common = f"HostName 127.0.0.1\n  User {user}\n  IdentityFile {identity}\n  UserKnownHostsFile {known}\n"
    gateway_config = subprocess.run(
        [*GW, "ssh-config"], env=stage.env("oncall"), capture_output=True, text=True, check=True, timeout=60
    ).stdout
    # The line that renews the certificate starts a Python for each connection; here the connection is measured.
    gateway_config = re.sub(r"^Match .*$", "", gateway_config, flags=re.MULTILINE)
    hosts = (
        "IdentitiesOnly yes\nIdentityAgent none\nLogLevel ERROR\n"
        f"Host direct\n  Port {target.port}\n  {common}"
        f"Host hop\n  Port {jump.port}\n  {common}"
        # ProxyJump starts an ssh of its own, which reads the same file only when told to.
        f"Host jumped\n  Port {target.port}\n  ProxyCommand ssh -F {{config}} -W %h:%p hop\n  {common}\n"
    )
    config, unforced = work / "ssh_config", work / "ssh_config_unforced"
    for path, forced in ((config, FORCED), (unforced, "")):
        path.write_text(forced + hosts.replace("{config}", str(path)) + gateway_config)
    return SshPaths(
        config,
        unforced,
        {"direct": "direct", "ssh -J": "jumped", "gateway": "web-1.gw"},
        {"ssh -J": processes.pids()["sshd-jump"], "gateway": stage.pids["gateway"]},
    )


# ---------------------------------------------------------------- PostgreSQL: direct, PgBouncer, gateway


@dataclass(frozen=True, slots=True)
class PostgresPaths:
    """libpq environments by path; `notes` says why one is missing."""

    environments: dict[str, dict[str, str]]
    pids: dict[str, int]
    notes: dict[str, str]


def postgres_paths(stage: Stage, processes: Processes, work: Path) -> PostgresPaths:
    password = secrets.token_urlsafe(16)
    dsn = stage.superuser_dsn("orders")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP ROLE IF EXISTS bench"))
        connection.execute(
            sql.SQL("CREATE ROLE bench LOGIN PASSWORD {} IN ROLE orders_read").format(sql.Literal(password))
        )
    target = urlsplit(dsn)
    direct = {"PGHOST": "127.0.0.1", "PGPORT": str(target.port), "PGDATABASE": "orders", "PGUSER": "bench"}
    direct |= {"PGPASSWORD": password, "PGSSLMODE": "disable"}
    environments, pids, notes = {"direct": direct}, {}, {}
    if find("pgbouncer"):
        port, pid, ca = _pgbouncer(processes, stage, work, int(target.port or 0), password)
        environments["PgBouncer"] = direct | {"PGPORT": str(port)}
        environments["PgBouncer, TLS"] = direct | {
            "PGPORT": str(port),
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": str(ca),
            "PGHOST": "localhost",
        }
        pids |= {"PgBouncer": pid, "PgBouncer, TLS": pid}
    else:
        notes |= dict.fromkeys(("PgBouncer", "PgBouncer, TLS"), "apt-get install pgbouncer")
    stage.gw("oncall", "break-glass", "orders-db", "--level", "write", "--incident", "INC-1042", "--reason", "bench")
    for name, level in (("gateway, TLS", "read"), (REQUIRE, "write")):
        url = stage.gw("oncall", "connect", "orders-db", "--level", level)["url"]
        environments[name], pids[name] = libpq_environment(str(url)), stage.pids["gateway"]
    return PostgresPaths(environments, pids, notes)


def libpq_environment(url: str) -> dict[str, str]:
    """A connection URL as environment variables: a password in argv is everybody's."""
    parts = urlsplit(url)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    environment = {
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": unquote(parts.password or ""),
        "PGDATABASE": unquote(parts.path.lstrip("/")),
        "PGSSLMODE": query.get("sslmode", "verify-full"),
    }
    return environment | ({"PGSSLROOTCERT": query["sslrootcert"]} if "sslrootcert" in query else {})


def _pgbouncer(processes: Processes, stage: Stage, work: Path, target: int, password: str) -> tuple[int, int, Path]:
    """PgBouncer in session mode with a certificate that any door of this kind would have."""
    owner = owners.database_owner()
    home = Path(shutil.copytree(stage.directory / "gateway" / "tls", work / "pgbouncer"))
    port = free_port()
    (home / "users.txt").write_text(f'"bench" "{password}"\n')
    (home / "pgbouncer.ini").write_text(
        "[databases]\n"
        f"orders = host=127.0.0.1 port={target} dbname=orders\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {home}/users.txt\n"
        "pool_mode = session\nmax_client_conn = 500\ndefault_pool_size = 300\nlog_connections = 0\nlog_disconnections = 0\n"
        f"client_tls_sslmode = allow\nclient_tls_cert_file = {home}/door.pem\nclient_tls_key_file = {home}/door.key\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    if owner is not None:
        for path in (home, *home.iterdir()):
            os.chown(path, owner.uid, owner.gid)
    program = find("pgbouncer")
    assert program is not None
    pid = processes.start(
        "pgbouncer", [program, str(home / "pgbouncer.ini")], log=work / "log" / "pgbouncer.log", owner=owner
    )
    processes.await_ready("pgbouncer", lambda: listens("127.0.0.1", port), 15)
    return port, pid, stage.directory / "gateway" / "tls" / "ca.pem"
