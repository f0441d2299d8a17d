"""Dry-run as people use it: gw psql holds the COMMIT, an approver or the engineer looks and says yes or no.

The gateway runs two workers, so that an answer is given to another process than the one that asks for it.
"""

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.e2e.stage import Stage, directory, running, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]
Held = psycopg.errors.ObjectNotInPrerequisiteState
UPDATE = "UPDATE orders SET status = 'cancelled' WHERE id IN (1, 2, 3)"


def loaded(stage: Stage) -> set[str]:
    return {of["source"] for of in stage.json("auditor", "audit", "search", "--type", "catalogue:loaded")}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch, directory() as place:
        patch.setenv("GATEWAY_WORKERS", "2")
        with running(place) as up:
            (found,) = place.rglob("catalogue.yaml")
            text = found.read_text()
            for account, confirm in (("orders_write", "approver"), ("orders_admin", "self")):
                assert account in text
                text = text.replace(
                    f"        account: {account}\n", f"        account: {account}\n        dry_run: {confirm}\n", 1
                )
            found.write_text(text)
            wait_for("both workers know the changed catalogue", lambda: len(loaded(up)) == 2)
            for level in ("write", "admin"):
                request = up.ask("orders-db", level, status=None)["request"]["id"]
                up.gw("lead", "approve", request)
            yield up


@pytest.fixture(autouse=True)
def as_it_was(stage: Stage) -> Iterator[None]:
    with stage.superuser() as admin:
        before = statuses(stage)
        yield
        for order, status in before.items():
            admin.execute("UPDATE orders SET status = %s WHERE id = %s", (status, order))


def statuses(stage: Stage) -> dict[int, str]:
    with stage.superuser() as admin:
        return dict(admin.execute("SELECT id, status FROM orders WHERE id < 10").fetchall())


def connect(stage: Stage, level: str = "write", **options: Any) -> "psycopg.Connection[Any]":
    url = stage.json("oncall", "connect", "orders-db", "--level", level)["url"]
    return psycopg.connect(url, **options)


def session_of(no: psycopg.Error) -> str:
    found = re.search(r"gw session commit (ses_\w+)", no.diag.message_hint or "")
    assert found is not None, no
    return found[1]


def hold(session: "psycopg.Connection[Any]") -> str:
    with pytest.raises(Held) as no:
        session.execute("COMMIT")
    return session_of(no.value)


def events(stage: Stage, session: str) -> list[tuple[str, str]]:
    found = stage.json("auditor", "audit", "search", "--session", session)
    return [(each["type"], each["principal"]) for each in reversed(found) if each["type"].startswith("transaction:")]


def outcomes(stage: Stage, session: str, type: str) -> list[str]:
    found = stage.json("auditor", "audit", "search", "--session", session, "--type", type)
    return [each["outcome"] for each in reversed(found)]


def test_an_approver_looks_and_says_yes_to_just_what_was_written(stage: Stage) -> None:
    before = statuses(stage)
    with connect(stage, autocommit=True) as session:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="A write comes in a transaction"):
            session.execute(UPDATE)
        session.execute("BEGIN")
        session.execute(UPDATE)
        of = hold(session)
        assert statuses(stage) == before
        stage.gw("oncall", "session", "commit", of, "--mark", "x", status=3)
        stage.gw("developer", "session", "commit", of, status=3)
        shown = stage.gw("lead", "session", "commit", of, stdin="n\n", status=1)
        assert f"UPDATE 3\t{UPDATE}" in shown.stdout
        told = stage.json("lead", "session", "commit", of)
        assert (told["tx"], told["statements"], told["rows"], told["state"]) == (1, 1, 3, "waiting")

        session.execute("DELETE FROM order_items WHERE order_id = 4 AND line = 99")  # behind the approver's back
        hold(session)
        stage.gw("lead", "session", "commit", of, "--mark", told["mark"], status=5)
        stage.gw("lead", "session", "commit", of, "--reason", "I have looked", stdin="y\n")
        session.execute("UPDATE orders SET status = 'paid' WHERE id = 5")  # behind the yes
        hold(session)
        assert statuses(stage) == before

        newest = stage.json("lead", "session", "commit", of)
        assert [write["tag"] for write in newest["writes"]] == ["UPDATE 3", "DELETE 0", "UPDATE 1"]
        stage.gw("lead", "session", "commit", of, "--mark", newest["mark"], "--reason", "now it is right")
        session.execute("COMMIT")
        assert statuses(stage)[1] == "cancelled"
        session.execute("BEGIN")
        session.execute("DELETE FROM order_items WHERE order_id = 4 AND line = 99")
        session.execute("ROLLBACK")
    wait_for("its end is in the log", lambda: events(stage, of)[-1][0] == "transaction:ended")
    kinds = [kind.removeprefix("transaction:") for kind, _ in events(stage, of)]
    assert kinds.count("held") == 3
    answers = [
        "denied",
        "denied",
        "attempt",
        "ok",
        "attempt",
        "ok",
    ]  # their own, one that came too late, two that count
    assert [kind for kind in kinds if kind not in ("held", "shown")] == ["confirmed"] * len(answers) + ["ended"]
    assert outcomes(stage, of, "transaction:confirmed") == answers
    stage.gw("lead", "session", "commit", of, status=4)


def test_an_approver_says_no(stage: Stage) -> None:
    before = statuses(stage)
    with connect(stage) as session:
        session.execute(UPDATE)
        with pytest.raises(Held) as no:
            session.commit()
        of = session_of(no.value)
        stage.gw("lead", "session", "commit", of, "--refuse", "--reason", "wrong customer", stdin="y\n")
        with pytest.raises(Held, match="Refused by lead: wrong customer"):
            session.commit()
        session.execute("SELECT 1")
        session.rollback()
    assert statuses(stage) == before
    assert ("transaction:refused", "lead") in events(stage, of)


def test_the_engineers_own_yes_from_another_terminal(stage: Stage) -> None:
    with connect(stage, "admin") as session:
        with pytest.raises(Held) as no, session.transaction():
            session.execute(UPDATE)
        of = session_of(no.value)
        stage.gw("lead", "session", "commit", of, stdin="y\n", status=3)
        stage.gw("oncall", "session", "commit", of, stdin="y\n")
        with session.pipeline():
            session.commit()
    assert statuses(stage)[2] == "cancelled"
    recorded = stage.gw("oncall", "session", "replay", of, "--statements").stdout
    assert "55000" in recorded
    assert "committed" in recorded


def test_psql_waits_for_the_answer_and_commits(stage: Stage) -> None:
    client = stage.start("oncall", "psql", "orders-db", "--level", "admin", "--", "-XAt")
    assert client.stdin is not None
    assert client.stdout is not None
    assert client.stderr is not None
    client.stdin.write(f"BEGIN;\n{UPDATE};\nCOMMIT;\n\\echo held\n")
    client.stdin.flush()
    said = ""
    while "HINT" not in said:
        line = client.stderr.readline()
        assert line, said
        said += line
    assert "Held by the gateway: transaction 1 has written: 1 statement, 3 rows." in said
    found = re.search(r"gw session commit (ses_\w+)", said)
    assert found is not None
    stage.gw("oncall", "session", "commit", found[1], stdin="y\n")
    out, err = client.communicate("COMMIT;\n", timeout=30)
    assert "COMMIT" in out, err
    assert statuses(stage)[3] == "cancelled"


def test_every_worker_hears_of_a_yes_and_what_is_left_is_lost(stage: Stage) -> None:
    before = statuses(stage)
    sessions: list[psycopg.Connection[Any]] = []
    try:
        while len({of["gateway"] for of in stage.live_sessions() if of["target"] == "orders-db"}) < 2:
            assert len(sessions) < 20, "one worker gets no connections"
            sessions.append(connect(stage, "admin", autocommit=True))
        for session in sessions:
            session.execute("BEGIN; UPDATE orders SET channel = channel WHERE id = 9")
            of = hold(session)
            stage.gw("oncall", "session", "commit", of, stdin="y\n")
            session.execute("COMMIT")
        last = sessions[-1]
        last.execute("BEGIN; UPDATE orders SET status = 'cancelled' WHERE id = 8")
        of = hold(last)
        stage.gw("oncall", "session", "kill", of)
        wait_for(
            "its end is in the log", lambda: [kind for kind, _ in events(stage, of)].count("transaction:ended") == 2
        )
    finally:
        for session in sessions:
            session.close()
    assert statuses(stage) == before
    stage.gw("oncall", "session", "commit", of, status=4)


def test_a_program_that_knows_nothing_of_it_changes_nothing(stage: Stage) -> None:
    before = statuses(stage)
    url = stage.json("oncall", "connect", "orders-db", "--level", "write")["url"]
    for words in (
        ["-c", UPDATE],
        ["-1", "-c", UPDATE],
        ["-c", f"BEGIN; {UPDATE}; COMMIT"],
        ["-c", "BEGIN", "-c", UPDATE, "-c", "COMMIT"],
    ):
        done = subprocess.run(
            ["psql", "-XAt", "-v", "ON_ERROR_STOP=1", url, *words], capture_output=True, text=True, timeout=60
        )
        assert done.returncode, done.stdout
        assert "the gateway" in done.stderr
    assert statuses(stage) == before
