"""Statements at a level with masks: what shows masked columns masked passes, all else that touches them is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.adapters.postgres_parser import PostgresParser
from gateway.core.mask_lists import CATALOGUES, SAFE_FUNCTIONS
from gateway.core.mask_rules import is_indirect, judge_masked
from gateway.core.masking import Known, Mask, Relation
from gateway.core.statement_rules import Broken, StatementRules, judge

PARSER = PostgresParser()
FUNCTIONS = SAFE_FUNCTIONS | {
    "sum",
    "min",
    "max",
    "row_number",
    "lower",
    "substr",
    "pg_catalog",
    "json_each_text",
    "length",
}
CUSTOMERS = Relation(
    20_001,
    "public",
    "customers",
    {"id": 1, "name": 2, "email": 3, "phone": 5},
    {"email": Mask.LAST4, "phone": Mask.FULL},
)
KNOWN = Known(
    (
        CUSTOMERS,
        Relation(20_002, "public", "orders", {"id": 1, "customer_id": 2, "total": 3, "email": 4}),
        Relation(20_003, "public", "search", {"id": 1, "contact": 2}, is_blocked=True),
        Relation(20_004, "audit", "customers", {"id": 1, "what": 2}),
        Relation(20_005, "audit", "email", {"id": 1, "email": 2, "other": 3}, {"other": Mask.NULL}),
        Relation(20_006, "other", "pg_class", {"x": 1}, is_blocked=True),
    ),
    frozenset(FUNCTIONS),
    builtins=frozenset({"upper"}),
    odd_functions=frozenset({"contact_of"}),
    odd_operators=frozenset({"<#>"}),
)


def judged(sql: str, known: Known = KNOWN) -> Broken | None:
    tree = PARSER.tree(sql.encode())
    assert tree is not None, f"does not parse: {sql}"
    return judge_masked(tree, known)


PASSES = [
    "SELECT * FROM customers", "TABLE customers", "SELECT c.*, o.total FROM customers c JOIN orders o ON o.customer_id = c.id",
    "SELECT email FROM public.customers", "SELECT email AS e, lower(name) FROM customers WHERE id IN (1, 2) ORDER BY id LIMIT 3",
    "SELECT public.customers.email FROM public.customers", "SELECT customers.email, id + 1 FROM customers ORDER BY name, id",
    "SELECT count(*) FROM customers WHERE name LIKE 'A%' GROUP BY name HAVING count(*) > 1",
    "SELECT o.email FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.email = 'x' ORDER BY o.email",
    "SELECT DISTINCT ON (id) email FROM customers ORDER BY id", "SELECT DISTINCT name FROM customers ORDER BY 1",
    "SELECT email FROM customers WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = customers.id)",
    "WITH mine AS (SELECT id, name FROM customers) SELECT mine.id, email FROM mine JOIN customers c ON c.id = mine.id",
    "SELECT email FROM (SELECT id AS n, count(*) FROM orders GROUP BY id) s JOIN customers ON customers.id = n WHERE count > 1",
    "SELECT email FROM customers JOIN generate_series(1, 3) AS g(n) ON g.n = id", "SELECT ctid, email FROM customers",
    "SELECT email, row_number() OVER (PARTITION BY name ORDER BY id) FROM customers FOR UPDATE OF customers",
    "EXPLAIN ANALYZE SELECT email FROM customers WHERE id = 1", "PREPARE p (int) AS SELECT email FROM customers WHERE id = $1",
    "EXECUTE p(1)", "DECLARE c CURSOR FOR SELECT email FROM customers", "FETCH ALL FROM c", "CLOSE c", "BEGIN", "SET search_path = x",
    "SHOW ALL", "DISCARD ALL", "LISTEN x", "NOTIFY x, 'y'", "", "-- nothing", ";", "SELECT 1; SELECT 2", "VALUES (1), (2)",
    "COPY (SELECT id, name FROM customers) TO STDOUT", "COPY orders TO STDOUT", "COPY orders FROM STDIN", "COPY orders FROM STDIN WHERE id > 3",
    "INSERT INTO orders (id, total) VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET total = excluded.total RETURNING *",
    "UPDATE orders SET total = total + 1 WHERE id = 1 RETURNING email", "DELETE FROM orders o USING orders p WHERE o.id = p.id",
    "MERGE INTO orders o USING (SELECT 1 AS n) s ON s.n = o.id WHEN MATCHED THEN UPDATE SET total = 1 WHEN NOT MATCHED THEN DO NOTHING",
    "WITH gone AS (DELETE FROM orders RETURNING *) SELECT count(*) FROM gone", "SELECT o FROM orders o", "SELECT row_to_json(o) FROM orders o",
    "SELECT pg_catalog.upper(name) FROM orders, pg_catalog.pg_class", "SELECT a.attname FROM pg_attribute a JOIN pg_type c ON c.oid = a.attrelid",
    "SELECT table_name FROM information_schema.tables", "SELECT what FROM audit.customers WHERE what = 'x'", "SELECT (ARRAY[1, 2])[1]",
    "SELECT CASE WHEN id > 1 THEN 'a' ELSE name END, coalesce(name, 'x'), name::varchar(3), name IS NULL, NOT true FROM customers",
    "SELECT email FROM customers ORDER BY id + interval '1' SECOND(0)", "SELECT s.* FROM (SELECT id FROM customers) s",
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT n FROM r",
    "SELECT id FROM customers UNION SELECT id FROM orders ORDER BY 1", "LOCK TABLE orders", "SELECT email.email FROM audit.email",
    "SELECT id, name FROM customers ORDER BY 2 USING <", "SELECT o.id BETWEEN 1 AND 2 FROM orders o", "SELECT count(o.*) FROM orders o",
]  # fmt: skip


@pytest.mark.parametrize("sql", PASSES)
def test_what_shows_no_more_than_the_masks_passes(sql: str) -> None:
    assert judged(sql) is None


GIVES_AWAY = [
    # what an expression, a comparison, an order tells
    "SELECT upper(email) FROM customers", "SELECT lower(email) FROM customers", "SELECT email || '' FROM customers", "SELECT email::text FROM customers",
    "SELECT substr(email, 1, 3) FROM customers", 'SELECT email COLLATE "C" FROM customers', "SELECT (email)::varchar FROM customers",
    "SELECT id FROM customers WHERE email = 'a'", "SELECT id FROM customers WHERE c.email LIKE 'a%'", "SELECT id FROM customers ORDER BY email",
    "SELECT id FROM customers c WHERE c.email LIKE 'a%'", "SELECT email = 'x' FROM customers", "SELECT email IS NULL FROM customers",
    "SELECT CASE WHEN email > 'm' THEN 1 END FROM customers", "SELECT coalesce(email, 'x') FROM customers", "SELECT ARRAY[email] FROM customers",
    "SELECT email[1] FROM customers", "SELECT ROW(email) FROM customers", "SELECT (SELECT email) FROM customers", "SELECT greatest(email) FROM customers",
    "SELECT count(email) FROM customers", "SELECT min(email) FROM customers", "SELECT email, count(*) FROM customers GROUP BY email",
    "SELECT id FROM customers GROUP BY id, email", "SELECT sum(id) OVER (ORDER BY email) FROM customers", "SELECT nullif(email, 'a') FROM customers",
    "SELECT count(*) FILTER (WHERE email > 'a') FROM customers", "SELECT id FROM customers LIMIT (SELECT length(email) FROM customers LIMIT 1)",
    "SELECT id FROM customers HAVING max(email) > 'a'", "SELECT id FROM customers WINDOW w AS (PARTITION BY email)",
    # by place or another name
    "SELECT email FROM customers ORDER BY 1", "SELECT * FROM customers ORDER BY 3", "SELECT email AS e FROM customers ORDER BY e",
    "SELECT email, id FROM customers GROUP BY 1, 2", "SELECT email FROM customers GROUP BY ROLLUP (1)", "SELECT DISTINCT email FROM customers",
    "SELECT DISTINCT * FROM customers", "SELECT DISTINCT ON (email) id FROM customers", "SELECT DISTINCT ON (1) email FROM customers",
    "SELECT b FROM customers AS c(a, b)", "SELECT j.email FROM (customers c JOIN orders o ON true) AS j", "SELECT j FROM customers JOIN orders USING (id) AS j",
    "SELECT id FROM customers JOIN orders USING (email)", "SELECT * FROM customers NATURAL JOIN orders",
    # another query in between loses where a column comes from
    "SELECT e FROM (SELECT email AS e FROM customers) s", "SELECT email FROM (SELECT email FROM customers) s", "SELECT * FROM (SELECT * FROM customers) s",
    "WITH x AS (SELECT email FROM customers) SELECT * FROM x", "SELECT email FROM customers UNION SELECT 'x'", "SELECT 'x' UNION ALL SELECT email FROM customers",
    "TABLE customers UNION TABLE customers", "SELECT ARRAY(SELECT email FROM customers)", "SELECT 1 WHERE 'a' IN (SELECT email FROM customers)",
    "SELECT id FROM orders WHERE EXISTS (SELECT * FROM customers)", "WITH x(a) AS (TABLE customers) SELECT a FROM x",
    "SELECT x FROM customers, LATERAL (SELECT email AS x) s", "SELECT x FROM customers c, json_each_text(to_json(c)) AS t(k, x)",
    # whole rows
    "SELECT customers FROM customers", "SELECT c FROM customers c", "SELECT c::text FROM customers c", "SELECT row_to_json(c) FROM customers c",
    "SELECT to_json(c.*) FROM customers c", "SELECT ROW(c.*) FROM customers c", "SELECT (c).email FROM customers c", "SELECT (c.*).email FROM customers c",
    "SELECT c.row_to_json FROM customers c", "SELECT c = c FROM customers c", "SELECT c IS NULL FROM customers c", "SELECT array_agg(c) FROM customers c",
    "SELECT count(c.*) FROM customers c", "SELECT public.customers FROM public.customers", "SELECT json_agg(c) FROM customers c", "SELECT c.to_json FROM customers AS c",
    # writes and copies
    "CREATE TABLE mine AS SELECT * FROM customers", "SELECT * INTO mine FROM customers", "CREATE VIEW mine AS SELECT email FROM customers",
    "CREATE MATERIALIZED VIEW mine AS TABLE customers", "INSERT INTO orders (email) SELECT email FROM customers", "INSERT INTO orders (id) SELECT id FROM customers",
    "UPDATE orders SET email = c.email FROM customers c", "UPDATE customers SET name = email RETURNING name", "UPDATE customers SET name = name RETURNING *",
    "DELETE FROM customers RETURNING email", "DELETE FROM orders USING customers c WHERE c.email = 'x'", "INSERT INTO customers (id) VALUES (1) RETURNING *",
    "WITH x AS (UPDATE customers SET name = '' RETURNING email) SELECT * FROM x", "UPDATE orders SET total = (SELECT length(email) FROM customers)",
    "MERGE INTO orders o USING customers c ON c.id = o.id WHEN MATCHED THEN UPDATE SET email = c.email", "COPY customers TO STDOUT", "COPY customers FROM STDIN",
    "COPY (SELECT email FROM customers) TO STDOUT", "COPY (SELECT * FROM customers) TO STDOUT", "COPY customers (email) TO STDOUT", "COPY orders TO PROGRAM 'cat'",
    "COPY orders TO '/tmp/x'", "COPY (INSERT INTO orders (id) SELECT id FROM customers RETURNING *) TO STDOUT",
    "PREPARE p AS SELECT upper(email) FROM customers", "EXECUTE p((SELECT email FROM customers))", "DECLARE c CURSOR FOR SELECT email || '' FROM customers",
    "EXPLAIN ANALYZE SELECT * FROM customers WHERE email = 'a'", "EXPLAIN CREATE TABLE x AS TABLE customers", "SELECT 1; SELECT upper(email) FROM customers",
    # what cannot be seen from here
    "DO $$ BEGIN NULL; END $$", "CALL p()", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "SELECT query_to_xml('SELECT 1', true, true, '')",
    "SELECT table_to_xml('customers', true, true, '')", "SELECT secret_of(1)", "SELECT public.lower_of('a')", "SELECT upper('a')", "SELECT * FROM dblink('', '') AS t(a text)",
    "SELECT pg_read_file('x')", "SELECT lo_get(1)", "SELECT ts_stat('SELECT 1')", "SELECT currtid2('a', 'b')", "SELECT 1 <#> 2", "SELECT 1 OPERATOR(public.<#>) 2",
    "SELECT 1 = ANY (SELECT 1) AND 1 <#> ALL (SELECT 2)", "SELECT id FROM orders ORDER BY id USING <#>", "SELECT o.contact_of FROM orders o", "SELECT (o).contact_of FROM orders o",
    "SELECT * FROM search", "SELECT * FROM public.search", "SELECT * FROM made_since", "SELECT * FROM elsewhere.customers", "SELECT * FROM pg_stats",
    "SELECT * FROM pg_catalog.pg_statistic", "SELECT * FROM pg_stat_activity", "SELECT * FROM pg_largeobject", "SELECT * FROM pg_class",
    "SELECT * FROM public.pg_stat_statements", "SELECT * FROM pg_toast.pg_toast_20001", "WITH made_since AS (TABLE made_since) TABLE made_since",
    "SELECT 1 FROM made_since, (WITH made_since AS (SELECT 1) TABLE made_since) s", "INSERT INTO search (id) VALUES (1)", "SELECT renamed FROM customers",
    "SELECT c.renamed FROM customers c", "SELECT xmlforest(1 AS a)", "SELECT JSON_ARRAY(1)", "VACUUM", "ANALYZE VERBOSE customers", "ALTER TABLE orders ADD x int",
    "GRANT SELECT ON customers TO PUBLIC", "CREATE TEMP TABLE t (a int)", "CREATE RULE r AS ON INSERT TO orders DO INSTEAD SELECT 1",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n FROM t) SEARCH DEPTH FIRST BY n SET o SELECT n FROM t",
    # a name that is a row here and a masked column there
    "SELECT email FROM audit.email, (SELECT id FROM customers) s",
]  # fmt: skip


@pytest.mark.parametrize("sql", GIVES_AWAY)
def test_what_could_give_away_more_is_refused(sql: str) -> None:
    broken = judged(sql)
    assert broken is not None
    assert broken.rule == "masked"
    assert broken.sentence
    assert broken.hint


def test_catalogues_count_where_nothing_else_has_their_name() -> None:
    assert "pg_class" in CATALOGUES
    assert judged("SELECT relname FROM pg_catalog.pg_class") is None
    assert judged("SELECT relname FROM pg_class", Known((), frozenset())) is None


@pytest.mark.parametrize(
    ("operator", "sql"),
    [
        ("=", "SELECT CASE id WHEN 'a' THEN 1 END FROM orders"), ("=", "SELECT id FROM orders WHERE id IN (SELECT 'a')"), ("=", "SELECT 1 FROM orders o JOIN orders p USING (id)"),
        ("=", "SELECT 1 FROM orders o NATURAL JOIN orders p"), ("=", "SELECT nullif(id, 1) FROM orders"), ("=", "SELECT id IN (1, 2) FROM orders"), ("~~", "SELECT name LIKE 'a' FROM customers"),
        ("<=", "SELECT id BETWEEN 1 AND 2 FROM orders"), ("<", "SELECT id NOT BETWEEN 1 AND 2 FROM orders"), (">", "SELECT id BETWEEN SYMMETRIC 1 AND 2 FROM orders"),
    ],
)  # fmt: skip
def test_operators_that_are_called_without_their_name(operator: str, sql: str) -> None:
    assert judged(sql) is None
    broken = judged(sql, Known(KNOWN.relations, KNOWN.functions, odd_operators=frozenset({operator})))
    assert broken is not None
    assert "not PostgreSQL's own" in broken.sentence


@pytest.mark.parametrize(
    ("sql", "expected"),
    [("FETCH ALL FROM c", True), ("SELECT 1; EXECUTE p(1)", True), ("MOVE 1 FROM c", False), ("SELECT 1", False), ("-- FETCH", False), ("EXPLAIN EXECUTE p", False)],
)  # fmt: skip
def test_which_statements_show_the_result_of_another(sql: str, *, expected: bool) -> None:
    assert is_indirect(PARSER.tree(sql.encode())) is expected


@pytest.mark.parametrize(
    "tree",
    [None, 1, {}, {"stmts": 1}, {"stmts": [{}]}, {"stmts": [{"stmt": 1}]}, {"stmts": [{"stmt": {"SelectStmt": 1}}]},
     {"stmts": [{"stmt": {"SelectStmt": {"fromClause": [{"RangeVar": 1, "x": {"y": 1}}]}}}]}],
)  # fmt: skip
def test_what_is_no_tree_is_refused(tree: object) -> None:
    assert judge_masked(tree, KNOWN) is not None


def test_what_is_nested_too_deep_is_refused() -> None:
    tree: object = {"A_Const": {}}
    for _ in range(100_000):
        tree = {"BoolExpr": {"args": [tree]}}
    assert judge_masked({"stmts": [{"stmt": {"SelectStmt": {"whereClause": tree}}}]}, KNOWN) is not None


@settings(max_examples=300)
@given(
    st.sampled_from(["email", "c.email", "phone", "c.phone", "c", "c.*", "c.renamed", "public.c.email"]),
    st.sampled_from(
        ["lower({})", "{} = 'x'", "({})::text", "ARRAY[{}]", "CASE WHEN true THEN {} END", "coalesce(NULL, {})", "ROW({})", "(SELECT {})", "{} IN ('a')",
         "max({}) OVER ()", "{} IS NULL", "NOT ({} > 'a')", "{} BETWEEN 'a' AND 'b'", "{} LIKE 'a%'", "EXISTS (SELECT 1 FROM orders WHERE {} = '')"]
    ),
    st.sampled_from(
        ["SELECT {} FROM customers c", "SELECT id FROM customers c WHERE {}", "SELECT id FROM customers c ORDER BY {}", "SELECT id FROM customers c GROUP BY {}",
         "SELECT id FROM customers c JOIN orders o ON {}", "SELECT id FROM (SELECT {} FROM customers c) s", "SELECT id, (SELECT {} FROM customers c)",
         "INSERT INTO orders SELECT {} FROM customers c", "SELECT id FROM customers c LIMIT {}", "SELECT id FROM customers c, LATERAL generate_series(1, {}) g",
         "COPY (SELECT {} FROM customers c) TO STDOUT", "WITH x AS (SELECT {} FROM customers c) SELECT 1", "SELECT DISTINCT ON ({}) id FROM customers c"]
    ),
)  # fmt: skip
def test_no_expression_over_a_masked_column_passes_anywhere(column: str, expression: str, place: str) -> None:
    tree = PARSER.tree(place.format(expression.format(column)).encode())
    if tree is not None:
        assert judge_masked(tree, KNOWN) is not None


def test_what_the_rules_cannot_judge_is_refused_where_there_are_masks() -> None:
    facts = PARSER.read(b"SELEC 1").facts
    assert judge(StatementRules(), facts, b"SELEC 1") is not None
    assert judge(StatementRules(forward_unparsed=True), facts, b"SELEC 1", is_masked=True) is not None
    told = PARSER.read(b"SET NAMES 'SJIS'").facts
    assert judge(StatementRules(), told, b"SET NAMES 'SJIS'") is None
    broken = judge(StatementRules(), told, b"SET NAMES 'SJIS'", is_masked=True)
    assert broken is not None
    assert broken.rule == "client-encoding"


def test_attributes_are_known_by_number() -> None:
    assert CUSTOMERS.mask_of(3) is Mask.LAST4
    assert CUSTOMERS.mask_of(1) is None
    assert CUSTOMERS.mask_of(-6) is None
    with pytest.raises(KeyError):
        CUSTOMERS.mask_of(4)
