"""Speed beside the alternatives, in one run: `make bench`, or `make bench BENCH=--quick`.

Authorisation, recording and audit are on, as always. Prints Markdown; nothing here passes or fails.
"""

import argparse
import dataclasses
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from gateway.demo.processes import Processes
from gateway.demo.programs import MissingProgramError, need, say
from tests.bench import deploy, pipelines, postgres, postgres_sessions, report, servers, ssh, ssh_scale


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds, less data")
    parser.add_argument(
        "--only", choices=("ssh", "postgres", "scale", "held", "deploy", "exchange"), help="one part only"
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=(*ssh.PARTS, *postgres.PARTS, "sessions", "memory", "revocation"),
        help="of one part only these; with --only ssh or --only postgres",
    )
    parser.add_argument(
        "--held", type=int, help="terminals of --only scale (1000), database sessions of --only held (2000)"
    )
    options = parser.parse_args()
    try:
        need(("pgbench", "pgbouncer"))
    except MissingProgramError as missing:
        say(f"{missing} What needs it is left out.")
    directory = Path(tempfile.mkdtemp(prefix="gw-bench-"))
    directory.chmod(0o755)  # the servers' own users read from here
    processes = Processes()
    try:
        if options.only == "exchange":
            print(f"{report.header()}\n", flush=True)
        if options.only in (None, "exchange"):
            _bench_exchange(processes, directory, quick=options.quick)
        if options.only == "exchange":
            return
        with servers.running_stage(directory / "stage") as stage:
            print(f"{report.header()}\n", flush=True)
            _raise_connection_limit(directory / "stage")
            if options.only in (None, "ssh"):
                _bench_ssh(stage, processes, directory, options.rows, quick=options.quick)
            if options.only in (None, "deploy"):
                _bench_deploy(stage, processes, directory, quick=options.quick)
            if options.only == "scale":
                _bench_scale(stage, processes, directory, options.held or 1000)
            if options.only == "held":
                say("PostgreSQL, many sessions …")
                rows = postgres_sessions.held(stage, options.held or 2000)
                print(report.table("PostgreSQL, many sessions", rows, ["gateway"]), flush=True)
            if options.only in (None, "postgres"):
                _bench_postgres(stage, processes, directory, options.rows, quick=options.quick)
    finally:
        processes.stop_all()
        shutil.rmtree(directory, ignore_errors=True)


def _ask(stage: servers.Stage, target: str, level: str) -> None:
    stage.gw(
        "oncall", "request", target, "--level", level, "--incident", "INC-1042", "--reason", "bench", "--for", "1h"
    )


def _bench_exchange(processes: Processes, directory: Path, *, quick: bool) -> None:
    work = directory / "exchange"
    work.mkdir()
    workers = int(os.environ.get("GATEWAY_WORKERS", "1"))
    rows = pipelines.measure(processes, work, workers, quick=quick)
    print(report.table(f"Pipelines ({workers} worker(s))", rows, ["gateway"]), flush=True)


def _bench_ssh(
    stage: servers.Stage, processes: Processes, directory: Path, rows: list[str] | None, *, quick: bool
) -> None:
    payload = directory / "payload"
    with payload.open("wb") as file:
        for _ in range(64 if quick else 512):
            file.write(os.urandom(1 << 20))
    payload.chmod(0o644)
    _ask(stage, "web-1", "shell")
    work = directory / "ssh"
    work.mkdir()
    paths = servers.ssh_paths(stage, processes, work)
    say("SSH …")
    parts = ssh.PARTS if rows is None else rows
    if measured := list(ssh.measure(paths, payload, parts, quick=quick)):
        title = "SSH (aes128-gcm and curve25519 on every path)"
        print(report.table(title, measured, list(paths.hosts), beside="ssh -J"), flush=True)
    own = dataclasses.replace(paths, config=paths.unforced)
    if measured := list(ssh.measure(own, payload, [part for part in parts if part in ssh.BULK], quick=quick)):
        title = "SSH, each path with the cipher that its ends choose by themselves"
        print(report.table(title, measured, list(paths.hosts), beside="ssh -J"), flush=True)
    if rows is not None and "memory" not in rows:
        return
    say("SSH, memory …")
    memory = ssh.memory(paths, (10, 20) if quick else (50, 200))
    print(report.table("SSH, memory of the gateway", memory, ["gateway"]), flush=True)


def _bench_deploy(stage: servers.Stage, processes: Processes, directory: Path, *, quick: bool) -> None:
    work = directory / "deploy"
    work.mkdir()
    say("Deploys …")
    rows = deploy.measure(stage, servers.ssh_paths(stage, processes, work), quick=quick)
    print(report.table("A deploy verb (`echo`) on one server", rows, deploy.PATHS), flush=True)


def _bench_scale(stage: servers.Stage, processes: Processes, directory: Path, held: int) -> None:
    """A part of its own: it takes minutes to open that many terminals."""
    work = directory / "scale"
    work.mkdir()
    workers = os.environ.get("GATEWAY_WORKERS", "1")
    rows = ssh_scale.measure(stage, servers.ssh_paths(stage, processes, work), held)
    print(report.table(f"SSH, many terminals ({workers} worker(s))", rows, ["gateway"]), flush=True)


def _bench_postgres(
    stage: servers.Stage, processes: Processes, directory: Path, chosen: list[str] | None, *, quick: bool
) -> None:
    _ask(stage, "orders-db", "read")
    work = directory / "postgres"
    (work / "log").mkdir(parents=True)
    work.chmod(0o755)
    scale = 5 if quick else 110  # COPY of 48 or 1,070 MB
    parts = (*postgres.PARTS, "sessions", "memory", "revocation") if chosen is None else chosen
    say("PostgreSQL …")
    postgres.prepare(stage, scale)
    paths = servers.postgres_paths(stage, processes, work)
    names = ["direct", "PgBouncer", "PgBouncer, TLS", "gateway, TLS", servers.REQUIRE]
    if rows := postgres.measure(paths, stage, work, parts, quick=quick):
        print(report.table("PostgreSQL", rows, names, beside="PgBouncer, TLS"), flush=True)
    if "sessions" in parts:
        say("PostgreSQL, sessions …")
        rows = postgres_sessions.measure(paths, stage, quick=quick)
        print(report.table("PostgreSQL, sessions", rows, names), flush=True)
    if "memory" in parts:
        say("PostgreSQL, memory …")
        rows = postgres.memory(paths, (10, 20) if quick else (50, 200))
        print(report.table("PostgreSQL, memory of the gateway", rows, ["gateway"]), flush=True)
    if "revocation" in parts:
        say("PostgreSQL, revocation …")
        rows = postgres_sessions.revocation(stage, (50,) if quick else (50, 500))
        print(report.table("PostgreSQL, revocation", rows, ["gateway"]), flush=True)


def _raise_connection_limit(stage: Path) -> None:
    """500 sessions of one person are not what the catalogue allows; the gateway reads it anew every two seconds."""
    catalogue = stage / "catalogue.yaml"
    catalogue.write_text(re.sub(r"connection_limit: \d+", "connection_limit: 600", catalogue.read_text()))
    time.sleep(3)


if __name__ == "__main__":
    main()
