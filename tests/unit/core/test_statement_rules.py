"""Rules about statements: what each refuses, and that together they refuse no less than one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.statement_facts import UNKNOWN, StatementFacts, StatementKind
from gateway.core.statement_rules import StatementRules, judge

READ = StatementFacts(StatementKind.READ)
ALL = StatementRules(True, True, True, ("pg_*", "lo_export"))
FACTS = st.builds(
    StatementFacts,
    kind=st.sampled_from(StatementKind),
    count=st.integers(0, 3),
    unbounded=st.lists(st.sampled_from(["UPDATE", "DELETE", "TRUNCATE"]), max_size=2).map(tuple),
    copies=st.lists(st.just("COPY PROGRAM"), max_size=1).map(tuple),
    functions=st.frozensets(st.sampled_from(["pg_read_file", "now", "lo_export"])),
    opaque=st.lists(st.sampled_from(["DO", "CALL", "EXECUTE"]), max_size=2).map(tuple),
)
RULES = st.builds(
    StatementRules, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([(), ("pg_*",), ("lo_export",)]), st.booleans()
)  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "rule"),
    [
        (READ, None),
        (UNKNOWN, "unparsed"),
        (StatementFacts(StatementKind.UNKNOWN, opaque=("DO",)), "unparsed"),
        (StatementFacts(StatementKind.UNKNOWN, opaque=("CALL",)), None),
        (StatementFacts(StatementKind.WRITE, unbounded=("DELETE",)), "require-where"),
        (StatementFacts(StatementKind.WRITE, unbounded=("TRUNCATE",)), "require-where"),
        (StatementFacts(StatementKind.DDL), "deny-ddl"),
        (StatementFacts(StatementKind.PRIVILEGE), "deny-ddl"),
        (StatementFacts(StatementKind.READ, copies=("COPY PROGRAM",)), "deny-copy-files"),
        (StatementFacts(StatementKind.READ, functions=frozenset({"now", "pg_sleep"})), "deny-functions"),
    ],
)
def test_each_rule(facts: StatementFacts, rule: str | None) -> None:
    broken = judge(ALL, facts, b"select 1")
    assert (broken.rule if broken else None) == rule
    assert broken is None or broken.hint, "what to do instead"


@pytest.mark.parametrize(
    ("sql", "ambiguous"),
    [(rb"select 'a\''", True), (rb"select 'a\\'", False), (rb"select 'a\\\''", True), (rb"select 'C:\x'", False), (rb"select ''''", False)],
)  # fmt: skip
def test_a_text_that_a_setting_would_cut_up_otherwise_is_not_judged(sql: bytes, ambiguous: bool) -> None:
    broken = judge(ALL, READ, sql)
    assert (broken is not None) is ambiguous
    assert judge(StatementRules(True, forward_unparsed=True), READ, sql) is None


@pytest.mark.parametrize("is_behind", [True, False])
def test_behind_what_is_not_answered_no_text_passes_that_another_encoding_would_cut_up_otherwise(
    is_behind: bool,
) -> None:
    broken = judge(ALL, READ, "select 'é|'".encode(), is_behind=is_behind)
    assert (broken.rule if broken else None) == ("client-encoding" if is_behind else None)
    assert judge(ALL, READ, "select 'é'".encode(), is_behind=is_behind) is None
    assert judge(StatementRules(True, forward_unparsed=True), READ, "select 'é|'".encode(), is_behind=True) is None


@given(RULES, RULES, FACTS)
def test_more_rules_refuse_no_less(one: StatementRules, other: StatementRules, facts: StatementFacts) -> None:
    both = StatementRules(
        one.require_where or other.require_where,
        one.deny_ddl or other.deny_ddl,
        one.deny_copy_files or other.deny_copy_files,
        one.deny_functions + other.deny_functions,
        one.forward_unparsed and other.forward_unparsed,
    )
    if judge(one, facts, b"") or judge(other, facts, b""):
        assert judge(both, facts, b"")


@given(FACTS)
def test_without_rules_only_what_cannot_be_judged_is_refused(facts: StatementFacts) -> None:
    assert not StatementRules().is_set()
    assert judge(StatementRules(forward_unparsed=True), facts, b"") is None
