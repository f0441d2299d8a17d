"""The identity provider stops answering: who is signed in goes on, and a passkey opens the glass and nothing else."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.stage import GW, Stage, directory, running, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]
PROBE_GOOD_FOR_S = 1.1  # what the gateway found out about the provider counts for a second (oidc_probe.py)
WHY = ("--incident", "INC-1042", "--reason", "the provider is down, too")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with directory() as path, running(path) as up:
        yield up


def touch(stage: Stage, waiting: "subprocess.Popen[str]") -> subprocess.CompletedProcess[str]:
    """Answer with oncall's passkey for the code that a terminal shows."""
    assert waiting.stderr is not None
    code = next(word for line in waiting.stderr for word in line.split() if len(word) == 9 and word[4] == "-")
    return subprocess.run(
        [*GW, "demo", "--dir", str(stage.directory), "touch", code, "--as", "oncall"],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip


def terminal(home: Path, stage: Stage) -> dict[str, str]:
    """Another terminal of the same person, where nobody is signed in."""
    env = {name: value for name, value in stage.env("oncall").items() if name != "GW_TOKEN"}
    return env | {"GW_HOME": str(home)}


def gw(env: dict[str, str], *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*GW, *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, f"gw {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@contextmanager
def login(env: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [*GW, "login", "--passkey", "--no-browser"], env=env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as waiting:  # fmt: skip
        try:
            yield waiting
        finally:
            waiting.kill()


def test_the_whole_of_an_outage(stage: Stage, tmp_path: Path) -> None:
    env = terminal(tmp_path / "home", stage)
    stage.ask("orders-db", "read")
    with login(env) as waiting:
        refused = touch(stage, waiting)  # the provider answers, so nobody comes in this way
    assert refused.returncode != 0
    assert "identity provider answers" in refused.stderr
    time.sleep(PROBE_GOOD_FOR_S)

    provider = stage.pids()["identity provider"]
    os.kill(provider, signal.SIGSTOP)
    try:
        # Whoever is signed in keeps grants and gets new ones.
        count = stage.gw("oncall", "psql", "orders-db", "--", "-XAtc", "SELECT count(*) FROM orders").stdout.strip()
        assert count == "240000"
        stage.ask("web-1", "shell")

        # Somebody who is not signed in comes in by passkey, to break the glass.
        with login(env) as waiting:
            touched = touch(stage, waiting)
            assert touched.returncode == 0, touched.stderr
            out, err = waiting.communicate(timeout=60)
            assert waiting.returncode == 0, err
        assert "break-glass and nothing else" in out
        pager = stage.directory / "log" / "pager.log"
        wait_for("everybody hears of it", lambda: "came in by passkey" in pager.read_text())

        assert "good for gw break-glass only" in gw(env, "whoami").stdout
        for words in (("grants",), ("request", "orders-db", "--level", "read", *WHY), ("ssh-cert",), ("targets",)):
            assert "gw break-glass" in gw(env, *words, status=3).stderr, words
        assert "no active grant" in gw(env, "psql", "orders-db", "--", "-c", "SELECT 1", status=3).stderr

        told = gw(env, "break-glass", "orders-db", "--level", "admin", *WHY)
        assert "must review" in told.stdout
        assert "proved by passkey" in told.stdout
        who = gw(env, "psql", "orders-db", "--", "-XAtc", "SELECT current_user")
        assert who.stdout.strip() == "orders_admin"
        gw(env, "break-glass", "web-1", "--level", "shell", *WHY)
        assert gw(env, "ssh", "web-1", "--", "echo through; exit 0").stdout.strip() == "through"
        assert [r["holder"] for r in stage.json("lead", "review")] == ["oncall", "oncall"]
        assert gw(env, "logout").returncode == 0
    finally:
        os.kill(provider, signal.SIGCONT)
