"""Dry-run: settings that change between what a statement was made of and when it runs."""

import pytest

from gateway.core.dry_run import Ledger, Verdict
from tests.unit.core.test_dry_run import text


@pytest.mark.parametrize("call", ["SET CONSTRAINTS ALL IMMEDIATE", "FETCH ALL c"])
def test_what_was_handed_over_earlier_runs_under_settings_that_are_shown(call: str) -> None:
    ledger = Ledger()
    first = text(f"BEGIN; DECLARE c CURSOR FOR SELECT nextval('s'); SET x.y = 1; {call}; RESET x.y")
    assert ledger.query(first).verdict is Verdict.REFUSE
    assert ledger.query(text("BEGIN; DECLARE c CURSOR FOR SELECT nextval('s')")).verdict is Verdict.PASS
    ledger.ready(b"T", has_failed=False)
    ledger.told(())
    assert ledger.query(text(f"SET x.y = 1; {call}; RESET x.y")).verdict is Verdict.REFUSE
    assert [ledger.run([text(each)]).verdict for each in ("SET x.y = 1", call)] == [Verdict.PASS] * 2
    assert ledger.run([text("RESET x.y")]).verdict is Verdict.REFUSE


def test_set_constraints_in_a_transaction_without_a_write_writes_nothing() -> None:
    ledger = Ledger()
    assert ledger.query(text("BEGIN; SET CONSTRAINTS ALL DEFERRED; COMMIT")).verdict is Verdict.PASS
    assert ledger.query(text("SET CONSTRAINTS ALL DEFERRED")).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("between", "is_earlier"),
    [
        ([], False),
        (["SELECT 1"], False),
        (["BEGIN", "ROLLBACK"], False),
        (["SET x.y = 1"], True),
        (["SELECT set_config('x.y', '1', false)"], True),
        (["DO ''"], True),
    ],
)
def test_what_was_parsed_before_something_was_set_says_so(between: list[str], is_earlier: bool) -> None:
    ledger = Ledger()
    old = text("INSERT INTO t VALUES ('01/02/2026')")
    ledger.query(text("BEGIN"))
    for each in (*between, "BEGIN"):
        ledger.query(text(each)._replace(era=ledger.era))
    assert ledger.run([old]).verdict is Verdict.PASS
    assert ledger.run([old._replace(era=ledger.era)]).verdict is Verdict.PASS
    ledger.ready(b"T", has_failed=False)
    sql = "INSERT INTO t VALUES ('01/02/2026')"
    assert [each.sql for each in ledger.written.shown][-2:] == [
        f"(parsed under earlier settings, maybe others) {sql}" if is_earlier else sql,
        sql,
    ]


@pytest.mark.parametrize("undone", ["ROLLBACK", "COMMIT", "ROLLBACK TO a", ""])
def test_what_was_parsed_before_a_setting_was_taken_back_says_so(undone: str) -> None:
    ledger = Ledger()
    ledger.query(text("BEGIN; SAVEPOINT a; SET LOCAL x.y = 1"))
    era = ledger.era
    if undone:
        ledger.query(text(undone))
    else:
        ledger.ready(b"I", has_failed=True)
    assert ledger.era != era


def test_other_settings_than_were_told_before_are_others_for_what_was_parsed() -> None:
    ledger = Ledger()
    eras = []
    for told in ("a", "a", "b"):
        ledger.query(text("BEGIN; INSERT INTO t VALUES (1)"))
        ledger.ready(b"T", has_failed=False)
        ledger.told((("search_path", told),))
        ledger.query(text("ROLLBACK"))
        ledger.ready(b"I", has_failed=False)
        eras.append(ledger.era)
    assert eras[0] == eras[1] != eras[2]


def test_what_sets_is_not_prepared_by_sql() -> None:
    """EXECUTE says no more than a name."""
    for sql in (
        "PREPARE p AS SELECT set_config('a.b', 'c', false)",
        "BEGIN; PREPARE p AS SELECT set_config('a.b', 'c', true)",
    ):
        assert Ledger().query(text(sql)).verdict is Verdict.REFUSE
    assert Ledger().query(text("PREPARE p AS SELECT 1")).verdict is Verdict.PASS


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT setval('s', 1)",
        "SELECT pg_logical_emit_message(false, 'a', 'b')",
        "SELECT * FROM dblink('x', 'DELETE FROM t') AS d(i int)",
        "SELECT lo_export(1, '/tmp/x')",
        "SELECT pg_drop_replication_slot('s')",
        "PREPARE p AS SELECT setval('s', 1); EXECUTE p",
        "DECLARE c CURSOR FOR SELECT setval('s', 1)",
        "COPY t TO '/tmp/x'",
        "COPY t TO PROGRAM 'x'",
        "COPY t FROM PROGRAM 'x'",
    ],
)
def test_what_no_rollback_takes_back_is_refused_in_a_transaction(sql: str) -> None:
    broken = Ledger().query(text(f"BEGIN; {sql}")).broken
    assert broken is not None
    assert "no ROLLBACK takes back" in broken.sentence


@pytest.mark.parametrize("sql", ["COPY t FROM '/tmp/x'", "COPY t TO STDOUT", "SELECT nextval('s')"])
def test_what_a_rollback_takes_back_or_harms_nobody_passes_in_a_transaction(sql: str) -> None:
    assert Ledger().query(text(f"BEGIN; {sql}")).verdict is Verdict.PASS
