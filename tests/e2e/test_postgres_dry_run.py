# ruff: noqa: PT012 - what raises is a whole pipeline
"""A level with a dry-run, with real clients and a real server: nothing is committed without a yes to just that."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gateway.adapters.postgres_parser import PostgresParser
from gateway.app.commit_ports import Asking, Told
from gateway.core.bind_parameters import BindParameters
from gateway.core.budget import Budget, Room
from gateway.core.dry_run import Confirm, DryRun
from gateway.core.errors import Refusal, Unavailable
from gateway.core.masking import ColumnName, Mask
from gateway.core.obligation import Record
from gateway.core.session import EndReason, Session
from gateway.core.session_settings import Asked
from gateway.core.statement_rules import StatementRules
from gateway.core.target import Target
from gateway.edges.proxy.postgres_keeper import Doorkeeper
from gateway.wire.postgres_messages import message
from tests.e2e.postgres_stage import WITHIN, Stage, database, door_tls, leased, running_door
from tests.e2e.postgres_wire import signed_in
from tests.e2e.test_ssh_clients import until
from tests.servers import PostgresServer

Outside = psycopg.errors.InsufficientPrivilege
Held = psycopg.errors.ObjectNotInPrerequisiteState
MADE = """
    CREATE TABLE things (id int PRIMARY KEY, state text);
    CREATE TABLE customers (id int, email text);
    INSERT INTO customers VALUES (1, 'ada.lovelace@secret.example');
    CREATE TABLE late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);
    CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN INSERT INTO things VALUES (77, ''call''); COMMIT; END';
    CREATE FUNCTION write_it() RETURNS int LANGUAGE sql AS 'INSERT INTO things VALUES (88, ''f'') RETURNING id';
"""
DRY = DryRun(Confirm.SELF, ("write_*",))


@dataclass
class DryStage(Stage):
    """`yes`: marks that somebody has confirmed; `no` ones refused; `asked` what the door asked about."""

    events: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    asked: list[Asking] = field(default_factory=list)
    ended: list[tuple[int, str]] = field(default_factory=list)
    yes: set[str] = field(default_factory=set)
    no: set[str] = field(default_factory=set)
    fails: Callable[[], object] | None = None
    outages: int = 0  # how often an end cannot be stored
    admin_url: str = ""

    def kept(self) -> list[int]:
        """What is committed, seen by somebody else."""
        with psycopg.connect(self.admin_url) as admin:
            return [row[0] for row in admin.execute("SELECT id FROM things ORDER BY id")]

    def keeper(self) -> Doorkeeper:
        return replace(
            super().keeper(),
            reader=PostgresParser(),
            note=self._note,
            ask_commit=self._ask,
            end_held=self._ended,
            mask_key=bytes(32),
        )

    def _note(self, session: Session, type: str, data: Mapping[str, object]) -> None:
        with self.changed:
            self.events.append((type, data))
            self.changed.notify_all()

    def _ask(self, session: Session, asking: Asking) -> Told:
        if self.fails is not None:
            self.fails()
        with self.changed:
            self.asked.append(asking)
            return Told(asking.mark in self.yes, asking.mark in self.no, "lead", "because")

    def _ended(self, session: Session, tx: int, outcome: str) -> None:
        with self.changed:
            if self.outages:
                self.outages -= 1
                raise Unavailable(Refusal("store", "The store is away."))
            self.ended.append((tx, outcome))
            self.changed.notify_all()

    def agree(self) -> None:
        self.yes.add(self.asked[-1].mark)

    def wait_ended(self, *ended: tuple[int, str]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.ended == list(ended), WITHIN), self.ended


@pytest.fixture(scope="module")
def target(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with database(postgres_server, tmp_path_factory.mktemp("target")) as made:
        group = made.levels["read"].account
        postgres_server.execute(MADE, made.database)
        postgres_server.execute(f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{group}"', made.database)
        postgres_server.execute(f'GRANT CREATE ON SCHEMA public TO "{group}"', made.database)
        yield made


@pytest.fixture
def stage(
    request: pytest.FixtureRequest, target: Target, tmp_path: Path, postgres_server: PostgresServer
) -> Iterator[DryStage]:
    changes: dict[str, Any] = {"dry_run": DRY, **getattr(request, "param", {})}
    record = changes.pop("record", Record.SPOOL)
    made = replace(target, levels={"read": replace(target.levels["read"], **changes)})
    postgres_server.execute("TRUNCATE things, late", target.database)
    context, ca = door_tls(tmp_path / "tls")
    with leased(made) as login, running_door(DryStage(made, login, ca, record), context) as running:
        assert isinstance(running, DryStage)
        running.admin_url = postgres_server.url(target.database)
        yield running


# ------------------------------------------------------------ the way it is meant


def test_a_transaction_is_held_looked_at_confirmed_and_committed(stage: DryStage) -> None:
    with stage.connect() as session:
        session.execute("BEGIN")
        session.execute("INSERT INTO things VALUES (1, 'a'), (2, 'b')")
        session.execute("UPDATE things SET state = %s WHERE id > %s", ("c", 0))
        with pytest.raises(Held, match="Held by the gateway: transaction 1 has written: 2 statements, 4 rows") as held:
            session.execute("COMMIT")
        assert held.value.diag.message_detail == (
            "1. INSERT 0 2: INSERT INTO things VALUES (1, 'a'), (2, 'b')\n"
            '2. UPDATE 2: UPDATE things SET state = $1 WHERE id > $2 -- $1 = "c", $2 = \\x0000'
        )
        assert "gw session commit ses_0 (by you)" in (held.value.diag.message_hint or "")
        assert session.info.transaction_status.name == "INTRANS"
        assert session.execute("SELECT count(*) FROM things").fetchone() == (2,)
        assert stage.kept() == []
        with pytest.raises(Held):
            session.execute("COMMIT")
        assert len({asking.mark for asking in stage.asked}) == 1
        stage.agree()
        session.execute("COMMIT")
        assert stage.kept() == [1, 2]
        assert session.info.transaction_status.name == "IDLE"
        stage.wait_ended((1, "committed"))
        with pytest.raises(Outside, match="A write comes in a transaction"):
            session.execute("DELETE FROM things WHERE id = 1")
    results = [(r["tag"], r["sqlstate"], r["state"]) for r in stage.recording().of("result")]
    assert results[3:] == [
        ("", "55000", "failed"), ("SELECT 1", "", "done"), ("", "55000", "failed"), ("COMMIT", "", "done"),
        ("", "42501", "failed"),
    ]  # fmt: skip
    assert stage.recording().of("transaction") == [{"tx": 1, "outcome": "committed", "n": 7}]
    with stage.changed:  # a worker stores them
        assert stage.changed.wait_for(lambda: [each for each, _ in stage.events] == ["statement:refused"], WITHIN)


def test_how_it_ended_is_told_once_the_store_is_back(stage: DryStage) -> None:
    stage.outages = 2
    with stage.connect() as session:
        session.execute("BEGIN; INSERT INTO things VALUES (1)")
        with pytest.raises(Held):
            session.execute("COMMIT")
        stage.agree()
        session.execute("COMMIT")
        stage.wait_ended((1, "committed"))
    assert stage.outages == 0


def test_a_yes_is_for_what_was_written_until_then(stage: DryStage) -> None:
    with stage.connect() as session:
        session.execute("BEGIN")
        session.execute("INSERT INTO things VALUES (1)")
        with pytest.raises(Held):
            session.execute("COMMIT")
        stage.agree()
        session.execute("INSERT INTO things VALUES (2)")
        with pytest.raises(Held, match="2 statements, 2 rows"):
            session.execute("COMMIT")
        assert stage.kept() == []
        stage.agree()
        session.execute("SELECT 1")
        session.execute("COMMIT")
        assert stage.kept() == [1, 2]
        session.execute("BEGIN; INSERT INTO things VALUES (3)")
        with pytest.raises(Held, match="transaction 2"):
            session.execute("COMMIT")
        session.execute("ROLLBACK")
        assert stage.kept() == [1, 2]
    stage.wait_ended((1, "committed"), (2, "rolled-back"))


def test_a_no_leaves_rollback(stage: DryStage) -> None:
    with stage.connect() as session:
        session.execute("BEGIN; INSERT INTO things VALUES (1)")
        with pytest.raises(Held):
            session.execute("COMMIT")
        stage.no.add(stage.asked[-1].mark)
        with pytest.raises(Held, match="Refused by lead: because") as refused:
            session.execute("COMMIT")
        assert refused.value.diag.message_hint == "Only ROLLBACK is left."
        session.execute("ROLLBACK")
    assert stage.kept() == []


def test_what_writes_nothing_needs_nobody(stage: DryStage) -> None:
    with stage.connect(autocommit=False) as session:
        session.execute("SELECT count(*) FROM things")
        session.commit()
        session.execute("SET LOCAL work_mem = '8MB'")
        session.execute("SAVEPOINT a")
        session.execute("ROLLBACK TO a")
        session.commit()
        session.execute("CREATE TEMP TABLE t AS SELECT 1")
        session.rollback()
    assert stage.asked == []


@pytest.mark.parametrize("why", [TimeoutError, RuntimeError])
def test_when_nobody_knows_it_stays_held(stage: DryStage, why: type[Exception]) -> None:
    def fail() -> None:
        raise why

    with stage.connect() as session:
        session.execute("BEGIN; INSERT INTO things VALUES (1)")
        stage.fails = fail
        with pytest.raises(Held, match="nobody could say if there is one"):
            session.execute("COMMIT")
        with pytest.raises(Held, match="nobody could say if there is one"), session.pipeline():
            session.execute("INSERT INTO things VALUES (2)")
            session.execute("COMMIT")
        stage.fails = None
        with pytest.raises(Held):
            session.execute("COMMIT")
        stage.agree()
        session.execute("COMMIT")
    assert stage.kept() == [1, 2]


def test_a_commit_that_fails_is_no_commit(stage: DryStage) -> None:
    with stage.connect() as session:
        session.execute("BEGIN; INSERT INTO late VALUES (1), (1)")
        with pytest.raises(Held):
            session.execute("COMMIT")
        stage.agree()
        with pytest.raises(psycopg.errors.UniqueViolation):
            session.execute("COMMIT")
        assert session.info.transaction_status.name == "IDLE"
    stage.wait_ended((1, "rolled-back"))


def test_what_is_held_when_the_session_ends_is_lost(stage: DryStage) -> None:
    session = stage.connect()
    session.execute("BEGIN; INSERT INTO things VALUES (1)")
    with pytest.raises(Held):
        session.execute("COMMIT")
    session.close()
    stage.wait_ended((1, "lost"))
    assert stage.kept() == []


def test_what_is_asked_while_the_session_ends_is_stored_before_its_end(stage: DryStage) -> None:
    """Else nothing would ever take away what is held, with its statements."""
    reached, release = threading.Event(), threading.Event()
    stage.fails = lambda: (reached.set(), release.wait(WITHIN))
    session = stage.connect()
    session.execute("BEGIN; INSERT INTO things VALUES (1)")
    session.pgconn.send_query(b"COMMIT")
    session.pgconn.flush()
    assert reached.wait(WITHIN)
    stage.live.terminate(stage.opened[-1].session.id, EndReason.KILLED)
    assert stage.end_of() is EndReason.KILLED
    assert (stage.asked, stage.ended) == ([], [])
    session.close()
    release.set()
    stage.wait_ended((1, "lost"))
    assert len(stage.asked) == 1


@pytest.mark.parametrize("stage", [{"idle_in_transaction_timeout": timedelta(seconds=1)}], indirect=True)
def test_what_is_held_for_longer_than_the_level_allows_is_lost(stage: DryStage) -> None:
    with stage.connect() as session:
        session.execute("BEGIN; INSERT INTO things VALUES (1)")
        with pytest.raises(Held):
            session.execute("COMMIT")
        stage.agree()
        stage.wait_ended((1, "lost"))
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
            session.execute("COMMIT")
    assert stage.kept() == []


@pytest.mark.parametrize("stage", [{"budget": Budget(Room(rows=10), Room())}], indirect=True)
def test_a_cut_statement_does_not_take_the_next_with_it(stage: DryStage) -> None:
    with signed_in(stage) as client:
        texts = [b"BEGIN", b"INSERT INTO things VALUES (1)", b"SAVEPOINT s", b"SELECT generate_series(1, 10000000)"]
        texts += [b"ROLLBACK TO s", b"SELECT 'next'", b"COMMIT"]
        client.sendall(b"".join(message(b"Q", text + b"\0") for text in texts))
        said = b""
        while b"C55000\0" not in said:
            said += client.recv(65536)
        assert said.index(b"C53400\0") < said.index(b"ROLLBACK\0") < said.index(b"next")
        assert b"C57014\0" not in said
    assert stage.kept() == []


@pytest.mark.parametrize(
    ("stage", "shown"),
    [
        ({"bind_parameters": BindParameters.FULL}, ['-- $1 = "secret", $2 = "1"', "too long to be shown"]),
        ({"bind_parameters": BindParameters.MASKED}, ["$1 = 6 bytes (keyed ", "too long to be shown"]),
        ({"bind_parameters": BindParameters.NONE}, ["-- 2 values that are not shown", "too long to be shown"]),
    ],
    indirect=["stage"],
    ids=["full", "masked", "none"],
)
def test_values_are_shown_as_far_as_recordings_may_hold_them(stage: DryStage, shown: list[str]) -> None:
    with stage.connect(autocommit=False) as session:
        session.execute("INSERT INTO things VALUES (1)")
        update = "UPDATE things SET state = %s WHERE id = %s"
        session.execute(update, ("secret", "1"))
        session.execute(update, ("x" * 30_000, "1"))
        with pytest.raises(Held) as held:
            session.commit()
        lines = (held.value.diag.message_detail or "").split("\n")[1:]
        assert all(what in line for what, line in zip(shown, lines, strict=True)), lines
        assert ("secret" in json.dumps(lines)) is ("secret" in shown[0])
        session.rollback()


# ------------------------------------------------------------ clients


def test_psql_shows_what_is_held_and_goes_on(stage: DryStage) -> None:
    script = "BEGIN;\nINSERT INTO things VALUES (1);\nCOMMIT;\nSELECT 'still ' || count(*) FROM things;\nROLLBACK;\n"
    told = stage.psql("-v", "ON_ERROR_STOP=0", stdin=script)
    assert "ERROR:  Held by the gateway: transaction 1 has written: 1 statement, 1 row." in told.stderr
    assert "DETAIL:  1. INSERT 0 1: INSERT INTO things VALUES (1)" in told.stderr
    assert "still 1" in told.stdout
    for args in (("-c", "INSERT INTO things VALUES (2)"), ("-1", "-c", "INSERT INTO things VALUES (2)")):
        told = stage.psql(*args)
        assert told.returncode, told.stdout
    copied = stage.psql("-v", "ON_ERROR_STOP=0", stdin="BEGIN;\nCOPY things FROM STDIN;\n5\tx\n6\ty\n\\.\nCOMMIT;\n")
    assert "1. COPY 2: COPY things FROM STDIN" in copied.stderr
    assert stage.kept() == []


def test_the_transaction_block_of_psycopg(stage: DryStage) -> None:
    with stage.connect() as session:
        with pytest.raises(Held), session.transaction():
            session.execute("INSERT INTO things VALUES (1)")
        stage.agree()
        session.commit()
        assert stage.kept() == [1]


def test_pipelines(stage: DryStage) -> None:
    with stage.connect(autocommit=False) as session:
        with pytest.raises(Held, match="2 statements, 3 rows"), session.pipeline():
            session.execute("INSERT INTO things VALUES (1), (2)")
            session.execute("UPDATE things SET state = 'x' WHERE id = %s", (1,))
            session.commit()
        assert session.info.transaction_status.name == "INTRANS"
        stage.agree()
        with session.pipeline():
            session.commit()
        assert stage.kept() == [1, 2]
    with stage.connect() as session:
        with pytest.raises(Outside), session.pipeline():
            session.execute("SELECT 1")
            session.execute("INSERT INTO things VALUES (3)")
        with pytest.raises(psycopg.errors.DivisionByZero), session.pipeline() as pipeline:
            session.execute("BEGIN")
            session.execute("INSERT INTO things VALUES (4)")
            session.execute("SELECT 1/0")
            session.execute("COMMIT")
            pipeline.sync()
        session.execute("ROLLBACK")
    assert stage.kept() == [1, 2]


def test_many_messages_at_once_wait_for_their_turn(stage: DryStage) -> None:
    with signed_in(stage) as client:
        texts = [b"BEGIN", b"INSERT INTO things VALUES (1)", b"COMMIT", b"INSERT INTO things VALUES (2)", b"ROLLBACK"]
        client.sendall(b"".join(message(b"Q", text + b"\0") for text in texts) + message(b"Q", b"SELECT 'end'\0"))
        said = b""
        while b"SELECT 1\0" not in said:
            said += client.recv(65536)
        assert said.count(b"INSERT 0 1\0") == 2
        assert said.count(b"C55000\0") == 1
    assert stage.kept() == []


# ------------------------------------------------------------ ways around


WAYS = [
    "INSERT INTO things VALUES (1)",
    "BEGIN; INSERT INTO things VALUES (1); COMMIT",
    "BEGIN; INSERT INTO things VALUES (1); END",
    "BEGIN; INSERT INTO things VALUES (1); COMMIT AND CHAIN",
    "BEGIN; INSERT INTO things VALUES (1); PREPARE TRANSACTION 'x'",
    "SELECT 1; INSERT INTO things VALUES (1)",
    "COMMIT; INSERT INTO things VALUES (1)",
    "BEGIN; SELECT 1; COMMIT; INSERT INTO things VALUES (1)",
    "BEGIN; ROLLBACK; INSERT INTO things VALUES (1)",
    "WITH w AS (INSERT INTO things VALUES (1) RETURNING id) SELECT * FROM w",
    "EXPLAIN ANALYZE INSERT INTO things VALUES (1)",
    "COPY (INSERT INTO things VALUES (1) RETURNING id) TO STDOUT",
    "SELECT 1 AS id INTO made",
    "CREATE TABLE made AS SELECT 1 AS id",
    "DO 'BEGIN INSERT INTO things VALUES (1); END'",
    "CALL commits()",
    "BEGIN; CALL commits(); COMMIT",
    "SELECT write_it()",
    "SELECT nextval('x')",
    "SELECT lo_creat(-1)",
    "NOTIFY x",
    "VACUUM things",
    "BEGIN; VACUUM things",
    "CREATE INDEX CONCURRENTLY i ON things (state)",
    "REINDEX TABLE CONCURRENTLY things",
    "CREATE DATABASE other",
    "COMMIT PREPARED 'x'",
    "TRUNCATE things",
    "EXECUTE nothing",
    "INSERT INTO things VALUES (1) this is no SQL",
    "SET client_encoding = 'SJIS'",
    "SELECT 'it\\'; INSERT INTO things VALUES (1); --'",
]


@pytest.mark.parametrize("sql", WAYS)
@pytest.mark.parametrize("params", [None, ()], ids=["simple", "extended"])
def test_no_text_of_its_own_commits_a_write(stage: DryStage, sql: str, params: tuple[()] | None) -> None:
    with stage.connect() as session:
        with pytest.raises(psycopg.Error) as refused:
            session.execute(sql.encode(), params)
        assert refused.value.sqlstate in ("42501", "42601")  # 42601: the server takes one statement at a time there
        assert session.execute("SELECT 1").fetchone() == (1,)
        assert session.info.transaction_status.name == "IDLE"
    assert stage.kept() == []
    with psycopg.connect(stage.admin_url) as admin:
        assert admin.execute("SELECT to_regclass('made')").fetchone() == (None,)


def test_prepared_statements_and_portals_are_judged_when_they_run(stage: DryStage) -> None:
    with stage.connect() as session:
        session.prepare_threshold = 0
        insert, commit = "INSERT INTO things VALUES (%s)", b"COMMIT"
        session.execute("BEGIN")
        session.execute(insert, (1,), prepare=True)
        with pytest.raises(Held):
            session.execute(commit, prepare=True)
        stage.agree()
        session.execute(commit, prepare=True)
        with pytest.raises(Outside):
            session.execute(insert, (2,), prepare=True)
        session.execute("BEGIN")
        session.execute(insert, (3,), prepare=True)
        with pytest.raises(Held):
            session.execute(commit, prepare=True)
        session.execute("ROLLBACK")
        session.execute("PREPARE mine AS INSERT INTO things VALUES (4)")
        with pytest.raises(Outside):
            session.execute("EXECUTE mine")
        session.pgconn.exec_prepared(b"mine", [])
        assert b"A write comes in a transaction" in session.pgconn.exec_prepared(b"mine", []).error_message
    assert stage.kept() == [1]


def parse(name: bytes, sql: bytes) -> bytes:
    return message(b"P", name + b"\0" + sql + b"\0\0\0")


def run(name: bytes) -> bytes:
    return message(b"B", b"\0" + name + b"\0" + bytes(6)) + message(b"E", bytes(5))


def answer(client: socket.socket, asks: bytes) -> bytes:
    client.sendall(asks)
    said = b""
    while said[-6:-1] != b"Z\0\0\0\5":
        said += client.recv(65536)
    return said


def test_a_name_that_was_given_in_a_round_that_failed_may_be_either(stage: DryStage) -> None:
    sync, close = message(b"S", b""), message(b"C", b"Sa\0")
    with signed_in(stage) as client:
        assert b"E" not in answer(client, parse(b"a", b"COMMIT") + parse(b"b", b"INSERT INTO things VALUES (1)") + sync)
        renamed = close + parse(b"a", b"SELECT 1") + parse(b"b", b"SELECT 1") + run(b"a") + run(b"b")
        assert b"C22012\0" in answer(client, parse(b"", b"SELECT 1/0") + run(b"") + renamed + sync)
        assert b"C42501\0" in answer(client, run(b"b") + sync)
        answer(client, message(b"Q", b"BEGIN; INSERT INTO things VALUES (2)\0"))
        assert b"C55000\0" in answer(client, run(b"a") + sync)
        assert b"ZI" not in answer(client, message(b"Q", b"ROLLBACK\0"))
        # Once given without a failure they are what they are called.
        assert b"C55000\0" not in answer(client, close + parse(b"a", b"SELECT 1") + run(b"a") + sync)
    assert stage.kept() == []


DEFINED = b"""CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE plpgsql AS $$BEGIN
    EXECUTE 'DEALLOCATE a'; EXECUTE 'PREPARE a AS INSERT INTO things VALUES (1)'; END$$; SELECT pg_temp.f()"""
DONE = b"DO $$BEGIN EXECUTE 'DEALLOCATE a'; EXECUTE 'PREPARE a AS INSERT INTO things VALUES (1)'; END$$"


@pytest.mark.parametrize("code", [DONE, DEFINED], ids=["DO", "CREATE FUNCTION"])
def test_code_that_was_rolled_back_leaves_no_name_that_passes_for_a_read(stage: DryStage, code: bytes) -> None:
    sync = message(b"S", b"")
    with signed_in(stage) as client:
        answer(client, parse(b"a", b"SELECT 1") + sync)
        answer(client, message(b"Q", b"BEGIN\0"))
        assert b"C42501\0" not in answer(client, message(b"Q", code + b"\0"))
        answer(client, message(b"Q", b"ROLLBACK\0"))
        assert b"C42501\0" in answer(client, run(b"a") + sync)
    assert stage.kept() == []


@pytest.mark.parametrize(
    "opened",
    [
        "DECLARE k CURSOR FOR SELECT write_it()",
        "DO $$DECLARE k refcursor := 'k'; BEGIN OPEN k FOR EXECUTE 'INSERT INTO things VALUES (88) RETURNING id'; END$$",
    ],
    ids=["DECLARE", "DO"],
)
def test_what_a_cursor_writes_after_a_yes_needs_another(stage: DryStage, opened: str) -> None:
    with stage.connect() as session:
        session.execute("BEGIN")
        session.execute(opened)
        with pytest.raises(Held):
            session.execute("COMMIT")
        stage.agree()
        assert session.execute("FETCH ALL k").fetchall() == [(88,)]
        with pytest.raises(Held, match="2 statements"):
            session.execute("COMMIT")
        session.execute("ROLLBACK")
    assert stage.kept() == []


def test_what_failed_or_went_back_to_a_savepoint_is_never_taken_for_done(stage: DryStage) -> None:
    with stage.connect() as session:
        session.execute("BEGIN; INSERT INTO things VALUES (1); SAVEPOINT s")
        with pytest.raises(psycopg.errors.DivisionByZero):
            session.execute("SELECT 1/0; ROLLBACK; BEGIN")
        with pytest.raises(Outside, match="text of its own"):
            session.execute("ROLLBACK TO s; COMMIT")
        session.execute("ROLLBACK TO s")
        with pytest.raises(Held, match="2 statements, 1 row"):
            session.execute("COMMIT")
        with pytest.raises(Held):
            session.execute("END")
        with pytest.raises(Held):
            session.execute("COMMIT AND CHAIN")
        with pytest.raises(psycopg.errors.DivisionByZero):
            session.execute("SELECT 1/0")
        session.execute("COMMIT")  # of a failed transaction: the server rolls back
        assert session.info.transaction_status.name == "IDLE"
        session.execute("BEGIN; INSERT INTO things VALUES (2)")
        session.execute("ROLLBACK AND CHAIN")
        session.execute("COMMIT")
        with pytest.raises(Outside):
            session.execute("INSERT INTO things VALUES (3)")
        session.execute("BEGIN; INSERT INTO things VALUES (4)")
        with pytest.raises(Outside, match="elsewhere"):
            session.execute("PREPARE TRANSACTION 'x'")
        session.execute("ROLLBACK")
    assert stage.kept() == []


def test_copy_in_the_extended_protocol_is_refused(stage: DryStage) -> None:
    with stage.connect() as session:
        session.execute("BEGIN")
        told = session.pgconn.exec_params(b"COPY things FROM STDIN", [])
        assert b"simple query" in told.error_message
        session.execute("ROLLBACK")
        session.execute("BEGIN")
        with session.cursor().copy("COPY things FROM STDIN") as copy:
            copy.write_row((1, "x"))
        with pytest.raises(Held, match="1 statement, 1 row"):
            session.execute("COMMIT")
        session.rollback()


def test_a_function_called_by_number_is_refused(stage: DryStage) -> None:
    with signed_in(stage) as client:
        client.sendall(message(b"F", b"\0\0\x03\xe8\0\0\0\0\0\0"))
        said = client.recv(65536)
        assert b"C42501\0" in said
    assert stage.asked == []


@pytest.mark.parametrize("behind", [b"", message(b"H", b"")])
def test_a_query_in_the_middle_of_a_round_waits_for_what_it_follows(stage: DryStage, behind: bytes) -> None:
    """As pgjdbc sends BEGIN and its own savepoint. Behind an error the server would skip the query and say nothing."""
    with signed_in(stage) as client:
        begin = parse(b"", b"BEGIN") + run(b"") + behind + message(b"Q", b"SAVEPOINT a\0")
        said = answer(client, begin + parse(b"", b"INSERT INTO things VALUES (1)") + run(b"") + message(b"S", b""))
        while b"INSERT 0 1\0" not in said:
            said += client.recv(65536)
        assert b"SAVEPOINT\0Z\0\0\0\5T" in said
        client.sendall(message(b"P", b"\0no SQL\0\0\0") + behind + message(b"Q", b"SELECT 1\0"))
        while got := client.recv(65536):
            said += got
        assert b"C08P01\0" in said
    assert stage.kept() == []


# ------------------------------------------------------------ the settings under which it was written


def under(stage: DryStage, *names: str) -> list[tuple[object, ...]]:
    """Since which statement which settings have which values, as the door last asked about them."""
    asking = stage.asked[-1]
    assert asking.changes == len(asking.under)
    return [(each.first, *(dict(each.settings).get(name) for name in names)) for each in asking.under]


def held_once(stage: DryStage, session: "psycopg.Connection[tuple[Any, ...]]") -> str:
    with pytest.raises(Held):
        session.execute("COMMIT")
    return stage.asked[-1].mark


def test_who_says_yes_is_told_what_the_names_meant(stage: DryStage) -> None:
    group = stage.target.levels["read"].account
    with stage.connect(options="-c app.start=now -c DateStyle=German") as session:
        session.execute("SET app.tenant = 'seven'")
        session.execute("BEGIN")
        session.execute("SET LOCAL search_path = pg_catalog, public")
        session.execute("INSERT INTO things VALUES (1)")
        session.execute("SELECT set_config('app.tenant', %s, false)", ("eight",))
        session.execute("SET ROLE NONE")
        held_once(stage, session)
        names = ("search_path", "app.tenant", "current_user", "session_user", "app.start", "DateStyle", "schemas")
        role = stage.login.role
        path = "pg_catalog, public"
        assert under(stage, *names) == [
            (1, path, "seven", group, role, "now", "German, DMY", path),
            (2, path, "eight", group, role, "now", "German, DMY", path),
            (2, path, "eight", role, role, "now", "German, DMY", path),
        ]
        session.execute("ROLLBACK")
    told = stage.recording().of("settings")
    assert [(each["tx"], each["settings"]["app.tenant"]) for each in told] == [(1, "seven"), (1, "eight"), (1, "eight")]


def test_a_yes_is_for_the_settings_too(stage: DryStage) -> None:
    """What is deferred to COMMIT runs under those of COMMIT."""
    with stage.connect() as session:
        session.execute("BEGIN; INSERT INTO things VALUES (1)")
        first = held_once(stage, session)
        stage.agree()
        session.execute("SELECT 1")
        session.execute("SET search_path = pg_temp")
        assert held_once(stage, session) != first
        assert [each for each, _ in under(stage, "search_path")] == [1, 2]
        assert stage.kept() == []
        stage.agree()
        session.execute("COMMIT")
    assert stage.kept() == [1]


def test_what_a_function_sets_is_known_as_well(stage: DryStage, postgres_server: PostgresServer) -> None:
    postgres_server.execute(
        "CREATE OR REPLACE FUNCTION sneaky() RETURNS text LANGUAGE sql AS "
        "$$ SELECT set_config('search_path', 'pg_temp', false) $$",
        stage.target.database,
    )
    with stage.connect() as session:
        session.execute("BEGIN")
        session.execute("INSERT INTO public.things VALUES (1)")
        session.execute("SELECT public.sneaky()")
        held_once(stage, session)
        assert under(stage, "search_path") == [(1, '"$user", public'), (2, "pg_temp")]
        session.execute("ROLLBACK")


def test_the_question_leaves_the_unnamed_statement_as_it_is(stage: DryStage) -> None:
    """pg8000 prepares it in one round, and executes it in the next ones."""
    once = run(b"") + message(b"S", b"")
    with signed_in(stage) as client:
        client.sendall(
            message(b"Q", b"BEGIN\0") + parse(b"", b"INSERT INTO things SELECT count(*) FROM things") + once * 3
        )
        said = b""
        while said.count(b"Z\0\0\0\5T") < 4:
            said += client.recv(65536)
        assert said.count(b"INSERT 0 1\0") == 3


def test_nobody_fools_the_question_by_a_search_path(stage: DryStage) -> None:
    """An operator and a view of theirs come before PostgreSQL's own."""
    with stage.connect() as session:
        session.execute("BEGIN")
        session.execute(
            "CREATE TEMP VIEW pg_settings AS SELECT 'search_path' AS name, 'public' AS setting, 'x' AS source"
        )
        session.execute("CREATE FUNCTION pg_temp.no(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false'")
        session.execute("CREATE OPERATOR pg_temp.= (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.no)")
        session.execute("CREATE DOMAIN pg_temp.text AS pg_catalog.int4")
        session.execute("SET LOCAL search_path = pg_temp, pg_catalog")
        session.execute("INSERT INTO public.things VALUES (1)")
        held_once(stage, session)
        assert under(stage, "search_path")[-1] == (5, "pg_temp, pg_catalog")
        session.execute("ROLLBACK")


def test_what_is_set_behind_a_write_in_one_round_is_refused(stage: DryStage) -> None:
    with stage.connect() as session:
        for set_it in ("SET search_path = pg_temp", "SELECT set_config('search_path', 'x', false)", "RESET ALL"):
            with pytest.raises(Outside, match="comes by itself"):
                session.execute(f"BEGIN; INSERT INTO things VALUES (1); {set_it}")
            session.execute("ROLLBACK")
            with pytest.raises(Outside, match="comes by itself"), session.pipeline():
                session.execute("BEGIN")
                session.execute("INSERT INTO things VALUES (1)")
                session.execute(set_it)
            session.execute("ROLLBACK")
        session.execute("BEGIN; SET LOCAL search_path = public; INSERT INTO things VALUES (1)")
        held_once(stage, session)
        assert under(stage, "search_path") == [(1, "public")]
        session.execute("ROLLBACK")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_in_another_encoding_answers_too(postgres_server: PostgresServer, encoding: str) -> None:
    name = f"in_{encoding.lower()}"
    postgres_server.execute(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        with psycopg.connect(postgres_server.url(name), client_encoding="UTF8") as session:
            session.execute("SELECT set_config('search_path', repeat('\u00e9', 300), false)")
            found = session.pgconn.exec_(Asked().question())
            assert found.error_message == b""
            assert dict(Asked().answer(found.get_value(0, 0) or b""))["search_path"].startswith("\u00e9" * 20)
    finally:
        postgres_server.drop_database(name)


def test_settings_in_great_number_or_length_are_told_as_such(stage: DryStage) -> None:
    with stage.connect() as session:
        for n in range(40):
            session.execute(f"SET app.n{n} = '{n}'")
        session.execute(f"SET app.n0 = '{'é' * 5000}'")
        session.execute("BEGIN; INSERT INTO things VALUES (1)")
        held_once(stage, session)
        ((_, long, last, others),) = under(stage, "app.n0", "app.n29", "(others)")
        assert str(long).startswith("é" * 200 + " ... sha256 ")
        assert (last, others) == ("29", "were set, and are not known here")
        session.execute("ROLLBACK")


def test_a_cancel_request_that_hits_the_question_fails_the_transaction_and_all_hear_of_it(stage: DryStage) -> None:
    """The question waits for a lock that somebody holds on what it reads."""
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%json_object_agg%'"
    failed: list[BaseException] = []

    def insert() -> None:
        try:
            session.execute("INSERT INTO things VALUES (1)")
        except psycopg.Error as why:
            failed.append(why)

    with (
        psycopg.connect(stage.admin_url) as admin,
        psycopg.connect(stage.admin_url, autocommit=True) as other,
        stage.connect() as session,
    ):
        session.execute("BEGIN")
        admin.execute("LOCK TABLE pg_catalog.pg_db_role_setting IN ACCESS EXCLUSIVE MODE")
        inserting = threading.Thread(target=insert)
        inserting.start()
        until(lambda: other.execute(waits).fetchone() != (0,))
        session.cancel_safe(timeout=WITHIN)
        inserting.join(WITHIN)
        admin.rollback()
        assert isinstance(failed[0], psycopg.errors.QueryCanceled)
        assert session.info.transaction_status.name == "INERROR"
        assert session.execute("COMMIT").statusmessage == "ROLLBACK"
        assert session.execute("SELECT 1").fetchone() == (1,)
    assert (stage.kept(), stage.asked) == ([], [])


# ------------------------------------------------------------ together with the rest


@pytest.mark.parametrize(
    "stage",
    [
        {"rules": StatementRules(require_where=True, forward_unparsed=True)},
        {"budget": Budget(Room(rows=100, time=timedelta(seconds=20)), Room(bytes=1 << 20))},
        {"record": Record.REQUIRE},
        {
            "masks": {ColumnName("public", "customers", "email"): Mask.FULL},
            "rules": StatementRules(require_where=True),
            "budget": Budget(Room(rows=100), Room()),
        },
    ],
    indirect=True,
    ids=["rules", "budget", "require", "masks"],
)
def test_with_rules_budgets_masks_and_a_strict_recording(stage: DryStage) -> None:
    with stage.connect() as session:
        session.execute("BEGIN")
        session.execute("INSERT INTO things SELECT g, 'x' FROM generate_series(1, 200) g")
        if stage.target.levels["read"].masks:
            assert session.execute("SELECT email FROM customers", ()).fetchone() == ("****",)
            assert session.execute("SELECT email FROM customers").fetchone() == ("****",)
        if stage.target.levels["read"].rules.require_where:
            session.execute("SAVEPOINT s")
            with pytest.raises(Outside, match="every row"):
                session.execute("DELETE FROM things")
            session.execute("ROLLBACK TO s")
        if stage.target.levels["read"].budget.statement.rows:
            session.execute("SAVEPOINT s")
            with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
                session.execute("SELECT * FROM things").fetchall()
            session.execute("ROLLBACK TO s")
        with pytest.raises(Held, match="200 rows"):
            session.execute("COMMIT")
        with pytest.raises(Held, match="201 rows"), session.pipeline():
            session.execute("UPDATE things SET state = %s WHERE id = %s", ("y", 1))
            session.execute("COMMIT")
        stage.agree()
        session.execute(b"COMMIT", (), prepare=True)
        assert len(stage.kept()) == 200
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("this is no SQL")


def test_a_slow_answer_to_a_pipeline_holds_back_what_comes_behind_and_nothing_is_read(stage: DryStage) -> None:
    release, asked = threading.Event(), threading.Event()
    stage.fails = lambda: (asked.set(), release.wait(WITHIN))
    flood = message(b"Q", b"SELECT '" + b"x" * 60_000 + b"'\0") * 200
    with signed_in(stage) as client:
        client.settimeout(1)
        rounds = [parse(b"", text) + run(b"") for text in (b"BEGIN", b"INSERT INTO things VALUES (1)", b"COMMIT")]
        client.sendall(b"".join(rounds) + message(b"S", b""))
        assert asked.wait(WITHIN)
        with pytest.raises(TimeoutError):
            for _ in range(20):
                client.sendall(flood)  # 240 MB: no buffer takes it
        release.set()
        said = b""
        while b"C55000\0" not in said:
            said += client.recv(65536)
    assert stage.kept() == []


def test_a_slow_answer_holds_back_what_comes_behind(stage: DryStage) -> None:
    release = threading.Event()
    stage.fails = lambda: release.wait(WITHIN)
    with signed_in(stage) as client:
        texts = [b"BEGIN", b"INSERT INTO things VALUES (1)", b"COMMIT", b"SELECT 'behind'", b"ROLLBACK"]
        client.sendall(b"".join(message(b"Q", text + b"\0") for text in texts))
        said = b""
        while b"INSERT 0 1\0" not in said:
            said += client.recv(65536)
        assert b"behind" not in said
        release.set()
        while b"ROLLBACK\0" not in said:
            said += client.recv(65536)
        assert said.index(b"C55000\0") < said.index(b"behind")
