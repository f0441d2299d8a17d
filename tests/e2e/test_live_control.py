"""Watching, locking, extending and timing out sessions that run, with the command line that people use."""

import json
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

from tests.e2e.stage import Stage, directory, running, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with directory() as path, running(path) as up:
        yield up


@pytest.fixture(autouse=True)
def _nothing_granted(stage: Stage) -> Iterator[None]:
    yield
    stage.revoke_all("oncall")
    wait_for("no session is left", lambda: not stage.live_sessions())


class Shell:
    """A person at a terminal on web-1."""

    def __init__(self, stage: Stage) -> None:
        self._master, slave = pty.openpty()
        self.heard = ""  # what was expected already, and what came before it
        self.said = ""
        config = stage.ssh_config()
        self.process = subprocess.Popen(
            ["ssh", "-F", str(config), "-tt", "web-1.gw"], stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, env=stage.env("oncall"),
        )  # fmt: skip
        os.close(slave)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, pattern: str, seconds: float = 20.0) -> None:
        give_up_at = time.monotonic() + seconds
        while (found := re.search(pattern, self.said)) is None:
            left = give_up_at - time.monotonic()
            assert left > 0, f"never saw {pattern!r} in {self.said!r}"
            if select.select([self._master], [], [], left)[0]:
                try:
                    self.said += os.read(self._master, 65536).decode(errors="replace")
                except OSError:
                    pytest.fail(f"the client ended without {pattern!r}: {self.said!r}")
        self.heard += self.said[: found.end()]
        self.said = self.said[found.end() :]

    def close(self) -> None:
        self.process.wait(20)
        os.close(self._master)


def shell(stage: Stage, duration: str = "1h") -> tuple[Shell, str, str]:
    """(the terminal, session id, grant id)"""
    grant = stage.ask("web-1", "shell", duration=duration)["grant"]["id"]
    opened = Shell(stage)
    opened.type("PS1=; echo re''ady\n")
    opened.expect("ready")
    (session,) = stage.live_sessions()
    return opened, session["id"], grant


def test_watching_shows_a_terminal_as_it_happens_and_who_looked(stage: Stage) -> None:
    terminal, session, _ = shell(stage)
    with stage.start("lead", "session", "watch", session, "--json") as watcher:
        assert watcher.stdout is not None
        terminal.type("echo see''n-live\n")
        terminal.expect("seen-live")
        kinds, octets = set(), ""
        for line in watcher.stdout:
            frame = json.loads(line)
            kinds.add(frame["kind"])
            octets += frame["payload"] if frame["kind"] == "out" else ""
            if "seen-live" in octets:
                break
        assert {"channel", "typed", "out"} <= kinds
        terminal.type("exit\n")
        terminal.close()
        watcher.stdout.read()
        assert watcher.wait(20) == 0
    looked = stage.json("auditor", "audit", "search", "--type", "session:watched", "--session", session)
    assert [event["principal"] for event in looked] == ["lead"]


def test_the_list_says_when_something_last_happened(stage: Stage) -> None:
    terminal, session, _ = shell(stage)
    before = datetime.fromisoformat(stage.json("oncall", "session", "show", session)["active_at"])
    terminal.type("echo ag''ain\n")
    terminal.expect("again")

    def moved() -> bool:
        return datetime.fromisoformat(stage.json("oncall", "session", "show", session)["active_at"]) > before

    wait_for("the activity is listed", moved)
    terminal.type("exit\n")
    terminal.close()


def test_locking_and_unlocking_is_seen_at_the_terminal_and_in_the_log(stage: Stage, tmp_path: Path) -> None:
    terminal, session, _ = shell(stage)
    stage.gw("developer", "session", "lock", session, status=3)
    assert stage.json("lead", "session", "lock", session, "--reason", "looks odd")["locked_by"] == "lead"
    terminal.expect("lead has locked this session")
    terminal.type("echo lo''st\n")
    stage.gw("oncall", "session", "unlock", session, status=3)  # not by the one who is locked
    stage.gw("lead", "session", "lock", session, status=5)
    assert "locked by lead" in stage.gw("oncall", "session", "show", session).stdout
    stage.gw("auditor", "session", "unlock", session)
    terminal.expect("is unlocked; you can type again")
    terminal.type("echo fou''nd\n")
    terminal.expect("found")
    assert "lost" not in terminal.said
    terminal.type("exit\n")
    terminal.close()
    events = stage.json("auditor", "audit", "search", "--session", session)
    types = [event["type"] for event in events]
    assert {"session:locked", "session:unlock-denied", "session:unlocked", "session:ended"} <= set(types)


def test_a_session_goes_on_under_an_extended_grant(stage: Stage) -> None:
    terminal, session, grant = shell(stage, "2m")
    terminal.type("echo soo''n\n")
    terminal.expect("soon")
    assert re.search(r"this session ends in 2 min, with its grant. gw extend grt_", terminal.heard)
    longer = stage.json("oncall", "extend", grant, "--for", "1h")
    terminal.expect(r"your grant was extended; this session now ends at \d\d:\d\d UTC")
    told = stage.json("oncall", "session", "show", session)
    assert datetime.fromisoformat(told["deadline"]) == datetime.fromisoformat(longer["not_after"])
    stage.gw("lead", "extend", grant, status=4)
    stage.gw("oncall", "extend", grant, "--for", "10m", status=3)  # not longer
    terminal.type("exit\n")
    terminal.close()


def test_an_idle_session_is_warned_and_ended_where_its_level_says_so(stage: Stage) -> None:
    catalogue = stage.directory / "catalogue.yaml"
    before = catalogue.read_text()
    terminal, session, _ = shell(stage)
    try:
        catalogue.write_text(with_idle_timeout(before, "6s"))
        wait_for("it is read", lambda: catalogue_events(stage))
        assert catalogue_events(stage) == ["catalogue:loaded"]
        terminal.type("echo rest''ing\n")
        terminal.expect("resting")
        terminal.expect(r"nothing was typed for a while; this session ends in \d s")
        terminal.expect(r"Nothing happened for too long, so this session was closed. \(idle for 6 s\)")
        terminal.close()
    finally:
        catalogue.write_text(before)
    wait_for("it is over", lambda: not stage.live_sessions())
    assert stage.json("oncall", "session", "show", session)["end_reason"] == "idle-timeout"
    (ended,) = stage.json("auditor", "audit", "search", "--type", "session:ended", "--session", session)
    assert ended["data"]["reason"] == "idle-timeout"


def catalogue_events(stage: Stage) -> list[str]:
    found = stage.json("auditor", "audit", "search", "--text", "catalogue")
    return [event["type"] for event in found if event["type"].startswith("catalogue:")]


def with_idle_timeout(catalogue: str, limit: str) -> str:
    """The level `shell` of web-1 with a limit; the rest as it is."""
    lines = []
    for line in catalogue.splitlines():
        lines.append(line)
        if re.fullmatch(r"\s+shell:", line):
            lines.append(f"{' ' * (len(line) - len(line.lstrip()) + 2)}idle_timeout: {limit}")
    return "\n".join(lines) + "\n"


def test_a_database_session_and_its_role_outlive_the_first_deadline(stage: Stage) -> None:
    grant = stage.ask("orders-db", "read", duration="10s")["grant"]
    url = stage.json("oncall", "connect", "orders-db")["url"]
    with psycopg.connect(url, autocommit=True) as session:
        role = session.execute("SELECT session_user").fetchone()
        longer = stage.json("oncall", "extend", grant["id"], "--for", "30m")
        first_end = datetime.fromisoformat(grant["not_after"])
        wait_for("the first deadline is past", lambda: datetime.now(first_end.tzinfo) > first_end)
        wait_for("twice", lambda: (datetime.now(first_end.tzinfo) - first_end).total_seconds() > 1.5)
        assert session.execute("SELECT session_user").fetchone() == role
        again = stage.json("oncall", "connect", "orders-db")["url"]
        with psycopg.connect(again) as another:
            assert another.execute("SELECT session_user").fetchone() == role
    assert role is not None
    with stage.superuser("postgres") as admin:
        found = admin.execute("SELECT rolvaliduntil FROM pg_roles WHERE rolname = %s", role).fetchone()
    assert found == (datetime.fromisoformat(longer["not_after"]),)
