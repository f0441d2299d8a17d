# ruff: noqa: F811 - fixtures are named as they are
"""A level with a dry-run, and somebody who sets out to commit what nobody has seen."""

import psycopg
import pytest

from gateway.core.obligation import Record
from gateway.core.session_settings import Asked
from gateway.wire.postgres_messages import message
from gateway.wire.postgres_question import question
from tests.e2e.postgres_wire import signed_in
from tests.e2e.test_postgres_dry_run import DryStage, Held, answer, parse, run, stage, target  # noqa: F401

# In UTF-8 a string that ends, a string behind it; in SJIS the first one goes on to the second, and what is in that runs.
TWO_WAYS = b"SELECT E'\xc3\x95\\\\' || '; INSERT INTO things VALUES (1); COMMIT; --'"
MADE = (
    "CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql AS 'SELECT set_config(''client_encoding'', ''SJIS'', false)'",
    "CREATE TEMP VIEW v AS SELECT * FROM pg_settings",
)


def query(sql: bytes) -> bytes:
    return message(b"Q", sql + b"\0")


@pytest.mark.parametrize("stage", [{"record": Record.SPOOL}, {"record": Record.REQUIRE}], indirect=True)
def test_the_question_does_not_go_into_a_message_of_the_client(stage: DryStage) -> None:
    """The server would take it for the rest of that message, and the true rest for messages of the client."""
    asked = len(question(b"gw_" + bytes(16), Asked().question()))
    hidden = query(b"COMMIT") + query(b"SELECT 'hidden'")
    body = bytes(100)
    last = bytes(asked) + hidden + bytes(asked - len(hidden))
    copy_data = message(b"d", body + last)
    with signed_in(stage) as client:
        client.sendall(query(b"BEGIN; INSERT INTO things VALUES (1)") + copy_data[: -len(last)])
        said = b""
        while b"INSERT 0 1\0" not in said:
            said += client.recv(65536)
        client.sendall(last + query(b"SELECT 'next'"))
        while b"next" not in said:
            got = client.recv(65536)
            assert got, said
            said += got
    assert b"hidden" not in said
    assert stage.kept() == []


@pytest.mark.parametrize("sets", ["SELECT pg_temp.f()", "UPDATE v SET setting = 'SJIS' WHERE name = 'client_encoding'"])
def test_no_encoding_in_which_the_server_reads_another_text(stage: DryStage, sets: str) -> None:
    with signed_in(stage) as client:
        texts = ["SET backslash_quote = on", "BEGIN", *MADE, sets]
        client.sendall(b"".join(query(text.encode()) for text in texts) + query(TWO_WAYS))
        said = b""
        while got := client.recv(65536):
            said += got
    assert b"The client_encoding SJIS is not accepted" in said
    assert stage.kept() == []


def test_a_default_encoding_in_which_the_server_reads_another_text(stage: DryStage) -> None:
    """A role may set its own defaults."""
    with psycopg.connect(stage.admin_url, autocommit=True) as admin:
        admin.execute(f"ALTER ROLE {stage.login.role} SET client_encoding = 'SJIS'".encode())
    with pytest.raises(psycopg.OperationalError, match="SJIS is not accepted"):
        stage.connect()
    with stage.connect(client_encoding="UTF8") as session:
        assert session.execute("SHOW client_encoding").fetchone() == ("UTF8",)


def test_what_is_bound_before_a_commit_sets_nothing_for_it(stage: DryStage) -> None:
    """A statement is planned when it is bound, for which a server runs functions that are called immutable."""
    f = """CREATE FUNCTION pg_temp.f() RETURNS text IMMUTABLE LANGUAGE plpgsql AS
        $$BEGIN PERFORM set_config('search_path', 'pg_temp', false); RETURN ''; END$$"""
    with signed_in(stage) as client:
        for sql in ("BEGIN", f, "INSERT INTO things VALUES (1)", "COMMIT"):
            said = answer(client, query(sql.encode()))
        assert b"C55000\0" in said
        stage.agree()
        bound = parse(b"f", b"SELECT pg_temp.f()") + message(b"B", b"f\0f\0" + bytes(6))
        said = answer(client, bound + parse(b"", b"COMMIT") + run(b"") + message(b"S"))
        assert b"C55000\0" in said
        assert stage.kept() == []


def test_what_runs_code_that_was_made_in_its_transaction_needs_a_yes_of_its_own(stage: DryStage) -> None:
    with stage.connect() as session:
        session.execute("BEGIN")
        session.execute("CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE sql AS 'INSERT INTO things VALUES (1)'")
        with pytest.raises(Held):
            session.execute("COMMIT")
        stage.agree()
        session.execute("SELECT pg_temp.f()")
        with pytest.raises(Held, match="2 statements"):
            session.execute("COMMIT")
        session.execute("ROLLBACK")


def test_a_temporary_table_does_not_go_away_unseen(stage: DryStage) -> None:
    """What is behind it means another table."""
    with stage.connect() as session:
        session.execute("DISCARD ALL")
        session.execute("BEGIN")
        session.execute("CREATE TEMP TABLE things (id int, state text)")
        session.execute("DISCARD TEMP")
        session.execute("INSERT INTO things VALUES (1)")
        with pytest.raises(Held) as held:
            session.execute("COMMIT")
        assert "2. DISCARD TEMP: DISCARD TEMP" in str(held.value.diag.message_detail)
        session.execute("ROLLBACK")
