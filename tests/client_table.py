"""The table client by feature, made of the tests that ran: `pytest --client-table`, as `make conformance` does.

A test that shows a client at work says so: `@pytest.mark.client("PuTTY plink", "command")`.
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
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--client-table", action="store_true", help="print which SSH client was seen to do what")


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.user_properties += [("client", mark.args) for mark in item.iter_markers("client")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not terminalreporter.config.getoption("--client-table"):
        return
    seen: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for _name, (client, *features) in (each for each in report.user_properties if each[0] == "client"):
                for feature in features:
                    seen[client][feature].append(outcome == "passed")
    terminalreporter.write_line("")
    for line in _table(seen):
        terminalreporter.write_line(line)


def _table(seen: dict[str, dict[str, list[bool]]]) -> list[str]:
    lines = [f"| client | {' | '.join(FEATURES.values())} |", "|---" * (1 + len(FEATURES)) + "|"]
    for client, features in seen.items():
        unknown = features.keys() - FEATURES.keys()
        assert not unknown, f"{client}: {unknown}"
        cells = (_cell(features[feature]) if feature in features else "" for feature in FEATURES)
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
