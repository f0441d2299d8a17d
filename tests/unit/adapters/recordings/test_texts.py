import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.adapters.postgres_parser import PostgresParser
from gateway.adapters.recordings.texts import Facts, shape_of
from gateway.app.statement_ports import Told

PARSER = PostgresParser()
TEXTS = (
    "SELECT a FROM t WHERE b = {} AND c IN ({}, {});",
    "select {}, {}::int from t{} limit {} offset {}",
    "SELECT x::varchar({}), interval({}) '{} days' FROM t ORDER BY {} FOR UPDATE",
    "insert into t values ({}, -{}, '{}') on conflict do nothing",
    "update t set a = -{} where b between {} and {}",
    "delete from t{} where id = {} returning a{}",
    "select a[{}:{}] from t tablesample system({})",
    "select sum(a) over (rows between {} preceding and {} following) from t group by {}",
    "select E'{}', B'{}', X'{}', U&'{}', N'{}'",
    "select {}.{}, {}e{}, .{}, {}_{}",
    "select 'a{}' '{}' from t; drop table t{}",
    "select 'a''{}', date '{}' from t -- {}",
    'select "a {}" from "t {}"',
    "select $1, {} from t",
    "select pg_sleep({}), nextval('s{}'), set_config('a', '{}', false)",
    "select xmlserialize(content '{}' as varchar({})), time({}) '{}', a::bit({})",
    "select {} union all select {} fetch first {} rows only",
    "select a, '{}", "select '{}\\' , {} ;", "select 'x'\n'{}', {}", "select {} /* {} */", "fetch {} from c",
    "select E'!{}', 'b{}'", "select 'a!''b!{}', 'c{}'", "select * from \U0001f600{} where a = {}",
)  # fmt: skip


@settings(max_examples=400)
@given(
    text=st.sampled_from(TEXTS),
    numbers=st.lists(
        st.sampled_from(
            ["0", "7", "42", "999999999", "2147483648", "99999999999", "00", "1' , '2", "'; drop table t; select '"]
        ),
        min_size=16,
        max_size=16,
    ),
)
def test_texts_of_one_shape_do_the_same(text: str, numbers: list[str]):
    one, other = _filled(text, ["1"] * 8), _filled(text, numbers)
    if shape_of(one) and shape_of(one) == shape_of(other):
        first, second = PARSER.read(one.encode()), PARSER.read(other.encode())
        assert (first.facts.kind, first.fingerprint) == (second.facts.kind, second.fingerprint)


def _filled(text: str, numbers: list[str]) -> str:
    rest = iter(numbers)
    return re.sub(r"\{\}", lambda _: next(rest), text)


@pytest.mark.parametrize(
    "sql",
    ["fetch 5 from c", 'select 1 from "t 1"', "select $a$1$a$", "select 1 -- 2", "select 1; select 2", "select '1\\'",
     "select /* 1 */ 2", "select E'!' , 'b'", "select 'a!''b!', 'c'", "select a from \U0001f6001", "select " + "1," * 2000 + "1"],
)  # fmt: skip
def test_what_is_not_plain_has_no_shape(sql: str):
    assert shape_of(sql) == ""


class Counting(PostgresParser):
    reads = 0

    def read(self, sql: bytes) -> Told:
        self.reads += 1
        return super().read(sql)


def test_texts_of_one_shape_are_read_once():
    reader = Counting()
    facts = Facts(reader)
    told = {facts.of(f"SELECT abalance FROM accounts WHERE aid = {n} AND name = 'n{n}';") for n in range(100)}
    assert (len(told), reader.reads) == (1, 1)
    assert facts.of("DELETE FROM accounts WHERE aid = 1") not in told
    facts.of("FETCH 1 FROM c")
    facts.of("FETCH 2 FROM c")
    assert reader.reads == 4


def test_one_that_cannot_be_read_says_nothing_of_the_next():
    facts = Facts(PARSER)
    assert [facts.of(f"DELETE FROM t WHERE a::float({n}) > 1")[0] for n in (99, 3)] == ["unknown", "write"]
    assert [facts.of(f"DELETE FROM t WHERE a = '{each}'")[0] for each in ("\ud800", "a")] == ["unknown", "write"]
