"""Facts about statements by PostgreSQL's own grammar: a table of what counts as what, properties, and hostile texts."""

from threading import Thread

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.adapters import postgres_parser
from gateway.adapters.postgres_parser import PostgresParser
from gateway.core.statement_facts import UNKNOWN, StatementFacts, StatementKind, facts_of

PARSER = PostgresParser()
KINDS = {
    "read": [
        "select 1", "table t", "values (1)", "with x as (select 1) select * from x", "select * from t for update",
        "copy t to stdout", "declare c cursor for select 1", "fetch 5 from c", "explain delete from t",
        "explain (verbose) update t set a = 1", "prepare p as select 1",
    ],
    "write": [
        "insert into t values (1)", "update t set a = 1", "delete from t", "truncate t",
        "merge into t using s on t.a = s.a when matched then delete", "copy t from stdin",
        "with x as (delete from t returning *) select * from x", "explain analyze delete from t",
        "explain (analyze, buffers) insert into t values (1)", "explain (buffers, analyze false) delete from t",
        "prepare p as delete from t where a = $1", "copy (update t set a = 1 returning a) to stdout", "select 1; delete from t",
        "select * from (with d as (insert into t values (1) returning *) select * from d) q",
    ],
    "ddl": [
        "create table t (a int)", "drop table t", "alter table t add b int", "create index on t (a)", "vacuum t", "select 1 into t",
        "create table t as select 1", "create function f() returns int language sql as 'select 1'", "begin; drop table t; commit",
        "refresh materialized view v", "create extension x", "comment on table t is 'x'", "checkpoint", "load 'x'", "explain analyze create table t as select 1",
    ],
    "privilege": [
        "grant select on t to x", "revoke a from b", "create role x", "alter role x superuser", "set role x", "set session authorization x",
        "alter system set a = 1", "alter default privileges grant select on tables to x", "reassign owned by a to b", "alter schema s owner to x",
        "create policy p on t", "drop table t; grant a to b",
    ],
    "session": ["begin", "set a = 1", "show a", "reset all", "discard all", "deallocate p", "listen x", "notify x, 'y'", "lock table t", "", "-- nothing", ";;"],
    "unknown": ["selec 1", "do $$ begin delete from t; end $$", "call p(1)", "execute p(1)", "select 1; do $$begin end$$", "select 'unclosed", "select 1 /* unclosed"],
}  # fmt: skip


def facts(sql: str) -> StatementFacts:
    return PARSER.read(sql.encode()).facts


@pytest.mark.parametrize(("kind", "sql"), [(kind, sql) for kind, texts in KINDS.items() for sql in texts])
def test_kinds(kind: str, sql: str) -> None:
    assert facts(sql).kind.value == kind


@pytest.mark.parametrize(
    ("sql", "unbounded"),
    [
        ("update t set a = 1", ("UPDATE",)),
        ("delete from t where true", ("DELETE",)),
        ("delete from t where 1 = 1", ("DELETE",)),
        ("delete from t where a = 1", ()),
        ("delete from t using s where t.a = s.a", ()),
        ("update t set a = 1 where current of c", ()),
        ("truncate t", ("TRUNCATE",)),
        ("merge into t using (select 1) s on true when matched then delete", ("MERGE",)),
        ("merge into t using s on t.a = s.a when matched then delete", ()),
        ("with x as (delete from t returning *) select * from x", ("DELETE",)),
        ("prepare p as update t set a = $1", ("UPDATE",)),
        ("explain analyze delete from t", ("DELETE",)),
        ("explain delete from t", ()),
        ("create rule r as on insert to t do also delete from s", ("DELETE",)),
        ("insert into t values (1) on conflict (a) do update set b = 1", ()),
    ],
)
def test_changes_that_name_no_row(sql: str, unbounded: tuple[str, ...]) -> None:
    assert facts(sql).unbounded == unbounded


@pytest.mark.parametrize(
    "sql",
    [
        "select pg_read_file('x')", "select Pg_Catalog.PG_READ_FILE('x')", 'select "pg_read_file"(\'x\')', "select * from pg_read_file('x')",
        "call pg_read_file('x')", "insert into t select pg_read_file('x')", "select (select pg_read_file('x'))", "select a.b.pg_read_file(1)",
        "copy (select pg_read_file('x')) to stdout", "prepare p as select pg_read_file($1)", "select 1 order by pg_read_file('x')",
        "create table t (a text default pg_read_file('x'))", "select * from rows from (pg_read_file('x'), f(2))", "execute p(pg_read_file('x'))",
        "select count(*) filter (where pg_read_file('x') = '') over (partition by pg_read_file('y'))", "set x to default; select pg_read_file('x')",
        "create index on t (pg_read_file(a))", "create view v as select pg_read_file('x')", "declare c cursor for select pg_read_file('x')",
    ],
)  # fmt: skip
def test_functions_are_found_wherever_they_are_called(sql: str) -> None:
    assert "pg_read_file" in facts(sql).functions


def test_copies_settings_and_what_the_text_does_not_show() -> None:
    assert facts("copy t to program 'ls'").copies == ("COPY PROGRAM",)
    assert facts("copy t from '/etc/passwd'").copies == ("COPY of a file",)
    assert facts("copy t from stdin; copy t to stdout").copies == ()
    assert facts("set Standard_Conforming_Strings to off; reset x").settings == {"standard_conforming_strings", "x"}
    assert facts("do $$begin end$$; call p(); execute q").opaque == ("EXECUTE", "CALL", "DO")
    assert facts("select 1; select 2;").count == 2


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("select * from t where a = 1", "SELECT *  from t where a = 'x' -- y", True),
        ("select * from t where a = $1", "select * from t where a = $2", True),
        ("select a from t", "select b from t", False),
    ],
)
def test_fingerprints(one: str, other: str, same: bool) -> None:
    prints = [PARSER.read(sql.encode()).fingerprint for sql in (one, other)]
    assert all(len(p) == 16 for p in prints)
    assert (prints[0] == prints[1]) is same


@pytest.mark.parametrize(
    "sql",
    [
        b"select " + b"+".join([b"1"] * 20_000), b"select " + b"not " * 15_000 + b"true", b"select " + b"(" * 30_000, b"select " + b"[" * 9_000,
        b"x" * (postgres_parser.LONGEST + 1), b"select 1\0; drop table t", b"\xff\xfe\x00", b"select '\xff'", b"select $$" * 99, b"select U&'\\D800'",
    ],
)  # fmt: skip
def test_hostile_texts_are_unknown(sql: bytes) -> None:
    assert PARSER.read(sql).facts.kind in (StatementKind.UNKNOWN, StatementKind.READ)
    assert PARSER.read(b"select 1").facts.kind is StatementKind.READ, "and harm nothing"


_WORDS = st.sampled_from(
    [
        "select",
        "delete",
        "from",
        "t",
        "where",
        "a",
        "=",
        "1",
        ";",
        "with",
        "x",
        "as",
        "(",
        ")",
        "update",
        "set",
        "insert",
        "into",
        "values",
        ",",
        "explain",
        "analyze",
        "copy",
        "to",
        "'f'",
        "program",
        "$1",
        "--",
        "/*",
        "*/",
        "E'\\''",
        "$$",
        "\n",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(_WORDS, max_size=25).map(lambda words: " ".join(words).encode())))
@example(b"\\")
def test_any_bytes_are_read_or_unknown(sql: bytes) -> None:
    told = PARSER.read(sql)
    assert told == PostgresParser().read(sql), "remembering changes nothing"
    assert told.fingerprint == "" or len(told.fingerprint) == 16


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["stmts", "version", "DeleteStmt", "funcname", "whereClause", "String", "ExplainStmt", "options"]), inner),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(_JSON)
def test_any_tree_is_judged(tree: object) -> None:
    assert isinstance(facts_of(tree), StatementFacts)


def test_a_tree_deeper_than_the_interpreter() -> None:
    tree: object = {"DeleteStmt": {}}
    for _ in range(50_000):
        tree = {"larg": [tree]}
    assert facts_of({"version": 1, "stmts": [tree]}).unbounded == ("DELETE",)
    assert facts_of([]) == facts_of({}) == UNKNOWN


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_parser, "MOST_KEPT", 10)
    parser = PostgresParser()
    for number in range(50):
        parser.read(b"select %d" % number)
    assert len(parser._known) == 10


def test_threads_share_one_parser() -> None:
    wrong: list[object] = []

    def read() -> None:
        for number in range(300):
            told = PARSER.read(b"delete from t%d" % (number % 40))
            if told.facts.unbounded != ("DELETE",):
                wrong.append(told)

    threads = [Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
