import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

GW = [sys.executable, "-m", "gateway"]
WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A running `gw demo`, used as a person would: by the command line, with an account's environment."""

    directory: Path
    process: subprocess.Popen[str]
    facts: dict[str, Any]

    def env(self, account: str) -> dict[str, str]:
        return {**os.environ, **self.facts["accounts"][account]["env"]}

    def gw(
        self, account: str, *words: str, status: int | None = 0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*GW, *words], env=self.env(account), input=stdin, capture_output=True, text=True, timeout=60
        )
        assert status is None or done.returncode == status, (
            f"gw {' '.join(words)} as {account}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def json(self, account: str, *words: str, status: int | None = 0) -> Any:
        return json.loads(self.gw(account, *words, "--json", status=status).stdout)

    def start(self, account: str, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*GW, *words], env=self.env(account), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def ask(
        self, target: str, level: str, *, duration: str = "1h", account: str = "oncall", status: int | None = 0
    ) -> Any:
        return self.json(
            account, "request", target, "--level", level, "--incident", "INC-1042",
            "--reason", "p99 of search 8 s", "--for", duration, status=status,
        )  # fmt: skip

    def step_up(self, account: str = "oncall") -> None:
        """As a person does: `gw step-up` waits while their passkey answers."""
        waiting = self.start(account, "step-up", "--no-browser")
        assert waiting.stderr is not None
        code = next(word for line in waiting.stderr for word in line.split() if len(word) == 9 and word[4] == "-")
        touched = subprocess.run(
            [*GW, "demo", "--dir", str(self.directory), "touch", code, "--as", account],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert touched.returncode == 0, touched.stderr
        out, err = waiting.communicate(timeout=60)
        assert waiting.returncode == 0, out + err

    def revoke_all(self, account: str = "oncall") -> None:
        for grant in self.json(account, "grants"):
            if grant["state"] == "active":
                self.gw(account, "revoke", grant["id"], "--reason", "done")

    def live_sessions(self, account: str = "oncall") -> list[Any]:
        return [s for s in self.json(account, "sessions") if s["live"]]

    def pids(self) -> dict[str, int]:
        pids: dict[str, int] = json.loads((self.directory / "stage.json").read_text())["pids"]
        return pids

    def superuser(self, database: str = "orders") -> "psycopg.Connection[Any]":
        dsn = (self.directory / "secrets" / "postgres.dsn").read_text().strip()
        return psycopg.connect(dsn, dbname=database, autocommit=True, connect_timeout=10)

    def ephemeral_roles(self) -> list[str]:
        """Login roles that the demo did not make."""
        with self.superuser("postgres") as connection:
            found = connection.execute(
                "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname NOT IN ('postgres', 'access_broker')"
            ).fetchall()
        return [row[0] for row in found]

    def ssh_config(self, account: str = "oncall") -> Path:
        path = self.directory / f"ssh_config.{account}"
        path.write_text(self.gw(account, "ssh-config").stdout)
        return path


@contextmanager
def running(directory: Path) -> Iterator[Stage]:
    with (directory / "demo.log").open("a") as log:
        process = subprocess.Popen(
            [*GW, "demo", "--json", "--dir", str(directory)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (directory / "demo.log").read_text() + _tails(directory)
        yield Stage(directory, process, json.loads(line))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def directory() -> Iterator[Path]:
    """A place that the servers' own system users can reach too."""
    path = Path(tempfile.mkdtemp(prefix="gw-e2e-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _tails(path: Path) -> str:
    return "".join(f"\n--- {log.name}\n{log.read_text()[-2000:]}" for log in sorted(path.glob("log/*")))


def wait_for(what: str, is_so: Callable[[], object], within_s: float = WITHIN_S) -> None:
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.1)
