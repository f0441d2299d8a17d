"""Two gateways as they are run, `gw serve` each, on one PostgreSQL store: `a` holds the COMMIT, answers come to both.

What two contexts on one store do is in test_dry_run_gateways.py.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gateway.demo.config import STORE_URL_FILE
from gateway.demo.ports import free_port
from tests.e2e.stage import GW, Stage, directory, running, wait_for
from tests.servers import PostgresServer

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]
Held = psycopg.errors.ObjectNotInPrerequisiteState
SILENT_S = 15  # after which a gateway takes the other for dead
UPDATE = "UPDATE orders SET status = 'cancelled' WHERE id IN (1, 2, 3)"
UNDO = "UPDATE orders SET status = 'paid' WHERE id IN (1, 2, 3)"


@dataclass(frozen=True, slots=True)
class Pair:
    """`b` is the gateway of the stage, `a` another one; each as the same people reach it."""

    a: Stage
    b: Stage
    process: "subprocess.Popen[str]"

    def connect(self) -> "psycopg.Connection[Any]":
        url = self.a.json("oncall", "connect", "orders-db", "--level", "write")["url"]
        return psycopg.connect(url, autocommit=True)

    def cancelled(self) -> int:
        with self.b.superuser() as admin:
            query = "SELECT count(*) FROM orders WHERE id IN (1, 2, 3) AND status = 'cancelled'"
            (count,) = admin.execute(query).fetchone() or (0,)
        return int(count)

    def outcomes(self, session: str, type: str) -> list[str]:
        found = self.b.json("auditor", "audit", "search", "--session", session, "--type", type)
        return [each["data"].get("outcome", each["outcome"]) for each in reversed(found)]


@pytest.fixture(scope="module")
def stage(postgres_server: PostgresServer) -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch, directory() as place:
        url = place / "store.url"
        url.write_text(postgres_server.url(postgres_server.create_database()) + "\n")
        url.chmod(0o600)
        patch.setenv(STORE_URL_FILE, str(url))
        with running(place) as up:
            catalogue = place / "catalogue.yaml"
            account = "        account: orders_write\n"
            text = catalogue.read_text()
            assert account in text
            catalogue.write_text(text.replace(account, f"{account}        dry_run: approver\n", 1))
            with (place / "gateway.toml").open("a") as settings:
                settings.write(f"\n[limits]\ngateway_silent_seconds = {SILENT_S}\n")
            os.kill(up.pids()["gateway"], signal.SIGTERM)  # the stage starts it again, with these
            wait_for("it is there again", lambda: is_up(up))
            request = up.ask("orders-db", "write", status=None)["request"]["id"]
            up.gw("lead", "approve", request)
            yield up


def is_up(stage: Stage) -> bool:
    """It has started twice."""
    started = stage.gw("auditor", "audit", "search", "--type", "gateway:started", "--json", status=None)
    return started.returncode == 0 and len(json.loads(started.stdout)) == 2


@pytest.fixture
def pair(stage: Stage) -> Iterator[Pair]:
    with another(stage) as (process, ready), orders_as_they_were(stage):
        accounts = {
            name: {"env": {**account["env"], "GW_URL": ready["api"]}}
            for name, account in stage.facts["accounts"].items()
        }
        yield Pair(replace(stage, facts={**stage.facts, "accounts": accounts}), stage, process)


@contextmanager
def orders_as_they_were(stage: Stage) -> Iterator[None]:
    with stage.superuser() as admin:
        admin.execute(UNDO)
        yield
        admin.execute(UNDO)


@contextmanager
def another(stage: Stage) -> Iterator[tuple["subprocess.Popen[str]", Any]]:
    """A second gateway with the keys of the first one, in a directory and at ports of its own."""
    place, ours = stage.directory / "another", stage.directory / "gateway"
    for kept in ("keys", "ssh", "tls"):
        shutil.copytree(ours / kept, place / "gateway" / kept, dirs_exist_ok=True)
    settings = place / "gateway.toml"
    settings.write_text(at_other_ports((stage.directory / "gateway.toml").read_text(), place / "gateway"))
    with (place / "log").open("a") as log:
        process = subprocess.Popen(
            [*GW, "serve", "--config", str(settings), "--json"], env=without_settings(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (place / "log").read_text()
        yield process, json.loads(line)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


def at_other_ports(text: str, state: Path) -> str:
    for name in re.findall(r"^port = (\d+)$", text, re.MULTILINE):
        text = re.sub(rf"\b{name}\b", str(free_port()), text)
    text = re.sub(r"^state_dir = .*$", f"state_dir = {json.dumps(str(state))}", text, count=1, flags=re.MULTILINE)
    return text.replace('name = "demo"', 'name = "another"', 1)


def without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "PG"))}


def hold(session: "psycopg.Connection[Any]") -> str:
    with pytest.raises(Held) as no:
        session.execute("COMMIT")
    found = re.search(r"gw session commit (ses_\w+)", no.value.diag.message_hint or "")
    assert found is not None, no.value
    return found[1]


def test_a_yes_through_the_other_gateway_frees_the_commit(pair: Pair) -> None:
    with pair.connect() as session:
        session.execute("BEGIN")
        session.execute(UPDATE)
        of = hold(session)
        (live,) = [each for each in pair.b.live_sessions() if each["id"] == of]
        assert live["gateway"] == "another"
        shown = pair.b.json("lead", "session", "commit", of)
        assert [write["sql"] for write in shown["writes"]] == [UPDATE]
        hold(session)  # looking at it is no answer
        pair.b.gw("lead", "session", "commit", of, "--reason", "I have looked", stdin="y\n")
        session.execute("COMMIT")
    assert pair.cancelled() == 3
    assert pair.outcomes(of, "transaction:confirmed") == ["attempt", "ok"]
    wait_for("its end is in the log", lambda: pair.outcomes(of, "transaction:ended") == ["committed"])


def test_of_answers_through_both_gateways_at_once_one_counts(pair: Pair) -> None:
    with pair.connect() as session:
        for n in range(1, 3):
            session.execute("BEGIN")
            session.execute(UPDATE)
            of = hold(session)
            mark = pair.b.json("lead", "session", "commit", of)["mark"]
            answers = [
                each.start("lead", "session", "commit", of, "--mark", mark) for each in (pair.a, pair.b, pair.a, pair.b)
            ]
            said = [answer.communicate(timeout=60) for answer in answers]
            assert sorted(answer.returncode for answer in answers) == [0, 5, 5, 5], said
            assert sum("lead has confirmed it already" in err for _, err in said) == 3, said
            assert pair.outcomes(of, "transaction:confirmed").count("ok") == n
            session.execute("COMMIT")
            assert pair.cancelled() == 3
            session.execute("BEGIN")
            session.execute(UNDO)
            hold(session)  # nothing of the yes is left for what is written next
            session.execute("ROLLBACK")


def test_a_yes_to_what_a_dead_gateway_held_changes_nothing_and_is_told_so(pair: Pair) -> None:
    session = pair.connect()
    session.execute("BEGIN")
    session.execute(UPDATE)
    of = hold(session)
    mark = pair.b.json("lead", "session", "commit", of)["mark"]
    pair.process.kill()
    pair.process.wait(60)
    with pytest.raises(psycopg.OperationalError):
        session.execute("COMMIT")

    def is_told() -> bool:
        """While `b` still takes `a` for alive it waits for a COMMIT that nobody can send."""
        done = pair.b.gw("lead", "session", "commit", of, "--mark", mark, status=None)
        assert done.returncode in (0, 4, 5), done.stderr
        return done.returncode == 4 and "No COMMIT of that session is held." in done.stderr

    wait_for("the yes is refused", is_told, 60)
    assert pair.cancelled() == 0
    assert of not in {each["id"] for each in pair.b.live_sessions()}
    assert pair.outcomes(of, "transaction:ended") == ["unknown"]  # what `a` did with the yes at its end nobody saw
    ended = pair.b.json("auditor", "audit", "search", "--session", of, "--type", "session:ended")
    assert [each["data"]["reason"] for each in ended] == ["interrupted"]
