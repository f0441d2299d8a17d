"""The main job, end to end: real psql, ssh, scp, PostgreSQL and sshd, and the command line that people use."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.e2e.stage import Stage, directory, running, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]
SEARCH = "SELECT name, orders FROM customer_search WHERE city = 'Leeds' ORDER BY name LIMIT 3"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with directory() as path, running(path) as up:
        yield up


@pytest.fixture(autouse=True)
def _nothing_granted(stage: Stage) -> Iterator[None]:
    yield
    for account in ("oncall", "developer"):
        stage.revoke_all(account)
    wait_for("no session is left", lambda: not stage.live_sessions())


# ---------------------------------------------------------------- who, what, why not


def test_accounts_are_who_they_are_named(stage: Stage) -> None:
    groups = {name: stage.json(name, "whoami")["groups"] for name in ("oncall", "developer", "lead", "auditor")}
    assert groups == {"oncall": ["engineers"], "developer": ["engineers"], "lead": ["leads"], "auditor": ["auditors"]}


def test_targets_say_what_one_could_ask_for_and_why_not_the_rest(stage: Stage) -> None:
    mine = {t["name"]: t for t in stage.json("oncall", "targets", "--incident", "INC-1042")}
    levels = {lv["name"]: lv["decision"] for lv in mine["orders-db"]["levels"]}
    assert levels["read"]["permitted"]
    assert levels["admin"]["obligations"]["approvals"] == 1
    theirs = {t["name"]: t for t in stage.json("developer", "targets", "--incident", "INC-1042")}
    no = {lv["name"]: lv["decision"] for lv in theirs["orders-db"]["levels"]}["read"]
    assert not no["permitted"]
    assert no["detail"]


def test_the_engineer_on_call_is_granted_read_at_once(stage: Stage) -> None:
    told = stage.ask("orders-db", "read")
    assert told["state"] == "granted"
    assert told["grant"]["not_after"]
    assert told["decision"]["policies"]
    assert told["decision"]["facts"]
    assert "orders-db" in told["connect"]
    assert [g["id"] for g in stage.json("oncall", "grants") if g["state"] == "active"] == [told["grant"]["id"]]


def test_the_developer_gets_a_no_that_names_who_is_on_call(stage: Stage) -> None:
    no = stage.gw(
        "developer",
        "request",
        "orders-db",
        "--level",
        "read",
        "--incident",
        "INC-1042",
        "--reason",
        "curious",
        status=3,
    )
    assert "oncall" in no.stderr
    assert "CI" in no.stderr
    assert "Traceback" not in no.stderr


def test_any_developer_may_read_staging(stage: Stage) -> None:
    stage.json("developer", "request", "staging-db", "--level", "read", "--reason", "try a query")
    done = stage.gw("developer", "psql", "staging-db", "--", "-XAtc", "SELECT count(*) FROM orders")
    assert done.stdout.strip() == "5000"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("request", "nowhere-db", "--level", "read", "--reason", "x"), 4),
        (("request", "orders-db", "--level", "god", "--reason", "x"), 4),
        (("request", "orders-db", "--level", "read", "--reason", "x", "--for", "eternity"), 2),
        (("request", "orders-db", "--level", "read", "--reason", "x", "--for", "9000d"), 3),
        (("request", "orders-db", "--level", "read", "--incident", "INC-9", "--reason", " "), 3),
        (("revoke", "grt_00000000000000000000000000"), 4),
        (("psql", "orders-db", "--", "-c", "SELECT 1"), 3),
        (("ssh", "web-1", "--", "true"), None),
    ],
)
def test_mistakes_end_in_a_sentence(stage: Stage, words: tuple[str, ...], status: int | None) -> None:
    no = stage.gw("oncall", *words, status=status)
    assert no.returncode != 0
    assert no.stderr.strip()
    assert "Traceback" not in no.stderr + no.stdout


# ---------------------------------------------------------------- the database


def test_psql_finds_the_missing_index_and_may_not_make_it(stage: Stage) -> None:
    stage.ask("orders-db", "read")
    rows = stage.gw("oncall", "psql", "orders-db", "--", "-XAtc", SEARCH).stdout.splitlines()
    assert len(rows) == 3
    plan = stage.gw("oncall", "psql", "orders-db", "--", "-XAtc", f"EXPLAIN ANALYZE {SEARCH}").stdout
    assert "Seq Scan on orders" in plan
    refused = stage.gw("oncall", "psql", "orders-db", "--", "-Xc", "CREATE INDEX ON orders (customer_id)", status=None)
    assert refused.returncode != 0
    assert "must be owner" in refused.stderr


def test_admin_needs_somebody_else(stage: Stage) -> None:
    waiting = stage.ask("orders-db", "admin", status=5)
    request = waiting["request"]["id"]
    assert waiting["grant"] is None
    own = stage.gw("oncall", "approve", request, status=3)
    assert "somebody else" in own.stderr
    assert stage.gw("developer", "approve", request, status=None).returncode in (3, 4)
    assert stage.json("lead", "approve", request, "--note", "seen the plan")["grant"]["level"] == "admin"
    try:
        stage.gw("oncall", "psql", "orders-db", "--", "-Xc", "CREATE INDEX e2e_customer ON orders (customer_id)")
        with stage.superuser() as direct:
            owner = direct.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'orders'").fetchone()
        assert owner == ("orders_admin",)
        plan = stage.gw("oncall", "psql", "orders-db", "--", "-XAtc", f"EXPLAIN {SEARCH}").stdout
        assert "e2e_customer" in plan
    finally:
        with stage.superuser() as direct:
            direct.execute("DROP INDEX IF EXISTS e2e_customer")


def test_plain_clients_use_the_printed_url(stage: Stage, tmp_path: Path) -> None:
    stage.ask("orders-db", "read")
    url = stage.json("oncall", "connect", "orders-db")["url"]
    done = subprocess.run(["psql", "-XAtc", "SELECT 40 + 2", url], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout.strip()) == (0, "42"), done.stderr
    copied = tmp_path / "customers.csv"
    script = f"\\copy customers TO '{copied}' CSV\nSELECT 1/0;\nSELECT 'after';\n"
    done = subprocess.run(["psql", "-XAt", url], input=script, capture_output=True, text=True, timeout=60)
    assert "division by zero" in done.stderr
    assert done.stdout.strip().endswith("after")
    assert len(copied.read_text().splitlines()) == 20_000


def test_extended_protocol_pipelines_and_cancel(stage: Stage) -> None:
    stage.ask("orders-db", "read")
    url = stage.json("oncall", "connect", "orders-db")["url"]
    with psycopg.connect(url, autocommit=True, connect_timeout=20) as connection:
        assert connection.execute("SELECT %s::int + %s::int", (40, 2)).fetchone() == (42,)
        with connection.pipeline():
            first, second = connection.execute("SELECT 1"), connection.execute("SELECT 2")
        assert (first.fetchone(), second.fetchone()) == ((1,), (2,))
        count = connection.execute("SELECT count(*) FROM orders", prepare=True).fetchone()
        assert count == (240_000,)
        slow = subprocess.Popen(["psql", "-Xc", "SELECT pg_sleep(60)", url], stderr=subprocess.PIPE, text=True)
        wait_for("the query runs", lambda: _running(stage, "pg_sleep(60)"))
        slow.send_signal(signal.SIGINT)  # psql asks for a cancel on a second connection
        assert slow.stderr is not None
        assert "canceling statement" in slow.stderr.read()
        slow.wait(20)
        slow.stderr.close()


def _running(stage: Stage, text: str) -> bool:
    with stage.superuser() as direct:
        found = direct.execute(
            "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND strpos(query, %s) > 0 AND pid <> pg_backend_pid()",
            (text,),
        )
        return found.fetchone() is not None


def test_the_door_refuses_plaintext_and_wrong_tickets(stage: Stage) -> None:
    stage.ask("orders-db", "read")
    url = stage.json("oncall", "connect", "orders-db")["url"]
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(re.sub(r"sslmode=[a-z-]+", "sslmode=disable", url), connect_timeout=10)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(re.sub(r":[^:@/]+@", ":gwt_wrong@", url), connect_timeout=10)


def test_the_role_is_made_for_the_grant_and_gone_after_it(stage: Stage) -> None:
    grant = stage.ask("orders-db", "read")["grant"]
    role = stage.gw("oncall", "psql", "orders-db", "--", "-XAtc", "SELECT session_user").stdout.strip()
    assert role in stage.ephemeral_roles()
    with stage.superuser() as direct:
        groups = direct.execute(
            "SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member "
            "WHERE r.rolname = %s",
            (role,),
        ).fetchall()
    assert groups == [("orders_read",)]
    stage.gw("oncall", "revoke", grant["id"])
    wait_for("the role is gone", lambda: role not in stage.ephemeral_roles())


@pytest.mark.parametrize("change", ["ALTER ROLE {} PASSWORD 'another'", "ALTER ROLE {} NOLOGIN", "DROP ROLE {}"])
def test_a_role_that_somebody_changed_under_our_feet_is_replaced(stage: Stage, change: str) -> None:
    grant = stage.ask("orders-db", "read")["grant"]
    url = stage.json("oncall", "connect", "orders-db")["url"]
    with psycopg.connect(url) as session:
        (role,) = session.execute("SELECT session_user").fetchone() or ()
    with stage.superuser() as direct:
        direct.execute(sql.SQL(change).format(sql.Identifier(role)))  # type: ignore[arg-type]  # one of those above
    with pytest.raises(psycopg.OperationalError, match=r"(?s)did not accept the gateway's own role.*Connect again"):
        psycopg.connect(url)
    with psycopg.connect(url) as session:
        other, account = session.execute("SELECT session_user, current_user").fetchone() or ()
    assert (other != role, account) == (True, "orders_read")
    wait_for("the old role is gone", lambda: role not in stage.ephemeral_roles())
    stage.gw("oncall", "revoke", grant["id"])


def test_a_role_that_pg_hba_keeps_out_is_kept_and_so_are_its_sessions(stage: Stage) -> None:
    grant = stage.ask("orders-db", "read")["grant"]
    url = stage.json("oncall", "connect", "orders-db")["url"]
    with psycopg.connect(url) as session, stage.superuser() as direct:
        (role,) = session.execute("SELECT session_user").fetchone() or ()
        (path,) = direct.execute("SHOW hba_file").fetchone() or ()
        rules = Path(path).read_text()
        try:
            Path(path).write_text(f"host all {role} all reject\n{rules}")
            direct.execute("SELECT pg_reload_conf()")
            with pytest.raises(psycopg.OperationalError, match=r"(?s)did not accept the gateway's own role.*doctor"):
                psycopg.connect(url)
        finally:
            Path(path).write_text(rules)
            direct.execute("SELECT pg_reload_conf()")
        with psycopg.connect(url) as other:
            assert other.execute("SELECT session_user").fetchone() == (role,)
        assert session.execute("SELECT session_user").fetchone() == (role,)
    stage.gw("oncall", "revoke", grant["id"])


# ---------------------------------------------------------------- the server


def test_ssh_runs_commands_with_status_and_stderr(stage: Stage) -> None:
    stage.ask("web-1", "shell")
    done = stage.gw("oncall", "ssh", "web-1", "--", "cat; echo two >&2; exit 7", status=7, stdin="one")
    assert done.stdout == "one"
    assert "two" in done.stderr


def test_plain_ssh_scp_and_sftp_use_the_printed_config(stage: Stage, tmp_path: Path) -> None:
    stage.ask("web-1", "shell")
    config = str(stage.ssh_config())
    env = stage.env("oncall")
    there = _ssh(config, env, "mktemp -d").stdout.strip()
    sent, back = tmp_path / "sent", tmp_path / "back"
    sent.write_bytes(os.urandom(3_000_000))
    for flag in ("-s", "-O"):  # the SFTP protocol, and the old one
        subprocess.run(
            ["scp", "-q", flag, "-F", config, sent, f"web-1.gw:{there}/file"], env=env, check=True, timeout=60
        )
        subprocess.run(
            ["scp", "-q", flag, "-F", config, f"web-1.gw:{there}/file", back], env=env, check=True, timeout=60
        )
        assert back.read_bytes() == sent.read_bytes()
    batch = f"rename {there}/file {there}/renamed\nls {there}\n"
    done = subprocess.run(
        ["sftp", "-q", "-b", "-", "-F", config, "web-1.gw"],
        input=batch,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "renamed" in done.stdout, done.stderr
    _ssh(config, env, f"rm -r {there}")


def _ssh(config: str, env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["ssh", "-F", config, "web-1.gw", *words],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_terminal_is_a_terminal_and_is_replayable(stage: Stage) -> None:
    stage.ask("web-1", "shell")
    done = subprocess.run(
        ["ssh", "-tt", "-F", str(stage.ssh_config()), "web-1.gw"],
        env=stage.env("oncall"), input="tty; echo marker-$((40+2)); exit 3\n", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "/dev/pts/" in done.stdout
    assert "marker-42" in done.stdout
    session = stage.json("oncall", "sessions")[0]
    wait_for("the session is over", lambda: not stage.live_sessions())
    replay = stage.gw("auditor", "session", "replay", session["id"], "--json", status=None)
    played = replay.stdout + stage.gw("auditor", "session", "replay", session["id"], status=None).stdout
    assert "marker-42" in played


# ---------------------------------------------------------------- the end of it


def test_kill_ends_one_session_with_a_sentence(stage: Stage) -> None:
    stage.ask("web-1", "shell")
    shell = stage.start("oncall", "ssh", "web-1", "--", "echo up; sleep 600")
    assert shell.stdout is not None
    assert shell.stdout.readline() == "up\n"
    (session,) = stage.live_sessions()
    stage.gw("lead", "session", "kill", session["id"])
    _, said = shell.communicate(timeout=20)
    assert shell.returncode != 0
    assert "ended" in said or "closed" in said
    wait_for("the end is stored", lambda: not stage.live_sessions())
    assert next(s for s in stage.json("oncall", "sessions") if s["id"] == session["id"])["end_reason"] == "killed"


def test_revoke_ends_database_and_shell_sessions(stage: Stage) -> None:
    grants = {
        target: stage.ask(target, level)["grant"] for target, level in (("orders-db", "read"), ("web-1", "shell"))
    }
    shell = stage.start("oncall", "ssh", "web-1", "--", "echo up; sleep 600")
    query = stage.start("oncall", "psql", "orders-db", "--", "-Xc", "SELECT pg_sleep(600)")
    wait_for("both run", lambda: len(stage.live_sessions()) == 2 and _running(stage, "pg_sleep(600)"))
    for grant in grants.values():
        stage.gw("oncall", "revoke", grant["id"], "--reason", "found it")
    for client in (shell, query):
        _, said = client.communicate(timeout=20)
        assert client.returncode != 0
        assert "revoked" in said
    wait_for("the query is stopped on the server", lambda: not _running(stage, "pg_sleep(600)"))
    assert stage.gw("oncall", "psql", "orders-db", "--", "-c", "SELECT 1", status=None).returncode != 0


def test_one_grant_covers_any_number_of_connections_until_it_ends(stage: Stage) -> None:
    grant = stage.ask("web-1", "shell")["grant"]
    before = {s["id"] for s in stage.json("oncall", "sessions")}
    held = [stage.start("oncall", "ssh", "web-1", "--", "echo up; sleep 600") for _ in range(3)]
    assert [shell.stdout.readline() for shell in held if shell.stdout] == ["up\n"] * 3
    for _ in range(2):
        assert stage.gw("oncall", "ssh", "web-1", "--", "true", status=None).returncode == 0
    under = [s for s in stage.json("oncall", "sessions") if s["id"] not in before]
    assert len(under) == 5
    assert {s["grant"] for s in under} == {grant["id"]}
    stage.gw("oncall", "revoke", grant["id"], "--reason", "found it")
    for shell in held:
        _, said = shell.communicate(timeout=20)
        assert "revoked" in said
    assert stage.gw("oncall", "ssh", "web-1", "--", "true", status=None).returncode != 0


def test_the_deadline_ends_sessions_on_every_channel(stage: Stage) -> None:
    stage.ask("web-1", "shell", duration="12s")
    stage.ask("orders-db", "read", duration="12s")
    shell = stage.start("oncall", "ssh", "web-1", "--", "echo up; sleep 600")
    query = stage.start("oncall", "psql", "orders-db", "--", "-Xc", "SELECT pg_sleep(600)")
    for client in (shell, query):
        _, said = client.communicate(timeout=40)
        assert client.returncode != 0
        assert "grant has ended" in said
    reasons = {s["end_reason"] for s in stage.json("oncall", "sessions")[:2]}
    assert reasons == {"grant-expired"}


def test_break_glass_is_loud_and_reviewed_by_somebody_else(stage: Stage) -> None:
    emergency = ("break-glass", "orders-db", "--level", "admin", "--incident", "INC-1042", "--reason", "melting")
    no = stage.gw("oncall", *emergency, status=6)
    assert "gw step-up" in no.stderr
    stage.step_up()
    told = stage.json(
        "oncall",
        "break-glass",
        "orders-db",
        "--level",
        "admin",
        "--incident",
        "INC-1042",
        "--reason",
        "melting",
        "--for",
        "10m",
    )
    grant = told["grant"]
    assert grant["kind"] == "break-glass"
    assert (
        stage.gw("oncall", "psql", "orders-db", "--", "-XAtc", "SELECT current_user").stdout.strip() == "orders_admin"
    )
    (owed,) = [r for r in stage.json("lead", "review") if r["grant"] == grant["id"]]
    own = stage.gw("oncall", "review", owed["id"], "--verdict", "justified", "--note", "mine", status=None)
    assert own.returncode in (3, 4)
    signed = stage.json("lead", "review", owed["id"], "--verdict", "justified", "--note", "read the statements")
    assert signed["reviewer"] == "lead"
    pager = stage.directory / "log" / "pager.log"
    wait_for("the pager heard of it", lambda: "orders-db" in pager.read_text())


def test_break_glass_is_not_for_everybody(stage: Stage) -> None:
    stage.gw(
        "developer",
        "break-glass",
        "orders-db",
        "--level",
        "admin",
        "--incident",
        "INC-1042",
        "--reason",
        "please",
        status=3,
    )


# ---------------------------------------------------------------- evidence


def test_the_auditor_finds_shows_and_verifies(stage: Stage) -> None:
    grant = stage.ask("orders-db", "read")["grant"]
    stage.gw("oncall", "psql", "orders-db", "--", "-XAtc", "SELECT 'needle-4711' AS found")
    found = stage.json("auditor", "audit", "search", "--target", "orders-db", "--since", "1h")
    types = {event["type"] for event in found}
    assert {"grant:issued", "session:started"} <= types
    issued = next(e for e in found if e["type"] == "grant:issued" and e["grant"] == grant["id"])
    assert json.dumps(stage.json("auditor", "audit", "show", issued["id"])).count(grant["id"])
    done = stage.gw("auditor", "audit", "verify", "--key", stage.facts["audit_key"])
    assert done.stdout.strip()
    assert stage.gw("developer", "audit", "search", "--target", "orders-db", status=None).returncode == 3


def test_every_statement_is_recorded_and_found(stage: Stage) -> None:
    stage.ask("orders-db", "read")
    stage.gw("oncall", "psql", "orders-db", "--", "-XAtc", "SELECT 'needle-4712' AS found, 1/0", status=None)
    stage.gw("oncall", "psql", "orders-db", "--", "-XAtc", "SELECT 'needle-4712' FROM generate_series(1, 3)")

    def statements() -> list[dict[str, object]]:
        found = stage.json("auditor", "statements", "needle-4712")
        listed: list[dict[str, object]] = found["statements"] if isinstance(found, dict) else found
        return listed

    wait_for("both are indexed", lambda: len(statements()) == 2)
    by_rows = {s["rows"]: s for s in statements()}
    assert 3 in by_rows
    assert "22012" in json.dumps(statements())  # division_by_zero


def test_a_wrong_key_verifies_nothing(stage: Stage) -> None:
    name, _, key = stage.facts["audit_key"].rpartition("+")
    wrong = f"{name}+{'A' if key[0] != 'A' else 'B'}{key[1:]}"
    assert stage.gw("auditor", "audit", "verify", "--key", wrong, status=None).returncode != 0


# ---------------------------------------------------------------- failure


def test_after_sigkill_nothing_is_lost_and_nothing_is_left(stage: Stage) -> None:
    stage.ask("orders-db", "read")
    stage.ask("web-1", "shell")
    shell = stage.start("oncall", "ssh", "web-1", "--", "echo up; sleep 600")
    query = stage.start("oncall", "psql", "orders-db", "--", "-Xc", "SELECT pg_sleep(600)")
    wait_for("both run", lambda: len(stage.live_sessions()) == 2 and _running(stage, "pg_sleep(600)"))
    held = {s["id"] for s in stage.live_sessions()}
    before = {e["id"] for e in stage.json("auditor", "audit", "search", "--since", "1h")}
    killed = stage.pids()["gateway"]
    os.kill(killed, signal.SIGKILL)
    for client in (shell, query):
        client.communicate(timeout=30)
    wait_for("the gateway is back", lambda: stage.pids()["gateway"] != killed, 60)
    over = {s["id"]: s["end_reason"] for s in stage.json("oncall", "sessions") if s["id"] in held}
    assert over == dict.fromkeys(held, "interrupted")
    played = [stage.gw("auditor", "session", "replay", session, status=None).stdout for session in held]
    assert any(" out | up\n" in text for text in played), played  # what was there is replayed
    wait_for("the query is stopped on the server", lambda: not _running(stage, "pg_sleep(600)"))
    after = {e["id"] for e in stage.json("auditor", "audit", "search", "--since", "1h", "--limit", "1000")}
    assert before <= after
    stage.gw("auditor", "audit", "verify", "--key", stage.facts["audit_key"])
    stage.gw("oncall", "psql", "orders-db", "--", "-XAtc", "SELECT 1")  # the grant still stands
    stage.revoke_all()
    wait_for("every ephemeral role is gone", lambda: stage.ephemeral_roles() == [])
