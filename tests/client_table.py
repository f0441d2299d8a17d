"""The tables client by feature, made of the tests that ran: `pytest --client-table`, as `make conformance` does.

A test that shows a client at work says so: `@pytest.mark.client("PuTTY plink", "command")` for one at the SSH door,
`@pytest.mark.driver("asyncpg", "copy")` for one at the database door.
"""

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

FEATURES = {
    "command": "command, streams, status",
    "terminal": "terminal",
    "files": "files",
    "many": "many at once",
    "forwards": "forwards",
    "certificate": "with a certificate",
    "ticket": "with a ticket",
}
DRIVER_FEATURES = {
    "connect": "TLS, ticket",
    "scram": "SCRAM",
    "simple": "simple",
    "extended": "extended",
    "named": "named statements",
    "portal": "fetch in parts",
    "pipeline": "pipeline",
    "copy": "COPY both ways",
    "cancel": "cancel",
    "notify": "LISTEN",
    "notice": "notices",
    "large": "large objects",
    "function": "function call",
    "transaction": "transactions",
    "error": "SQLSTATE",
    "binary": "binary formats",
    "levels": "masked, dry-run",
}
TABLES = {"client": FEATURES, "driver": DRIVER_FEATURES}
_BIN = os.environ.get("CONFORMANCE_BIN", "")
_VERSIONS = {
    "OpenSSH": ["ssh", "-V"],
    "rsync": ["rsync", "--version"],
    "git": ["git", "--version"],
    "PuTTY": ["plink", "-V"],
    "dropbear": ["dbclient", "-V"],
    "paramiko": [sys.executable, "-c", "import paramiko; print(paramiko.__version__)"],
    "asyncssh": [str(Path(_BIN) / "python"), "-c", "import asyncssh; print(asyncssh.__version__)"],
    "Ansible": [str(Path(_BIN) / "ansible"), "--version"],
    "SQLAlchemy": [str(Path(_BIN) / "python"), "-c", "import sqlalchemy; print(sqlalchemy.__version__)"],
    "asyncpg": [str(Path(_BIN) / "python"), "-c", "import asyncpg; print(asyncpg.__version__)"],
    "pg8000": [str(Path(_BIN) / "python"), "-c", "from importlib.metadata import version; print(version('pg8000'))"],
    "psycopg": [sys.executable, "-c", "import psycopg; print(psycopg.__version__)"],
    "psql": ["psql", "--version"],
    "pg_dump": ["pg_dump", "--version"],
    "pgbench": ["pgbench", "--version"],
    "node-postgres": ["cat", str(Path(__file__).parent / "conformance/drivers/node_modules/pg/package.json")],
    "pgjdbc": ["dpkg-query", "--show", "libpostgresql-jdbc-java"],
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--client-table", action="store_true", help="print which client was seen to do what")


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.user_properties += [(table, mark.args) for table in TABLES for mark in item.iter_markers(table)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not terminalreporter.config.getoption("--client-table"):
        return
    for table, features in TABLES.items():
        seen = _seen(terminalreporter, table)
        if seen:
            terminalreporter.write_line("")
            for line in _table(seen, features):
                terminalreporter.write_line(line)


def _seen(terminalreporter: pytest.TerminalReporter, table: str) -> dict[str, dict[str, list[bool]]]:
    """For each client and feature, whether each of its tests passed."""
    seen: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for _name, (client, *features) in (each for each in report.user_properties if each[0] == table):
                for feature in features:
                    seen[client][feature].append(outcome == "passed")
    return seen


def _table(seen: dict[str, dict[str, list[bool]]], names: dict[str, str]) -> list[str]:
    lines = [f"| client | {' | '.join(names.values())} |", "|---" * (1 + len(names)) + "|"]
    for client, features in seen.items():
        unknown = features.keys() - names.keys()
        assert not unknown, f"{client}: {unknown}"
        cells = (_cell(features[feature]) if feature in features else "" for feature in names)
        lines.append(f"| {client} {_version(client)} | {' | '.join(cells)} |")
    return lines


def _cell(outcomes: list[bool]) -> str:
    tests = f"{len(outcomes)} test{'s' if len(outcomes) > 1 else ''}"
    return f"yes ({tests})" if all(outcomes) else f"NO ({outcomes.count(False)} of {tests} failed)"


def _version(client: str) -> str:
    argv = next((argv for name, argv in _VERSIONS.items() if name in client), None)
    if argv is None:
        return ""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "(version unknown)"
    found = re.search(r"\d+\.\d+[\w.]*", done.stdout + done.stderr)
    return found[0] if found else ""
