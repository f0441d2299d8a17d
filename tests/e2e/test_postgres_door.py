"""The database door with real clients (psql, psycopg, pgbench) and a real server."""

import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest
from blake3 import blake3

from gateway.core.bind_parameters import BindParameters
from gateway.core.errors import Refusal
from gateway.core.obligation import Record
from gateway.core.session import EndReason
from gateway.core.target import Target
from tests.e2e.postgres_stage import WITHIN, Stage, database, door_tls, leased, running_door
from tests.servers import PostgresServer


@pytest.fixture(scope="module")
def target(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with database(postgres_server, tmp_path_factory.mktemp("target")) as made:
        yield made


@pytest.fixture
def stage(target: Target, tmp_path: Path) -> Iterator[Stage]:
    context, ca = door_tls(tmp_path / "tls")
    with leased(target) as login, running_door(Stage(target, login, ca), context) as running:
        yield running


def test_psql_runs_statements_and_each_is_recorded(stage: Stage) -> None:
    done = stage.psql("-c", "SELECT count(*) FROM orders", "-c", "SELECT id FROM orders ORDER BY id LIMIT 3")
    assert (done.returncode, done.stdout) == (0, "2000\n1\n2\n3\n"), done.stderr
    assert stage.end_of() is EndReason.CLIENT_CLOSED
    assert stage.statements() == ["SELECT count(*) FROM orders", "SELECT id FROM orders ORDER BY id LIMIT 3"]
    first, second = stage.recording().of("result")
    assert (second["n"], second["tag"], second["rows"], second["sqlstate"]) == (2, "SELECT 3", 3, "")
    assert (first["returned"], first["state"]) == (1, "done")
    assert first["ms"] > 0


def test_the_session_runs_as_the_group_under_the_ephemeral_role(stage: Stage) -> None:
    with stage.connect() as session:
        who = session.execute("SELECT session_user, current_user").fetchone()
    assert who == (stage.login.role, stage.target.levels["read"].account)


def test_an_error_reaches_the_client_and_the_record(stage: Stage) -> None:
    done = stage.psql("-c", "SELECT 1/0")
    assert done.returncode == 1
    assert "division by zero" in done.stderr
    assert stage.end_of() is EndReason.CLIENT_CLOSED
    (result,) = stage.recording().of("result")
    assert (result["sqlstate"], result["state"]) == ("22012", "failed")


def test_startup_parameters_are_relayed_and_recorded(stage: Stage) -> None:
    with stage.connect(
        application_name="dbeaver", options="-c statement_timeout=4321 -c DateStyle=SQL,\\ DMY"
    ) as session:
        row = session.execute(
            "SELECT current_setting('application_name'), current_setting('statement_timeout'), current_setting('DateStyle')"
        ).fetchone()
    assert row == ("dbeaver", "4321ms", "SQL, DMY")
    (startup,) = stage.recording().of("startup")
    assert startup["parameters"]["application_name"] == "dbeaver"
    assert startup["tls"].startswith("TLSv1.")


@pytest.mark.parametrize(
    "parameters",
    [
        {"options": "-c role=postgres"},
        {"options": "-crole=postgres"},
        {"options": "--session-authorization=postgres"},
        {"options": "-c ROLE=postgres"},
        {"options": "-c work_mem=1MB -c r\\ole=postgres"},
    ],
)
def test_a_parameter_that_names_an_identity_is_refused(stage: Stage, parameters: dict[str, str]) -> None:
    with pytest.raises(psycopg.OperationalError, match="not accepted here"):
        stage.connect(**parameters)
    assert stage.opened == []
    assert stage.denied == [("oncall", "startup-parameter")]


def test_more_connections_than_the_level_allows_say_what_to_do(target: Target, tmp_path: Path) -> None:
    context, ca = door_tls(tmp_path / "tls")
    one = replace(target, levels={"read": replace(target.levels["read"], connection_limit=1)})
    with leased(one, "gw_one") as login, running_door(Stage(one, login, ca), context) as stage:
        with stage.connect(), pytest.raises(psycopg.OperationalError, match="too many connections for role") as no:
            stage.connect()
        assert "Close another connection first" in str(no.value)


def test_a_wrong_ticket_is_refused_with_a_hint(stage: Stage) -> None:
    with pytest.raises(psycopg.OperationalError, match="This ticket is not valid") as caught:
        psycopg.connect(stage.url().replace("ticket-for-tests", "wrong"))
    assert "gw connect prints a new one" in str(caught.value)
    assert stage.opened == []


def test_a_refusal_says_what_is_missing_and_what_to_do(stage: Stage) -> None:
    stage.refusal = Refusal("grant-expired", "Your grant is expired.", ("an active grant",), ("gw request orders-db",))
    done = stage.psql("-c", "SELECT 1")
    assert done.returncode == 2
    assert "FATAL:  Your grant is expired." in done.stderr
    assert "Missing: an active grant." in done.stderr
    assert "gw request orders-db" in done.stderr


def test_plaintext_is_refused(stage: Stage) -> None:
    with pytest.raises(psycopg.OperationalError, match="TLS only"):
        stage.connect(sslmode="disable")


def test_tls_from_the_first_byte(stage: Stage) -> None:
    with stage.connect(sslnegotiation="direct") as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_protocol_3_2_gets_a_long_cancel_key(stage: Stage) -> None:
    with stage.connect(max_protocol_version="3.2") as session:
        assert session.pgconn.parameter_status(b"server_version") is not None
        with pytest.raises(psycopg.errors.QueryCanceled):
            cancel_while_sleeping(session)


def cancel_while_sleeping(session: psycopg.Connection[tuple[object, ...]]) -> None:
    def cancel() -> None:
        session.cancel_safe(timeout=WITHIN)

    timer = threading.Timer(0.3, cancel)
    timer.start()
    try:
        session.execute("SELECT pg_sleep(30)")
    finally:
        timer.join()


def test_cancel_stops_the_statement_and_nothing_else(stage: Stage) -> None:
    with stage.connect() as session, stage.connect() as other:
        with pytest.raises(psycopg.errors.QueryCanceled):
            cancel_while_sleeping(session)
        assert session.execute("SELECT 1").fetchone() == (1,)
        assert other.execute("SELECT 2").fetchone() == (2,)
    assert stage.recording(0).of("result")[0]["sqlstate"] == "57014"


def test_copy_both_ways(stage: Stage) -> None:
    row = "x" * 1000 + "\n"
    lines = 20_000
    with stage.connect() as session:
        session.execute("CREATE TEMP TABLE bulk (line text)")
        with session.cursor().copy("COPY bulk FROM STDIN") as copy:
            for _ in range(lines // 100):
                copy.write(row * 100)
        assert session.execute("SELECT count(*), sum(length(line)) FROM bulk").fetchone() == (lines, lines * 1000)
        size, digest = 0, blake3()
        with session.cursor().copy("COPY bulk TO STDOUT") as copy:
            for block in copy:
                size += len(block)
                digest.update(block)
    assert size == lines * len(row)
    results = {each["tag"]: each for each in stage.recording().of("result") if each["tag"].startswith("COPY")}
    taken, given = [each for each in stage.recording().of("result") if each["tag"] == f"COPY {lines}"]
    assert results
    assert (taken["bytes_in"] >= size, taken["rows"]) == (True, lines)
    assert (given["bytes"] >= size, given["rows"]) == (True, lines)
    assert taken["blake3_in"] == given["blake3"] == digest.hexdigest() == blake3(row.encode() * lines).hexdigest()


def test_a_failed_copy_leaves_the_session_usable(stage: Stage) -> None:
    with stage.connect() as session:
        session.execute("CREATE TEMP TABLE numbers (n int)")
        with (
            pytest.raises(psycopg.errors.InvalidTextRepresentation),
            session.cursor().copy("COPY numbers FROM STDIN") as copy,
        ):
            copy.write("no number\n")
        assert session.execute("SELECT 1").fetchone() == (1,)
    assert [each["sqlstate"] for each in stage.recording().of("result")] == ["", "22P02", ""]


def test_pipelined_and_prepared_statements(stage: Stage) -> None:
    with stage.connect() as session:
        with session.pipeline():
            cursors = [session.execute("SELECT %s::int", (n,), prepare=True) for n in range(50)]
            assert [cursor.fetchone() for cursor in cursors] == [(n,) for n in range(50)]
        with pytest.raises(psycopg.errors.UndefinedTable):
            fail_in_pipeline(session)
        assert session.execute("SELECT 1").fetchone() == (1,)
    texts = stage.statements()
    assert texts.count("SELECT $1::int") == 50
    results = {each["n"]: each for each in stage.recording().of("result")}
    attempts = stage.recording().of("statement")
    (failed,) = [each["n"] for each in attempts if each["sql"].startswith("SELECT * FROM nowhere")]
    assert results[failed]["sqlstate"] == "42P01"
    assert len(results) == len({each["n"] for each in attempts})


def test_parameters_are_recorded(stage: Stage) -> None:
    with stage.connect() as session:
        assert session.execute("SELECT %s::text, %b::int", ("needle", 7)).fetchone() == ("needle", 7)
    (told,) = stage.recording().of("statement")
    assert told["params"][0] == "needle"
    assert told["params"][1]["length"] == len(bytes.fromhex(told["params"][1]["hex"]))


@pytest.mark.parametrize("policy", [BindParameters.MASKED, BindParameters.NONE])
@pytest.mark.parametrize("record", [Record.SPOOL, Record.REQUIRE])
def test_no_trace_of_parameters_that_a_level_hides(stage: Stage, policy: BindParameters, record: Record) -> None:
    level = replace(stage.target.levels["read"], bind_parameters=policy)
    stage.target = replace(stage.target, levels={"read": level})
    stage.record = record
    with stage.connect() as session:
        assert session.execute("SELECT %s::text, %b::int", ("needle", 7)).fetchone() == ("needle", 7)
        session.execute("SELECT %s::text", ("needle" * 100,), prepare=True)
        with session.pipeline():
            session.execute("SELECT %s::text, 2", ("needle",))
            session.execute("SELECT %s::text, 3", ("needle",))
    assert stage.recording().of("startup")[0]["bind_parameters"] == policy.value
    whole = repr(stage.recording().records)
    assert "needle" not in whole
    assert b"needle".hex() not in whole
    assert sha256(b"needle").hexdigest() not in whole
    assert stage.statements()[0] == "SELECT $1::text, $2::int"


def fail_in_pipeline(session: psycopg.Connection[tuple[object, ...]]) -> None:
    with session.pipeline():
        session.execute("SELECT 1 WHERE %s", (True,))
        session.execute("SELECT * FROM nowhere WHERE %s", (True,))


def test_a_server_side_cursor(stage: Stage) -> None:
    with stage.connect(autocommit=False) as session, session.cursor(name="walk") as cursor:
        cursor.itersize = 100
        cursor.execute("SELECT id FROM orders ORDER BY id")
        assert sum(1 for _ in cursor) == 2000


def test_notices_and_notifications(stage: Stage) -> None:
    heard: list[str] = []
    with stage.connect() as session:
        session.add_notice_handler(lambda notice: heard.append(str(notice.message_primary)))
        session.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
        session.execute("LISTEN news")
        session.execute("NOTIFY news, 'flash'")
        (notification,) = session.notifies(timeout=WITHIN, stop_after=1)
    assert heard == ["hello"]
    assert (notification.channel, notification.payload) == ("news", "flash")


def test_pgbench_in_every_query_mode(stage: Stage) -> None:
    script = stage.ca_file.parent / "one.sql"
    script.write_text("\\set id random(1, 2000)\nSELECT note FROM orders WHERE id = :id;\n")
    for mode in ("simple", "extended", "prepared"):
        command = ["pgbench", "-n", "-c", "4", "-t", "50", "-M", mode, "-f", str(script), stage.url()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ))
        assert "number of transactions actually processed: 200/200" in done.stdout, done.stderr
    with stage.changed:
        assert stage.changed.wait_for(lambda: len(stage.ends) == len(stage.opened), WITHIN)
    told = [each for n in range(len(stage.opened)) for each in stage.statements(n) if "note" in each]
    assert len(told) == 600


def test_termination_cuts_a_running_statement_and_says_why(stage: Stage, postgres_server: PostgresServer) -> None:
    with stage.connect() as session:
        killer = threading.Timer(0.3, lambda: stage.live.terminate("ses_0", EndReason.GRANT_REVOKED, "by lead"))
        killer.start()
        with pytest.raises(psycopg.OperationalError, match=r"Your grant was revoked.*by lead"):
            session.execute("SELECT pg_sleep(60)")
        killer.join()
        assert session.closed
    assert stage.end_of() is EndReason.GRANT_REVOKED
    wait_until_idle(postgres_server, stage.login.role)  # it was cancelled, not only cut off


def test_termination_in_the_middle_of_a_large_result(stage: Stage) -> None:
    with stage.connect() as session, session.cursor() as cursor:
        rows = cursor.stream("SELECT repeat('y', 100000) FROM generate_series(1, 5000)")
        next(rows)
        stage.live.terminate("ses_0", EndReason.KILLED, "")
        with pytest.raises(psycopg.OperationalError):
            for _ in rows:
                pass
    assert stage.end_of() is EndReason.KILLED


def test_an_idle_session_is_told_too(stage: Stage) -> None:
    with stage.connect() as session:
        stage.live.terminate("ses_0", EndReason.GRANT_EXPIRED, "")
        assert stage.end_of() is EndReason.GRANT_EXPIRED
        with pytest.raises(psycopg.OperationalError, match="Your grant has ended"):
            session.execute("SELECT 1")


def test_a_warning_is_a_notice(stage: Stage) -> None:
    heard: list[str] = []
    with stage.connect() as session:
        session.add_notice_handler(lambda notice: heard.append(str(notice.message_primary)))
        stage.live.warn("ses_0", "Your grant ends in 5 minutes.")
        session.execute("SELECT 1")
        session.execute("SELECT 1")
    assert heard == ["Your grant ends in 5 minutes."]


def test_required_recording_holds_a_statement_until_its_record_is_durable(stage: Stage) -> None:
    stage.record, stage.is_slow = Record.REQUIRE, True
    with stage.connect() as session:
        recording = stage.recording()
        asked = threading.Thread(target=lambda: session.execute("CREATE TABLE made_under_require (x int)"))
        asked.start()
        recording.wait(lambda: len(recording.waiting) == 1)
        seq, release = recording.waiting[0]
        assert recording.records[seq][0] == "statement"
        assert recording.of("result") == []
        release(True)
        asked.join(WITHIN)
        recording.is_slow = False
        session.execute("DROP TABLE made_under_require")
    recording.wait(lambda: [each["tag"] for each in recording.of("result")] == ["CREATE TABLE", "DROP TABLE"])


def test_a_record_that_cannot_be_made_durable_ends_the_session_unexecuted(stage: Stage) -> None:
    stage.record, stage.is_slow = Record.REQUIRE, True
    with stage.connect() as session:
        recording = stage.recording()

        def fail() -> None:
            recording.wait(lambda: len(recording.waiting) == 1)
            recording.waiting[0][1](False)

        failing = threading.Thread(target=fail)
        failing.start()
        with pytest.raises(psycopg.OperationalError, match="can no longer be recorded"):
            session.execute("CREATE TABLE never_made (x int)")
        failing.join(WITHIN)
    assert stage.end_of() is EndReason.RECORDING_FAILED
    stage.is_slow = False
    with stage.connect() as session:
        assert session.execute("SELECT to_regclass('never_made')").fetchone() == (None,)


def ask_on(session: psycopg.Connection) -> None:
    """Statements may be through before the recorder is asked."""
    for _ in range(100_000):
        session.execute("SELECT 1")


def test_a_failing_recorder_ends_the_session(stage: Stage) -> None:
    with stage.connect() as session:
        stage.recording().fails = True
        with pytest.raises(psycopg.OperationalError, match="can no longer be recorded"):
            ask_on(session)
    assert stage.end_of() is EndReason.RECORDING_FAILED


def test_a_client_that_vanishes_leaves_nothing_running(stage: Stage, postgres_server: PostgresServer) -> None:
    session = stage.connect()
    session.pgconn.send_query(b"SELECT pg_sleep(60)")
    recording = stage.recording()
    recording.wait(lambda: len(recording.of("statement")) == 1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, session.fileno())  # gone without a Terminate
    os.close(nothing)
    assert stage.end_of() is EndReason.CLIENT_CLOSED
    assert recording.of("result")[0]["state"] == "unknown"
    wait_until_idle(postgres_server, stage.login.role)
    session.close()


def test_answers_after_a_goodbye_are_recorded(stage: Stage) -> None:
    session = stage.connect()
    session.pgconn.send_query(b"SELECT pg_sleep(0.3)")
    session.pgconn.finish()  # sends Terminate and closes without reading
    assert stage.end_of() is EndReason.CLIENT_CLOSED
    assert stage.recording().of("result")[0]["tag"] == "SELECT 1"


def wait_until_idle(server: PostgresServer, role: str) -> None:
    busy = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND state = 'active'"
    pause, tries = threading.Event(), 0
    with psycopg.connect(server.url(), autocommit=True) as admin:
        while (admin.execute(busy, (role,)).fetchone() or (0,))[0]:
            tries += 1
            assert tries < 300
            pause.wait(0.05)


def test_the_door_closes_with_a_word_to_everybody(target: Target, tmp_path: Path) -> None:
    context, ca = door_tls(tmp_path / "tls")
    with leased(target, "gw_closing") as login:
        with running_door(Stage(target, login, ca), context) as stage:
            session = stage.connect()
        with pytest.raises(psycopg.OperationalError, match="The gateway is stopping"):
            session.execute("SELECT 1")
        session.close()
        assert stage.end_of() is EndReason.GATEWAY_STOPPED
