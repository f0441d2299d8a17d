"""Statement rules and budgets of a level, with real clients and a real server: the session goes on, in step."""

import ctypes
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gateway.adapters.postgres_parser import PostgresParser
from gateway.core.budget import Budget, Room
from gateway.core.obligation import Record
from gateway.core.session import EndReason, Session
from gateway.core.statement_rules import StatementRules
from gateway.core.target import Target
from gateway.edges.proxy.postgres_keeper import Doorkeeper
from tests.e2e.postgres_stage import WITHIN, Stage, database, door_tls, leased, running_door
from tests.servers import PostgresServer

RULES = StatementRules(require_where=True, deny_ddl=True, deny_copy_files=True, deny_functions=("pg_sleep", "lo_*"))
ANY = Room()
Errors = psycopg.errors.InsufficientPrivilege


@dataclass
class GuardedStage(Stage):
    events: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)

    def keeper(self) -> Doorkeeper:
        return replace(super().keeper(), reader=PostgresParser(), note=self._note)

    def _note(self, session: Session, type: str, data: Mapping[str, object]) -> None:
        with self.changed:
            self.events.append((type, data))
            self.changed.notify_all()

    def told(self, count: int = 1) -> list[str]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.events) >= count, WITHIN), self.events
            return [each for each, _ in self.events]

    def results(self) -> list[tuple[str, str]]:
        return [(each["sqlstate"], each["state"]) for each in self.recording().of("result")]


@pytest.fixture(scope="module")
def target(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with database(postgres_server, tmp_path_factory.mktemp("target")) as made:
        yield made


@pytest.fixture
def stage(request: pytest.FixtureRequest, target: Target, tmp_path: Path) -> Iterator[GuardedStage]:
    changes: dict[str, Any] = getattr(request, "param", {"rules": RULES})
    level = replace(target.levels["read"], **changes)
    guarded = replace(target, levels={"read": level})
    context, ca = door_tls(tmp_path / "tls")
    with leased(guarded) as login, running_door(GuardedStage(guarded, login, ca), context) as running:
        assert isinstance(running, GuardedStage)
        yield running


def budget(statement: Room = ANY, session: Room = ANY) -> Any:
    return pytest.mark.parametrize("stage", [{"budget": Budget(statement, session)}], indirect=True)


REFUSED = [
    "DELETE FROM orders",
    "UPDATE orders SET note = ''",
    "DELETE FROM orders WHERE true",
    "TRUNCATE orders",
    "SELECT 1; DELETE FROM orders; SELECT 2",
    "WITH gone AS (DELETE FROM orders RETURNING *) SELECT count(*) FROM gone",
    "EXPLAIN ANALYZE DELETE FROM orders",
    "PREPARE p AS DELETE FROM orders",
    "COPY (DELETE FROM orders RETURNING id) TO STDOUT",
    "DO $$ BEGIN DELETE FROM orders; END $$",
    "CREATE TABLE mine (a int)",
    "SELECT * INTO mine FROM orders",
    "DROP TABLE orders",
    "GRANT SELECT ON orders TO PUBLIC",
    "COPY orders TO PROGRAM 'cat'",
    "COPY orders FROM '/etc/passwd'",
    "SELECT pg_sleep(0)",
    "SELECT pg_catalog.PG_SLEEP(0)",
    "SELECT \"lo_export\"(1, '/tmp/x')",
    "SELECT * FROM orders WHERE",
    "SELECT 'a\\''; DELETE FROM orders --'",
]


@pytest.mark.parametrize("prepared", [False, True], ids=["simple", "extended"])
@pytest.mark.parametrize("sql", REFUSED)
def test_refused_in_both_protocols_inside_and_outside_a_transaction(
    stage: GuardedStage, sql: str, prepared: bool
) -> None:
    with stage.connect() as session:
        if prepared and ";" in sql and not sql.startswith("DO"):
            return
        run = lambda: session.execute(sql.encode(), () if prepared else None, prepare=prepared or None)  # noqa: E731
        with pytest.raises(Errors, match="Refused by the gateway") as no:
            run()
        assert no.value.diag.message_detail
        assert no.value.diag.message_hint
        assert session.info.transaction_status.name == "IDLE"
        assert session.execute("SELECT count(*) FROM orders").fetchone() == (2000,)
        session.execute("BEGIN")
        with pytest.raises(Errors):
            run()
        assert session.info.transaction_status.name == "INERROR", "as the server has it"
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            session.execute("SELECT 1")
        session.execute("ROLLBACK")
        assert session.execute("SELECT count(*) FROM orders").fetchone() == (2000,)
    assert stage.end_of() is EndReason.CLIENT_CLOSED
    assert stage.told()[0] == "statement:refused"
    assert ("42501", "failed") in stage.results()
    assert sql in stage.statements(), "what was tried is in the recording"
    assert not any("gw_refused" in each for each in stage.statements())


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM orders WHERE id = -1", "UPDATE orders SET note = 'it''s' WHERE id = -1", "EXPLAIN DELETE FROM orders",
        "INSERT INTO orders (id) SELECT 1 WHERE false", "COPY orders TO STDOUT", "SET statement_timeout = 0", "SELECT now()", "",
    ],
)  # fmt: skip
def test_all_else_passes(stage: GuardedStage, sql: str) -> None:
    assert stage.psql("-c", sql).returncode == 0
    assert stage.events == []


def test_names_used_again_are_judged_again(stage: GuardedStage) -> None:
    with stage.connect() as session:
        pg = session.pgconn
        assert pg.prepare(b"p", b"SELECT 1").status == psycopg.pq.ExecStatus.COMMAND_OK
        pg.exec_(b"DEALLOCATE p")
        refused = pg.prepare(b"p", b"DELETE FROM orders")
        assert b"Refused by the gateway" in refused.error_message
        gone = pg.exec_prepared(b"p", [])
        assert gone.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"26000", "there is no such statement"
        assert pg.prepare(b"", b"SELECT 2").status == psycopg.pq.ExecStatus.COMMAND_OK
        assert b"Refused" in pg.prepare(b"", b"DELETE FROM orders").error_message
        assert pg.exec_prepared(b"", []).error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"26000"
        assert pg.exec_(b"PREPARE q AS DELETE FROM orders WHERE id = $1").status == psycopg.pq.ExecStatus.COMMAND_OK
        assert pg.exec_(b"EXECUTE q(-1)").status == psycopg.pq.ExecStatus.COMMAND_OK
        assert session.execute("SELECT count(*) FROM orders").fetchone() == (2000,)


def _pipelined(session: psycopg.Connection[Any]) -> None:
    with session.pipeline() as pipeline:
        first = session.execute("SELECT 1")
        session.execute("DELETE FROM orders WHERE 1 = 1 OR %s", (True,))
        session.execute("INSERT INTO orders (id) VALUES (-5)")
        assert first.fetchone() == (1,)
        pipeline.sync()


def test_in_a_pipeline_what_follows_is_skipped_up_to_the_sync(stage: GuardedStage) -> None:
    with stage.connect() as session:
        with pytest.raises(Errors):
            _pipelined(session)
        with session.pipeline():
            after = session.execute("SELECT count(*) FROM orders WHERE id < 0")
        assert after.fetchone() == (0,)
        assert session.execute("SELECT 3").fetchone() == (3,)


@pytest.mark.parametrize("stage", [{"rules": replace(RULES, forward_unparsed=True)}], indirect=True, ids=["forward"])
def test_what_cannot_be_judged_passes_where_the_level_says_so(stage: GuardedStage) -> None:
    with stage.connect() as session:
        session.execute("DO $$ BEGIN NULL; END $$")
        with pytest.raises(psycopg.errors.SyntaxError):
            session.execute("SELEC 1")
        with pytest.raises(Errors):
            session.execute("DELETE FROM orders")


def test_what_is_refused_is_durable_first_where_that_is_required(target: Target, tmp_path: Path) -> None:
    guarded = replace(
        target, levels={"read": replace(target.levels["read"], rules=RULES, budget=Budget(Room(rows=50)))}
    )
    context, ca = door_tls(tmp_path / "tls")
    with leased(guarded) as login, running_door(GuardedStage(guarded, login, ca, Record.REQUIRE), context) as stage:
        with stage.connect() as session:
            for _ in range(20):
                with pytest.raises(Errors):
                    session.execute("DELETE FROM orders WHERE %s", (True,))
                with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
                    session.execute("SELECT * FROM orders")
                assert session.execute("SELECT count(*) FROM orders").fetchone() == (2000,)
        assert len(stage.statements()) == 60


def test_a_string_that_a_setting_lets_go_on_hides_nothing(stage: GuardedStage) -> None:
    with stage.connect(options="-c standard_conforming_strings=off -c backslash_quote=on") as session:
        with pytest.raises(Errors, match="backslash"):
            session.execute(rb"SELECT 'a\'; SELECT '; DELETE FROM orders; --'")
        assert session.execute("SELECT count(*) FROM orders").fetchone() == (2000,)


def test_a_function_call_by_number_is_refused_and_the_session_goes_on(stage: GuardedStage) -> None:
    libpq = ctypes.CDLL("libpq.so.5")  # psql's own
    libpq.PQconnectdb.restype = libpq.PQfn.restype = libpq.PQexec.restype = ctypes.c_void_p
    libpq.PQerrorMessage.restype = ctypes.c_char_p
    connection = ctypes.c_void_p(libpq.PQconnectdb(stage.url().encode()))
    try:
        size, value = ctypes.c_int(), ctypes.create_string_buffer(64)
        result = libpq.PQfn(connection, 1299, value, ctypes.byref(size), 0, None, 0)  # pg_catalog.now()
        assert libpq.PQresultStatus(ctypes.c_void_p(result)) == psycopg.pq.ExecStatus.FATAL_ERROR
        assert b"Function calls by number" in libpq.PQerrorMessage(connection)
        after = ctypes.c_void_p(libpq.PQexec(connection, b"SELECT 1"))
        assert libpq.PQresultStatus(after) == psycopg.pq.ExecStatus.TUPLES_OK
    finally:
        libpq.PQfinish(connection)


# ------------------------------------------------------------ budgets


@pytest.mark.parametrize("binary", [False, True], ids=["simple", "extended"])
@budget(Room(rows=100))
def test_a_result_is_cut_mid_way_and_the_session_goes_on(stage: GuardedStage, binary: bool) -> None:
    with stage.connect() as session:
        for sql in ("SELECT * FROM orders", "SELECT * FROM generate_series(1, 50000000)"):
            with pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match="100 rows") as cut:
                session.execute(sql.encode(), binary=binary)
            assert cut.value.diag.message_hint
            assert session.execute("SELECT count(*) FROM orders").fetchone() == (2000,)
        assert len(session.execute("SELECT * FROM orders LIMIT 100").fetchall()) == 100
    assert stage.end_of() is EndReason.CLIENT_CLOSED
    assert stage.told(2)[:2] == ["statement:cut", "statement:cut"]
    assert ("53400", "failed") in stage.results()


@budget(Room(rows=100))
def test_the_rows_before_the_cut_arrive(stage: GuardedStage) -> None:
    with stage.connect() as session:
        rows: list[Any] = []
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
            rows.extend(session.cursor().stream("SELECT id FROM orders ORDER BY id"))
        assert rows == [(n,) for n in range(1, 101)]
        with session.transaction():
            with pytest.raises(psycopg.errors.ConfigurationLimitExceeded), session.transaction():
                session.execute("SELECT * FROM generate_series(1, 50000000)")
            assert session.execute("SELECT 5").fetchone() == (5,)


def _copied(session: psycopg.Connection[Any], sql: str, taken: list[int]) -> None:
    with session.cursor().copy(sql.encode()) as copy:
        taken.extend(len(piece) for piece in copy)


@budget(Room(bytes=10_000))
def test_copy_out_is_cut_by_bytes(stage: GuardedStage) -> None:
    with stage.connect() as session:
        taken: list[int] = []
        sql = "COPY (SELECT * FROM orders, generate_series(1, 1000)) TO STDOUT"
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match="10,000 bytes"):
            _copied(session, sql, taken)
        assert 9_000 < sum(taken) <= 10_000
        assert session.execute("SELECT 1").fetchone() == (1,)


@budget(Room(rows=100))
def test_fetching_in_parts_is_no_way_round(stage: GuardedStage) -> None:
    with stage.connect(autocommit=False) as session:
        pg = session.pgconn
        pg.exec_(b"BEGIN")
        pg.exec_(b"DECLARE c CURSOR FOR SELECT * FROM orders")
        assert pg.exec_(b"FETCH 100 FROM c").ntuples == 100, "statements of their own: the session's budget is for them"
        assert pg.exec_(b"FETCH 101 FROM c").error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"53400"


@budget(Room(time=timedelta(seconds=0.3)))
def test_time_is_a_budget(stage: GuardedStage) -> None:
    with stage.connect() as session:
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match=r"0\.3 s"):
            session.execute("SELECT pg_sleep(60)")
        assert session.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
            session.execute("SELECT pg_sleep(60)")
    assert stage.told(2) == ["statement:cut"] * 2


@budget(session=Room(rows=250))
def test_a_session_that_has_taken_all_is_ended(stage: GuardedStage) -> None:
    with stage.connect() as session:
        for _ in range(2):
            session.execute("SELECT * FROM orders LIMIT 100")
        with pytest.raises(psycopg.OperationalError, match="a session at level read may take 250 rows"):
            session.execute("SELECT * FROM orders")
    assert stage.end_of() is EndReason.BUDGET_EXCEEDED
    assert stage.told() == ["session:budget-exceeded"]


@budget(session=Room(rows=25))
def test_the_last_answer_of_a_session_is_why_it_ended_however_short_it_is(stage: GuardedStage) -> None:
    """Behind a ReadyForQuery a driver would not take it for the answer."""
    with stage.connect() as session:
        for _ in range(2):
            session.execute("SELECT id FROM orders LIMIT 10")
        with pytest.raises(psycopg.OperationalError, match="a session at level read may take 25 rows in all") as cut:
            session.execute("SELECT id FROM orders LIMIT 10")
    assert cut.value.sqlstate == "53400"


@budget(session=Room(time=timedelta(seconds=0.5)))
def test_a_session_whose_work_has_taken_too_long_is_ended(stage: GuardedStage) -> None:
    with stage.connect() as session:
        session.execute("SELECT pg_sleep(0.1)")
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT pg_sleep(60)")
    assert stage.end_of() is EndReason.BUDGET_EXCEEDED


@budget(Room(rows=10, time=timedelta(minutes=1)), Room(bytes=1 << 30))
def test_a_cut_does_not_hit_the_next_statement(stage: GuardedStage) -> None:
    with stage.connect() as session:
        for number in range(40):
            with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
                session.execute(f"SELECT * FROM orders LIMIT {11 + number * 20}")
            assert session.execute("SELECT count(*) FROM orders").fetchone() == (2000,)


@budget(Room(rows=100))
def test_a_warning_while_a_cut_is_under_way_breaks_nothing(stage: GuardedStage) -> None:
    with stage.connect() as session:
        stop = threading.Event()

        def warn() -> None:
            while not stop.wait(0.001):
                for live in tuple(stage.door._sessions):
                    live.warn("soon")

        thread = threading.Thread(target=warn)
        thread.start()
        try:
            for _ in range(20):
                with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
                    session.execute("SELECT * FROM orders, generate_series(1, 200)")
                assert session.execute("SELECT 1").fetchone() == (1,)
        finally:
            stop.set()
            thread.join(WITHIN)


@pytest.mark.parametrize("how", [{"client_encoding": "SJIS"}, {"options": "-c client_encoding=GBK"}])
def test_an_encoding_that_the_rules_would_misread_is_refused_at_connecting(
    stage: GuardedStage, how: dict[str, str]
) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"client_encoding .* is not accepted at level"):
        stage.connect(**how)
    with stage.connect(client_encoding="SQL_ASCII") as session:
        assert session.execute(b"SELECT 1").fetchone() is not None


@pytest.mark.parametrize("prepared", [False, True], ids=["simple", "extended"])
def test_the_encoding_stays_what_the_rules_read(stage: GuardedStage, *, prepared: bool) -> None:
    with stage.connect() as session:
        run = lambda sql: session.execute(sql.encode(), () if prepared else None)  # noqa: E731
        for sql in (
            "SET client_encoding = 'SJIS'", "SET NAMES 'GBK'", "set local client_encoding to big5",
            "SELECT set_config('client_encoding', 'SJIS', false)",
            "SELECT set_config('client_' || 'encoding', 'SJIS', false)",
            "UPDATE pg_settings SET setting = 'SJIS' WHERE name = 'client_encoding'",
        ):  # fmt: skip
            with pytest.raises(Errors, match="encoding of the session stays"):
                run(sql)
        for sql in ("SET NAMES 'UTF8'", "SET client_encoding TO utf8", "RESET client_encoding"):
            run(sql)
        run("SELECT set_config('application_name', 'me', false)")
        shown = session.execute("SHOW client_encoding").fetchone()
    assert shown == ("UTF8",)
