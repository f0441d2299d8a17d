"""Masked columns with real clients and a real server: shown masked in every format and protocol, given away in none."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from gateway.core.budget import Budget, Room
from gateway.core.masking import ColumnName, Mask
from gateway.core.obligation import Record
from gateway.core.session import EndReason
from gateway.core.target import Target
from gateway.wire.postgres_messages import message
from tests.e2e.masked_stage import MASKS, PHONE, SECRET, MaskedStage, masked_database
from tests.e2e.postgres_stage import door_tls, leased, running_door
from tests.e2e.postgres_wire import signed_in
from tests.servers import PostgresServer

Refused = psycopg.errors.InsufficientPrivilege
SECRETS = (SECRET, SECRET.upper(), PHONE, "4000-1234", "secret note", "1815-12")
ROW_1 = (1, "name 1", "****mple", "****", "7d1f83ddabc43035a259c678dd37f289", None, None, "Leeds")


@pytest.fixture(scope="module")
def target(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with masked_database(postgres_server, tmp_path_factory.mktemp("target")) as made:
        yield made


@pytest.fixture
def stage(request: pytest.FixtureRequest, target: Target, tmp_path: Path) -> Iterator[MaskedStage]:
    changes: dict[str, Any] = dict(getattr(request, "param", {}))
    record = changes.pop("record", Record.SPOOL)
    made = replace(target, levels={"read": replace(target.levels["read"], **changes)})
    context, ca = door_tls(tmp_path / "tls")
    with leased(made) as login, running_door(MaskedStage(made, login, ca, record), context) as running:
        assert isinstance(running, MaskedStage)
        yield running


def leaks(*shown: object) -> list[str]:
    text = repr(shown)
    return [secret for secret in SECRETS if secret in text]


# ------------------------------------------------------------ what is shown


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("params", [None, ()], ids=["simple", "extended"])
def test_each_mask_in_both_formats_and_protocols(stage: MaskedStage, params: tuple[()] | None, *, binary: bool) -> None:
    with stage.connect() as session:
        for sql in (
            "SELECT * FROM customers WHERE id = 1",
            "TABLE customers",
            "SELECT c.* FROM customers c ORDER BY c.id",
        ):
            rows = session.execute(sql.encode(), params, binary=binary).fetchall()
            assert rows[0] == ROW_1
            assert not leaks(rows)
        assert session.execute("SELECT email FROM shown", params, binary=binary).fetchall()[0] == ("****",)
        rows = session.execute(
            "SELECT email AS name, card AS a, card AS b FROM customers WHERE id < 3", params
        ).fetchall()
        assert rows[0][1] == rows[0][2] != rows[1][1]
        assert not leaks(rows)


def test_psql(stage: MaskedStage) -> None:
    shown = stage.psql("-c", "SELECT id, email, phone FROM customers WHERE id < 3 ORDER BY id")
    assert shown.stdout == "1|****mple|****\n2|****mple|****\n", shown.stderr
    for command in ("\\d customers", "\\dt+", "\\dv", "\\di", "\\df", "\\du", "\\dn+"):
        told = stage.psql("-c", command)
        assert told.returncode == 0, told.stderr
    for sql in (
        "SELECT 1; SELECT email FROM customers; SELECT phone FROM customers",
        "\\copy (SELECT id FROM customers) TO STDOUT",
    ):
        told = stage.psql("-c", sql)
        assert told.returncode == 0, told.stderr
        assert not leaks(told.stdout)
    refused = stage.psql("-c", "\\copy customers TO STDOUT")
    assert "Refused by the gateway" in refused.stderr
    assert "HINT" in refused.stderr
    assert not leaks(refused.stdout, refused.stderr)


def test_named_statements_pipelines_and_fetching_in_parts(stage: MaskedStage) -> None:
    with stage.connect(autocommit=False) as session:
        session.prepare_threshold = 0
        for _ in range(3):
            assert session.execute("SELECT email FROM customers WHERE id = %s", (1,)).fetchone() == ("****mple",)
        with session.pipeline():
            cursors = [
                session.execute("SELECT id, email, phone FROM customers WHERE id = %s", (n,)) for n in range(1, 30)
            ]
            session.execute("SELECT 1")
        assert [each.fetchone() for each in cursors] == [(n, "****mple", "****") for n in range(1, 30)]
        for hold in (False, True):
            with session.cursor("parts", withhold=hold) as cursor:
                cursor.execute("SELECT email, id FROM customers ORDER BY id")
                rows = cursor.fetchmany(10)
                if hold:
                    session.commit()
                rows += cursor.fetchall()
                assert [n for _, n in rows if n <= 50] == list(range(1, 51))
                assert {email for email, _ in rows} == {"****mple"}
        with session.cursor(binary=True) as plain:
            assert plain.execute("SELECT email, born FROM customers WHERE id = 1").fetchone() == ("****mple", None)
        streamed = list(session.cursor(row_factory=dict_row).stream("SELECT id, email FROM customers"))
        assert {each["email"] for each in streamed} == {"****mple"}


def test_cursors_and_statements_that_sql_makes(stage: MaskedStage) -> None:
    with stage.connect() as session:
        pg = session.pgconn
        session.execute("BEGIN")
        for sql in (
            "DECLARE a CURSOR FOR SELECT * FROM customers",
            "DECLARE b BINARY CURSOR WITH HOLD FOR SELECT email, phone FROM customers",
        ):
            session.execute(sql.encode())
        for fetch in ("FETCH 3 FROM a", "FETCH 3 FROM b", "MOVE 1 FROM a", "FETCH 1 FROM a"):
            for result in (
                pg.exec_(fetch.encode()),
                pg.exec_params(fetch.encode(), []),
                pg.exec_params(fetch.encode(), [], result_format=1),
            ):
                found = [result.get_value(n, m) for n in range(result.ntuples) for m in range(result.nfields)]
                assert not leaks(found)
                assert not result.error_message
        session.execute("COMMIT")
        assert not leaks(pg.exec_(b"FETCH ALL FROM b").get_value(0, 0))
        session.execute("PREPARE p (int) AS SELECT email, card FROM customers WHERE id = $1")
        for _ in range(7):  # a generic plan after five
            for params in (None, ()):
                assert session.execute(b"EXECUTE p(1)", params).fetchall() == [("****mple", ROW_1[4])]
        told = session.execute("EXPLAIN (ANALYZE, VERBOSE) EXECUTE p(1)").fetchall()
        assert not leaks(told)


def test_a_description_asked_for_arrives_once_and_another_not_at_all(stage: MaskedStage) -> None:
    with stage.connect() as session:
        pg = session.pgconn
        assert (
            pg.prepare(b"s", b"SELECT email, id FROM customers WHERE id = $1").status
            == psycopg.pq.ExecStatus.COMMAND_OK
        )
        pg.send_describe_prepared(b"s")  # describe_prepared holds the interpreter, and the door is in this one
        (told,) = session.wait(psycopg.generators.execute(pg))
        assert (told.nparams, told.nfields) == (1, 2)
        result = pg.exec_prepared(b"s", [b"1"])
        assert (result.get_value(0, 0), result.get_value(0, 1)) == (b"****mple", b"1")
        assert pg.exec_params(b"SET application_name = 'x'", []).status == psycopg.pq.ExecStatus.COMMAND_OK
        assert b"no such" not in pg.exec_params(b"SELECT 1 / 0", []).error_message
        assert session.execute("SELECT 5", ()).fetchone() == (5,)
        session.execute("BEGIN")
        with pytest.raises(psycopg.errors.DivisionByZero):
            session.execute("SELECT 1 / %s", (0,))
        session.execute("ROLLBACK", ())
    results = stage.recording().of("result")
    assert [each["rows"] for each in results if each["tag"] == "SELECT 1"] == [1, 1]
    assert not any(each["state"] == "unknown" for each in results)


@pytest.mark.parametrize("stage", [{"record": Record.REQUIRE, "budget": Budget(Room(rows=20))}], indirect=True)
def test_with_a_budget_and_durable_records(stage: MaskedStage) -> None:
    with stage.connect() as session:
        for params in (None, ()):
            with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
                session.execute(b"SELECT * FROM customers", params)
            assert session.execute(b"SELECT email FROM customers WHERE id = 1", params).fetchall() == [("****mple",)]
            with pytest.raises(Refused):
                session.execute(b"SELECT email || '' FROM customers", params)
    assert stage.end_of() is EndReason.CLIENT_CLOSED


def test_other_tables_are_written_and_copied_as_ever(stage: MaskedStage) -> None:
    with stage.connect() as session:
        with session.cursor().copy("COPY visits FROM STDIN") as copy:
            copy.write_row((9001, 1, "/copied"))
        assert session.execute("UPDATE visits SET page = '/x' WHERE id = 9001 RETURNING page").fetchone() == ("/x",)
        with session.cursor().copy("COPY (SELECT * FROM visits WHERE id > 9000) TO STDOUT") as copy:
            assert b"".join(copy) == b"9001\t1\t/x\n"
        assert session.execute("DELETE FROM visits WHERE id > 9000").rowcount == 1
        rows = session.execute(
            "SELECT c.email, v.page FROM customers c JOIN visits v ON v.customer_id = c.id"
        ).fetchall()
        assert not leaks(rows)


LET_THROUGH = [
    "SELECT email, phone FROM customers GROUP BY id", "SELECT c.email FROM visits v LEFT JOIN customers c ON c.id = v.id", "SELECT * FROM customers FULL JOIN visits USING (id)",
    "SELECT email FROM customers RIGHT JOIN visits USING (id)", "SELECT email, row_number() OVER (PARTITION BY city ORDER BY id) FROM customers", "SELECT * FROM ONLY customers",
    "SELECT email FROM customers TABLESAMPLE SYSTEM (100)", "SELECT DISTINCT ON (id) id, email FROM customers ORDER BY id", "SELECT c.* FROM customers c, LATERAL (SELECT 1) s",
    "SELECT email FROM customers FOR UPDATE", "SELECT c.email, d.phone, d.* FROM customers c CROSS JOIN customers d",
    "WITH s AS MATERIALIZED (SELECT id FROM customers) SELECT email FROM s JOIN customers USING (id)", "SELECT email FROM customers GROUP BY GROUPING SETS ((id), (id, city))",
    "SELECT c.*, v.* FROM customers c JOIN (SELECT o.id, o.note FROM orders o) v ON v.id = c.id", "SELECT email, count(*) FROM customers GROUP BY id HAVING count(*) > 0 ORDER BY id DESC OFFSET 1",
    "SELECT email FROM (customers JOIN visits USING (id)) JOIN orders USING (id)", "SELECT email, generate_series(1, 2) FROM customers", "SELECT email FROM customers WHERE id = ANY (ARRAY[1, 2])",
    "SELECT s.email, c.email FROM shown s JOIN customers c USING (id)", "SELECT email FROM customers LIMIT 0", "SELECT email, NULL AS phone FROM customers WHERE id = (SELECT max(id) FROM visits) - 170",
]  # fmt: skip


@pytest.mark.parametrize("params", [None, ()], ids=["simple", "extended"])
def test_what_is_let_through_is_masked_whatever_the_plan(stage: MaskedStage, params: tuple[()] | None) -> None:
    with stage.connect() as session:
        for sql in LET_THROUGH:
            for binary in (False, True):
                assert not leaks(session.execute(sql.encode(), params, binary=binary).fetchall()), sql
        assert stage.events == []


# ------------------------------------------------------------ what is tried


def attempt(session: psycopg.Connection[Any], sql: str, params: tuple[()] | None) -> None:
    if sql.startswith("COPY") and params is None:
        with session.cursor().copy(sql.encode()) as copy:
            list(copy)
    else:
        session.execute(sql.replace("%", "%%" if params == () else "%").encode(), params)


ATTACKS = [
    "SELECT upper(email) FROM customers", "SELECT email || '' FROM customers", "SELECT email::varchar FROM customers", "SELECT email::int FROM customers",
    "SELECT concat(email) FROM customers", "SELECT id FROM customers WHERE email LIKE '1a%'", "SELECT id FROM customers WHERE email = '1" + SECRET + "'",
    "SELECT id FROM customers ORDER BY email", "SELECT email FROM customers ORDER BY 1", "SELECT email, count(*) FROM customers GROUP BY 1", "SELECT DISTINCT email FROM customers",
    "SELECT a.id FROM customers a JOIN customers b ON a.email = b.email", "SELECT * FROM customers a JOIN customers b USING (email)", "SELECT * FROM customers NATURAL JOIN shown",
    "SELECT max(phone) FROM customers", "SELECT array_agg(email) FROM customers", "SELECT string_agg(email, ',') FROM customers",
    "COPY customers TO STDOUT", "COPY (SELECT email FROM customers) TO STDOUT", "COPY (TABLE customers) TO STDOUT WITH (FORMAT csv)",
    "UPDATE customers SET name = name WHERE id = 1 RETURNING email", "INSERT INTO customers (id) VALUES (77) RETURNING email", "DELETE FROM customers WHERE id = 99 RETURNING *",
    "UPDATE customers SET name = email", "INSERT INTO customers (id, email) SELECT 88, email FROM customers WHERE id = 1", "UPDATE customers SET id = email::int WHERE id = 1",
    "CREATE TABLE mine AS SELECT email FROM customers", "SELECT email INTO mine FROM customers", "CREATE TEMP TABLE mine AS TABLE customers", "CREATE TEMP VIEW v AS TABLE customers",
    "INSERT INTO visits (page) SELECT email FROM customers", "DECLARE c CURSOR FOR SELECT lower(email) FROM customers", "PREPARE p AS SELECT lower(email) FROM customers",
    "SELECT customers FROM customers", "SELECT c FROM customers c", "SELECT row_to_json(c) FROM customers c", "SELECT to_jsonb(c.*) FROM customers c", "SELECT (c).email FROM customers c",
    "SELECT c::text FROM customers c", "SELECT x FROM customers c, json_each_text(row_to_json(c)) AS t(k, x)", "SELECT c.row_to_json FROM customers c", "SELECT c.text FROM customers c",
    "SELECT email FROM (SELECT email FROM customers) s", "WITH s AS (TABLE customers) SELECT * FROM s", "TABLE customers UNION ALL TABLE customers", "SELECT (SELECT email FROM customers LIMIT 1)",
    "SELECT ARRAY(SELECT email FROM customers)", "SELECT b FROM customers AS c(a, n, b)", "SELECT j.email FROM (customers c JOIN visits v ON true) AS j",
    "SELECT query_to_xml('SELECT email FROM customers', true, true, '')", "SELECT table_to_xml('customers', true, true, '')", "SELECT cursor_to_xml('c', 1, true, true, '')",
    "SELECT * FROM ts_stat('SELECT to_tsvector(email) FROM customers')", "DO $$ BEGIN RAISE NOTICE '%', (SELECT max(email) FROM customers); END $$",
    "SELECT email_of(1)", "SELECT public.email_of(1)", "SELECT * FROM email_of(1)", "SELECT upper(1)", "SELECT contact(v) FROM visits v", "SELECT v.contact FROM visits v",
    "SELECT (v).contact FROM visits v", "SELECT gathered(id) FROM visits", "SELECT public.gathered(1)", "TABLE through_aggregate",
    "SELECT 'a'::tsquery <~> 'SELECT ''a''::tsquery, plainto_tsquery(email) FROM customers LIMIT 1'", "SELECT id FROM visits WHERE id BETWEEN 0 AND 'a'::text",
    "SELECT 1 FROM visits WHERE id NOT BETWEEN SYMMETRIC 0 AND 'a'::text", "SELECT id <#> 1 FROM visits", "SELECT 1 OPERATOR(public.<#>) 1", "SELECT contact FROM hidden", "TABLE hidden_again", "TABLE kept", "TABLE archive",
    "TABLE sampled", "TABLE through", "EXPLAIN ANALYZE SELECT id FROM customers WHERE email > 'm'", "EXPLAIN (ANALYZE) CREATE TABLE x AS TABLE customers",
    "SELECT histogram_bounds FROM pg_stats WHERE tablename = 'customers'", "SELECT * FROM pg_catalog.pg_stats", "SELECT * FROM pg_statistic", "SELECT query FROM pg_stat_activity",
    "SELECT lo_from_bytea(0, email::bytea) FROM customers", "SELECT lo_get(1)", "SELECT * FROM dblink('', 'SELECT 1') AS t(a int)", "CREATE EXTENSION dblink", "CALL x()",
    "CREATE FUNCTION mine() RETURNS SETOF customers LANGUAGE sql AS 'TABLE customers'", "ALTER TABLE customers RENAME email TO mail", "CREATE INDEX ON customers (lower(email))",
    "MERGE INTO visits v USING customers c ON c.id = v.id WHEN MATCHED THEN UPDATE SET page = c.email", "WITH x AS (UPDATE customers SET name = '' RETURNING *) TABLE x",
    "SELECT xmlforest(email) FROM customers", "SELECT JSON_ARRAYAGG(email) FROM customers", "SELECT JSON_OBJECT('a': c.email) FROM customers c", "ALTER DATABASE x RENAME TO y",
]  # fmt: skip


@pytest.mark.parametrize("params", [None, ()], ids=["simple", "extended"])
def test_every_attack_is_refused_and_says_what_to_do(stage: MaskedStage, params: tuple[()] | None) -> None:
    with stage.connect() as session:
        notices: list[str] = []
        session.add_notice_handler(lambda diag: notices.append(str(diag.message_primary)))
        for sql in ATTACKS:
            with pytest.raises(Refused, match="Refused by the gateway") as no:
                attempt(session, sql, params)
            assert no.value.sqlstate == "42501", sql
            assert no.value.diag.message_detail, sql
            assert no.value.diag.message_hint, sql
            assert not leaks(no.value.diag.message_primary.replace(SECRET, "") if SECRET in sql else str(no.value)), sql
        assert not notices
        assert session.execute("SELECT count(*) FROM customers").fetchone() == (53,)
    assert stage.told()[0][0] == "statement:refused"
    assert stage.told()[0][1]["rule"] == "masked"


def test_names_and_settings_do_not_matter(stage: MaskedStage, postgres_server: PostgresServer) -> None:
    postgres_server.execute("CREATE SCHEMA evil; CREATE FUNCTION evil.lower(text) RETURNS text STABLE LANGUAGE sql AS 'SELECT email FROM customers'",
                            stage.target.database)  # fmt: skip
    group = stage.target.levels["read"].account
    postgres_server.execute(f'GRANT ALL ON SCHEMA evil TO "{group}"', stage.target.database)
    try:
        with stage.connect(
            options="-c search_path=evil,public,pg_catalog -c standard_conforming_strings=off"
        ) as session:
            with pytest.raises(Refused):
                session.execute("SELECT lower('a')")
            for sql in (
                "SET search_path = evil, public",
                'SELECT "email" FROM "public"."customers"',
                "SELECT EMAIL FROM Customers",
            ):
                rows = session.execute(sql.encode())
                assert not leaks(rows.fetchall() if rows.description else "")
    finally:
        postgres_server.execute("DROP SCHEMA evil CASCADE", stage.target.database)


FETCHED = b"DECLARE c CURSOR FOR SELECT email FROM customers ORDER BY id"
OTHERS = (b"CLOSE c", b"DECLARE c CURSOR FOR SELECT page FROM visits")
PREPARED = b"PREPARE q AS SELECT email FROM customers"
OTHER_PREPARED = (b"DEALLOCATE q", b"PREPARE q AS SELECT page FROM visits")


def parse(sql: bytes, name: bytes = b"") -> bytes:
    return message(b"P", name + b"\0" + sql + b"\0\0\0")


def bind(portal: bytes = b"", source: bytes = b"") -> bytes:
    return message(b"B", portal + b"\0" + source + bytes(7))


def run(portal: bytes = b"", most: int = 0) -> bytes:
    return message(b"E", portal + b"\0" + most.to_bytes(4, "big"))


def query(sql: bytes) -> bytes:
    return message(b"Q", sql + b"\0")


def extended(*texts: bytes) -> bytes:
    return b"".join(
        parse(each, b"s%d" % n) + bind(b"p%d" % n, b"s%d" % n) + run(b"p%d" % n) for n, each in enumerate(texts)
    )


SYNC = message(b"S")


@pytest.mark.parametrize(
    "rounds",
    [
        [query(FETCHED), parse(b"FETCH 9 FROM c", b"s") + bind(b"p", b"s") + run(b"p", 1) + SYNC, *map(query, OTHERS), run(b"p", 2) + SYNC],
        [query(FETCHED), parse(b"FETCH 9 FROM c") + bind(b"p") + run(b"p", 1) + SYNC, *map(query, OTHERS), query(b"FETCH 3 FROM p")],
        [query(FETCHED), parse(b"FETCH 9 FROM c") + SYNC, bind(b"p") + SYNC, query(b"MOVE 1 FROM p"), *map(query, OTHERS), run(b"p") + SYNC],
        [query(FETCHED), parse(b"FETCH 9 FROM c") + bind() + run(b"", 1) + extended(*OTHERS) + run(b"", 3) + SYNC],
        [query(FETCHED), parse(b"FETCH 9 FROM c") + bind() + SYNC, run(b"", 1) + SYNC, extended(*OTHERS) + run() + SYNC],
        [query(PREPARED), parse(b"EXECUTE q", b"s") + bind(b"", b"s") + run(b"", 1) + extended(*OTHER_PREPARED) + run() + SYNC],
        [query(PREPARED), parse(b"/* */ EXECUTE q") + bind(b"p") + run(b"p", 1) + SYNC, *map(query, OTHER_PREPARED), run(b"p") + SYNC],
    ],
)  # fmt: skip
def test_a_name_given_to_another_statement_between_two_parts_of_a_result(
    stage: MaskedStage, rounds: list[bytes]
) -> None:
    """The server describes the rest by the other statement: PostgreSQL 18 computes the rows of FETCH and EXECUTE when
    their portal is first run, and looks their origin up by the name each time.
    """
    for size in (1, 7, 1 << 16):
        with signed_in(stage) as client:
            said = b""
            for each in (query(b"BEGIN"), *rounds):
                for start in range(0, len(each), size):
                    client.sendall(each[start : start + size])
                before, got = said, b"."
                while b"Z\0\0\0\5" not in said[len(before) :] and got:
                    got = client.recv(65536)
                    said += got
            assert not leaks(said)
            assert b"FETCH and EXECUTE give their whole result at once" in said
            client.sendall(
                query(b"ROLLBACK")
                + parse(b"SELECT email FROM customers ORDER BY id")
                + bind(b"p")
                + run(b"p", 2)
                + SYNC
            )
            while not said.endswith(b"Z\0\0\0\5I") or b"mples\0\0\0\4" not in said:  # masked, and suspended
                got = client.recv(65536)
                assert got, said
                said += got
            assert not leaks(said)


def test_a_parameter_that_has_the_statement_planned_with_another_table(stage: MaskedStage) -> None:
    with stage.connect() as session:
        session.execute("SET search_path = spare, public")
        session.execute("PREPARE q (text) AS SELECT email FROM accounts")
        for params in (None, ()):
            for setting in (
                "set_config('search_path', 'public', false)",
                "'a' || pg_catalog.set_config('search_path', 'public', true)",
            ):
                with pytest.raises(Refused, match="changes no setting"):
                    session.execute(f"EXECUTE q({setting})".encode(), params)
            assert session.execute(b"EXECUTE q(lower('A'))", params).fetchall() == []
        session.execute("SELECT set_config('search_path', 'public', false)")
        for params in (None, ()):
            assert session.execute(b"EXECUTE q('x')", params).fetchall() == [("****",)]


def test_a_statement_that_moves_to_another_table_while_it_runs(stage: MaskedStage) -> None:
    """EXECUTE is described in a simple query when its rows are there, by the statement as it would be planned then."""
    moves = "set_config('search_path', 'spare', false) <> ''"
    for condition in (moves, f"id IN (SELECT 1 WHERE {moves})"):
        with stage.connect() as session:
            told = session.pgconn.exec_(f"PREPARE q AS SELECT email FROM accounts WHERE {condition}".encode())
            assert b"changes no setting" in told.error_message
            assert not leaks(session.pgconn.exec_(b"EXECUTE q").get_value(0, 0))


def test_a_cascade_that_fails_does_not_quote_the_masked_row(stage: MaskedStage) -> None:
    with stage.connect() as session:
        for params in (None, ()):
            with pytest.raises(psycopg.errors.NotNullViolation) as no:
                session.execute("DELETE FROM plans WHERE id = 1", params)
            assert not leaks(str(no.value))
            assert no.value.diag.message_detail is None
            assert no.value.diag.table_name == "accounts"
        with pytest.raises(psycopg.errors.CheckViolation, match=r"Failing row contains \(3, bad\)"):
            session.execute("INSERT INTO plans VALUES (3, 'bad')")
        assert session.execute("SELECT harmless(id) FROM plans").fetchone() == (2,)


def test_errors_quote_no_masked_value(stage: MaskedStage) -> None:
    with stage.connect() as session:
        for sql in ("INSERT INTO customers SELECT 200, 'n', '1" + SECRET + "'", "SELECT email::int FROM customers", "SELECT born + email::int FROM customers",
                    "INSERT INTO visits SELECT email::int FROM customers", "SELECT 1 / length(email) FROM customers"):  # fmt: skip
            with pytest.raises(Refused):
                session.execute(sql.encode())


# ------------------------------------------------------------ what changes under a session


def test_what_is_made_meanwhile_is_not_known(stage: MaskedStage, postgres_server: PostgresServer) -> None:
    group = stage.target.levels["read"].account
    with stage.connect() as session:
        made = f'CREATE VIEW since AS TABLE customers; GRANT SELECT ON since TO "{group}"'
        postgres_server.execute(made, stage.target.database)
        with pytest.raises(Refused, match="not known"):
            session.execute("SELECT * FROM since")
        postgres_server.execute("ALTER VIEW since RENAME TO visits_too", stage.target.database)
    with stage.connect() as session, pytest.raises(Refused, match="built on"):
        session.execute("SELECT * FROM visits_too")
    postgres_server.execute("DROP VIEW visits_too", stage.target.database)


def test_a_table_that_takes_another_ones_name_ends_the_session(
    stage: MaskedStage, postgres_server: PostgresServer
) -> None:
    group, database = stage.target.levels["read"].account, stage.target.database
    for params in (None, ()):
        with stage.connect() as session:
            session.execute("PREPARE p AS SELECT id, page FROM visits")
            assert session.execute("SELECT * FROM visits WHERE id = 1", params).fetchall()
            postgres_server.execute(
                "ALTER TABLE visits RENAME TO visits_old; CREATE VIEW visits AS SELECT id, id AS customer_id, email AS page FROM customers;"
                f' GRANT ALL ON visits TO "{group}"', database)  # fmt: skip
            try:
                with pytest.raises(psycopg.OperationalError, match="cannot tell which columns are masked"):
                    session.execute("EXECUTE p" if params is None else "SELECT * FROM visits", params)
                assert stage.end_of() is EndReason.MASKS_UNSURE
            finally:
                postgres_server.execute("DROP VIEW visits; ALTER TABLE visits_old RENAME TO visits", database)


def test_a_column_that_comes_or_changes_its_name(stage: MaskedStage, postgres_server: PostgresServer) -> None:
    database = stage.target.database
    with stage.connect() as session:
        postgres_server.execute("ALTER TABLE customers RENAME email TO mail", database)
        try:
            with pytest.raises(Refused, match="not known"):
                session.execute("SELECT initcap(city), lower(mail) FROM customers")
            assert not leaks(session.execute("SELECT * FROM customers").fetchall())
        finally:
            postgres_server.execute("ALTER TABLE customers RENAME mail TO email", database)
        postgres_server.execute("ALTER TABLE customers ADD extra text DEFAULT 'secret note'", database)
        try:
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT * FROM customers")
        finally:
            postgres_server.execute("ALTER TABLE customers DROP extra", database)


# ------------------------------------------------------------ opening, recording


@pytest.mark.parametrize(
    "stage", [{"masks": {**MASKS, ColumnName("public", "customers", "mistyped"): Mask.FULL}}], indirect=True
)
def test_a_mask_that_fits_nothing_closes_the_door(stage: MaskedStage) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"public\.customers\.mistyped"):
        stage.connect()
    assert stage.end_of() is EndReason.MASKS_UNSURE


def test_an_unsafe_encoding_is_refused_where_there_are_only_masks(stage: MaskedStage) -> None:
    with pytest.raises(psycopg.OperationalError, match="rules or masks"):
        stage.connect(client_encoding="SJIS")
    with stage.connect() as session, pytest.raises(Refused, match="encoding"):
        session.execute("SET NAMES 'GBK'")


def test_settings_that_keep_the_question_from_being_answered_close_the_door(stage: MaskedStage) -> None:
    with suppress(psycopg.OperationalError), stage.connect(options="-c statement_timeout=1") as session:
        assert not leaks(session.execute("SELECT email FROM customers").fetchall())
    with stage.connect(
        options="-c search_path=nowhere -c default_transaction_read_only=on -c DateStyle=SQL"
    ) as session:
        assert session.execute("SELECT * FROM public.customers WHERE id = 1").fetchall() == [ROW_1]
        assert session.execute("SHOW search_path").fetchone() == ("nowhere",)
        assert session.info.transaction_status.name == "IDLE"


def test_the_recording_says_what_is_masked_and_holds_no_value(stage: MaskedStage) -> None:
    with stage.connect() as session:
        session.execute("SELECT * FROM customers")
    startup = stage.recording().of("startup")[0]
    assert startup["masks"]["public.customers.email"] == "last4"
    stage.end_of()
    assert not leaks([data.decode() for _, _, data in stage.recording().records])
    assert not leaks(json.dumps([dict(data) for _, data in stage.events]))
