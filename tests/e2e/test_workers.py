import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.config import STORE_URL_FILE
from tests.e2e.stage import GW, Stage, directory, running, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch, directory() as place:
        patch.setenv("GATEWAY_WORKERS", "2")
        if request.param == "postgres":
            server = request.getfixturevalue("postgres_server")
            (place / "store.url").write_text(server.url(server.create_database()) + "\n")
            (place / "store.url").chmod(0o600)
            patch.setenv(STORE_URL_FILE, str(place / "store.url"))
        with running(place) as stage:
            stage.ask("web-1", "shell")
            yield stage


def workers(stage: Stage) -> dict[int, int]:
    """Process ids by number."""
    parent = stage.pids()["gateway"]
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    lines = {int(child): Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0") for child in children}
    started = {pid: line for pid, line in lines.items() if b"--worker" in line}  # not still becoming one
    return {int(line[line.index(b"--worker") + 1]): pid for pid, line in started.items()}


def shell(stage: Stage) -> "subprocess.Popen[str]":
    argv = ["ssh", "-F", str(stage.ssh_config()), "-o", "LogLevel=ERROR", "web-1.gw", "echo in; cat"]
    client = subprocess.Popen(
        argv, env=stage.env("oncall"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "in\n", client.communicate()[1]
    return client


def fill(stage: Stage) -> list["subprocess.Popen[str]"]:
    """Sessions until each worker has one."""
    clients: list[subprocess.Popen[str]] = []
    while len({session["gateway"] for session in stage.live_sessions()}) < 2:
        assert len(clients) < 20, "one worker gets no connections"
        clients.append(shell(stage))
    return clients


def test_a_kill_reaches_the_sessions_of_every_worker(stage: Stage) -> None:
    clients = fill(stage)
    for session in stage.live_sessions():
        stage.gw("oncall", "session", "kill", session["id"], "--reason", "over")
    for client in clients:
        client.wait(10)  # not `communicate`, which ends what it types and so the session
        assert "ended by an operator" in client.communicate()[1]
    wait_for("no session is left", lambda: not stage.live_sessions())


def test_statements_of_every_worker_are_listed_watched_and_cancelled(stage: Stage) -> None:
    stage.ask("orders-db", "read")
    clients = []
    while len({of["gateway"] for of in stage.live_sessions()}) < 2:
        assert len(clients) < 20, "one worker gets no connections"
        before = {of["id"] for of in stage.live_sessions()}
        said = ("-c", "SELECT pg_sleep(100)", "-c", "SELECT 'still here'")
        clients.append(stage.start("oncall", "psql", "orders-db", "--", "-XAt", *said))
        wait_for("the session is listed", lambda known=before: {of["id"] for of in stage.live_sessions()} - known)

    def running() -> dict[str, Any]:
        return {of["id"]: of["running"] for of in stage.json("lead", "sessions", "--all", "--live") if of["running"]}

    wait_for("what runs is listed", lambda: len(running()) == len(clients))
    for session, told in running().items():
        assert (told["n"], told["kind"], told["sql"]) == (1, "read", "SELECT pg_sleep(100)")
        stage.gw("developer", "session", "cancel", session, status=3)
        with stage.start("lead", "session", "watch", session) as watcher:
            assert watcher.stdout is not None
            assert any("[1] SELECT pg_sleep(100)" in line for line in watcher.stdout)
            stage.gw("lead", "session", "cancel", session, "--statement", "9")  # another: nothing happens
            stage.gw("lead", "session", "cancel", session, "--statement", "1", "--reason", "too slow")
            assert any("ERROR 57014" in line for line in watcher.stdout)
            watcher.stdout.read()
            assert watcher.wait(20) == 0
    for client in clients:
        out, err = client.communicate(timeout=20)
        assert "still here" in out
        assert "lead cancels your statement" in err
        assert "canceling statement due to user request" in err
    wait_for("no session is left", lambda: not stage.live_sessions())
    asked = stage.json("auditor", "audit", "search", "--type", "statement:cancel-requested")
    assert {(of["principal"], of["data"]["reason"]) for of in asked} == {("lead", "too slow"), ("lead", "")}
    assert stage.json("auditor", "audit", "search", "--type", "statement:shown")[0]["principal"] == "lead"


def test_a_revocation_ends_the_sessions_of_every_worker(stage: Stage) -> None:
    clients = fill(stage)
    (grant,) = {session["grant"] for session in stage.live_sessions()}
    stage.gw("oncall", "revoke", grant, "--reason", "over")
    for client in clients:
        client.wait(10)
        assert "revoked" in client.communicate()[1]
    wait_for("no session is left", lambda: not stage.live_sessions())
    done = subprocess.run(
        ["ssh", "-F", str(stage.ssh_config()), "-o", "LogLevel=ERROR", "web-1.gw", "true"],
        env=stage.env("oncall"), capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, b"gw request" in done.stderr) == (254, True)
    stage.ask("web-1", "shell")


def test_all_workers_write_one_log(stage: Stage) -> None:
    if (stage.directory / "store.url").exists():
        assert not (stage.directory / "gateway" / "gateway.db").exists()
    stage.gw("auditor", "audit", "verify", "--key", stage.facts["audit_key"])
    events = stage.json("auditor", "audit", "search", "--type", "session:started")
    assert {event["source"].rpartition("-")[2] for event in events} == {"1", "2"}


def test_a_worker_that_is_killed_comes_back_and_ends_what_it_held(stage: Stage) -> None:
    clients = fill(stage)
    before = workers(stage)
    held = {session["gateway"]: session["id"] for session in stage.live_sessions()}
    os.kill(before[2], signal.SIGKILL)
    wait_for("a new worker 2", lambda: workers(stage).get(2) not in (None, before[2]))
    assert workers(stage)[1] == before[1]
    (dead,) = [name for name in held if name.endswith("-2")]
    (alive,) = [name for name in held if name.endswith("-1")]
    wait_for("the dead worker's session is over", lambda: held[dead] not in {s["id"] for s in stage.live_sessions()})
    assert held[alive] in {s["id"] for s in stage.live_sessions()}
    events = stage.json("auditor", "audit", "search", "--session", held[dead], "--type", "session:ended")
    assert "interrupted" in str(events)
    for client in clients:
        client.kill()
        client.communicate()


def test_a_second_gateway_in_the_same_place_is_refused(stage: Stage) -> None:
    done = subprocess.run(
        [*GW, "serve", "--config", str(stage.directory / "gateway.toml"), "--workers", "2"],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert "another gateway runs" in done.stderr


def test_sigterm_stops_all(stage: Stage) -> None:
    pids = workers(stage).values()
    os.kill(stage.process.pid, signal.SIGTERM)
    stage.process.wait(60)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
