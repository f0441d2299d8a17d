# ruff: noqa: F811, PT012 - fixtures are named as they are; what raises is a whole pipeline
"""A level with a dry-run: what a yes is to keeps its meaning, whatever is set in between and wherever SQL stands."""

import psycopg
import pytest

from gateway.core.target import Target
from tests.e2e.test_postgres_dry_run import DryStage, Held, Outside, stage, target  # noqa: F401
from tests.servers import PostgresServer

MADE = """
    CREATE SCHEMA other;
    CREATE TABLE seen (path text);
    CREATE TABLE dates (d date);
    CREATE TABLE deferred (id int);
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN INSERT INTO public.seen VALUES (current_setting('search_path')); RETURN NULL; END$$;
    CREATE CONSTRAINT TRIGGER see AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION see();
"""
BACK = """SET search_path = "$user", public"""


@pytest.fixture(scope="module", autouse=True)
def made(target: Target, postgres_server: PostgresServer) -> None:
    group = target.levels["read"].account
    postgres_server.execute(MADE, target.database)
    postgres_server.execute(f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{group}"', target.database)


def rows(stage: DryStage, sql: str) -> list[str]:
    with psycopg.connect(stage.admin_url) as admin:
        return [str(row[0]) for row in admin.execute(sql.encode())]


def hold(session: psycopg.Connection[tuple[object, ...]], stage: DryStage) -> None:
    with pytest.raises(Held):
        session.execute("COMMIT")
    stage.agree()


def test_a_pipeline_sets_nothing_for_a_commit_that_has_its_yes(stage: DryStage) -> None:
    with stage.connect() as session:
        session.execute("BEGIN; INSERT INTO deferred VALUES (1)")
        hold(session, stage)
        for first, why in (
            ("SELECT 1", "COMMIT comes first behind a Sync"),
            ("SET search_path = other", "needs your yes"),
        ):
            with pytest.raises(Held, match=why), session.pipeline():
                session.execute(first)
                session.execute("COMMIT")
        assert rows(stage, "SELECT path FROM seen") == []
        session.execute("ROLLBACK")


@pytest.mark.parametrize("is_pipeline", [False, True], ids=["text", "pipeline"])
def test_nothing_deferred_runs_between_two_settings(stage: DryStage, is_pipeline: bool) -> None:
    texts = ("SET search_path = other", "SET CONSTRAINTS ALL IMMEDIATE", BACK)
    with stage.connect() as session:
        session.execute("BEGIN; INSERT INTO deferred VALUES (1)")
        hold(session, stage)
        with pytest.raises(Outside, match="comes by itself"):
            if is_pipeline:
                with session.pipeline():
                    for text in texts:
                        session.execute(text.encode())
            else:
                session.execute("; ".join(texts).encode())
        session.execute("ROLLBACK")
    assert rows(stage, "SELECT path FROM seen") == []


def test_what_was_prepared_under_other_settings_is_told_so(stage: DryStage) -> None:
    """A constant gets its meaning when it is parsed."""
    insert = "INSERT INTO dates VALUES ('01/02/2026')"
    with stage.connect() as session:
        session.execute("SET datestyle = 'ISO, DMY'")
        session.pgconn.prepare(b"p", insert.encode())
        session.execute("RESET datestyle")
        session.execute("BEGIN")
        session.pgconn.exec_prepared(b"p", [])
        hold(session, stage)
        assert stage.asked[-1].writes[0].sql == f"(parsed under earlier settings, maybe others) {insert}"
        session.execute("COMMIT")
        assert rows(stage, "SELECT d FROM dates") == ["2026-02-01"]


def test_what_no_rollback_takes_back_does_not_run(stage: DryStage, postgres_server: PostgresServer) -> None:
    postgres_server.execute("CREATE SEQUENCE counter; GRANT ALL ON counter TO PUBLIC", stage.target.database)
    with stage.connect() as session:
        for sql in ("SELECT setval('counter', 77)", "PREPARE p AS SELECT setval('counter', 77)"):
            session.execute("BEGIN")
            with pytest.raises(Outside, match="no ROLLBACK takes back"):
                session.execute(sql.encode())
            session.execute("ROLLBACK")
    assert rows(stage, "SELECT last_value FROM counter") == ["1"]


@pytest.mark.parametrize("sql", [
    "SELECT * FROM ts_stat('SELECT to_tsvector(lo_creat(-1)::text)')",
    "SELECT ts_rewrite('a', 'SELECT ''b''::tsquery, lo_creat(-1)::text::tsquery')",
    "SELECT query_to_xml('SELECT lo_creat(-1)', true, true, '')",
])  # fmt: skip
def test_sql_in_a_string_is_a_write(stage: DryStage, sql: str) -> None:
    with stage.connect() as session, pytest.raises(Outside, match="A write comes in a transaction"):
        session.execute(sql.encode())
    assert rows(stage, "SELECT oid FROM pg_largeobject_metadata") == []
