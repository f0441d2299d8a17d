"""What was said in a session goes on purpose, with real psql and a real restart; and an index comes back."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stage import Stage, directory, running, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]
WHY = "the person asked for it"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with directory() as path, running(path) as up:
        yield up


def said(stage: Stage, sql: str) -> str:
    """The session in which it was said, once that is over and indexed."""
    stage.gw("oncall", "psql", "orders-db", "--", "-XAtc", sql)
    wait_for("the session is over", lambda: not stage.live_sessions())
    wait_for("it is indexed", lambda: found(stage, sql))
    return str(found(stage, sql)[0]["session"])


def found(stage: Stage, sql: str) -> Any:
    return stage.json("auditor", "statements", sql)["statements"]


def restarted_after(stage: Stage, action: Any) -> None:
    killed = stage.pids()["gateway"]
    os.kill(killed, signal.SIGKILL)
    action()
    wait_for("the gateway is back", lambda: stage.pids()["gateway"] != killed, 60)


def test_a_recording_is_shredded_and_an_index_made_anew_knows_nothing_of_it(stage: Stage, tmp_path: Path) -> None:
    stage.ask("orders-db", "read")
    gone, stays = said(stage, "SELECT 'zqj'"), said(stage, "SELECT 'stays'")
    stage.gw("auditor", "session", "shred", gone, "--reason", WHY, status=3)

    policy = stage.directory / "policies" / "shredding.cedar"
    policy.write_text(policy.read_text().replace('Role::"security"', 'Role::"lead"'))
    wait_for("the policy is in force", lambda: "policy:loaded" in stage.gw("auditor", "audit", "search").stdout)
    stage.gw("lead", "session", "shred", gone, "--reason", WHY, status=6)
    stage.step_up("lead")
    order = stage.json("lead", "session", "shred", gone, "--reason", WHY)["order"]

    assert found(stage, "zqj") == []
    told = stage.gw("auditor", "session", "replay", gone, status=5).stderr
    place = stage.json("auditor", "audit", "show", order)["index"]
    assert f"event {place}: {WHY}." in told
    index = next(stage.directory.rglob("statements.sqlite"))
    lies = b"".join(path.read_bytes() for path in index.parent.rglob("*") if path.is_file())
    assert b"zqj" not in lies
    assert b"stays" in lies

    restarted_after(stage, lambda: [file.unlink() for file in index.parent.glob("statements.sqlite*")])
    wait_for("the index is whole", lambda: not stage.json("auditor", "statements")["incomplete"])
    assert [each["session"] for each in found(stage, "SELECT 'stays'")] == [stays]
    assert found(stage, "zqj") == []
    log, key = str(tmp_path / "log"), stage.facts["audit_key"]
    stage.gw("auditor", "audit", "export", log)
    told = stage.gw("auditor", "session", "replay", gone, "--log", log, "--key", key, status=5).stderr
    assert f"event {place}: {WHY}. That is what your copy of the log says." in told
