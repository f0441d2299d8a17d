"""Dry-run: what counts as a write, and a model of a server on which nothing is committed without a yes to just that."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.adapters.postgres_parser import PostgresParser
from gateway.core.dry_run import Ledger, Verdict
from gateway.core.dry_run_text import CURSOR, Does, Step, Text, text_of
from gateway.core.statement_facts import UNKNOWN
from gateway.core.statement_rules import StatementRules, judge
from gateway.core.written import MOST_SHOWN, MOST_UNDER, Write, Written, mark_of

PARSER = PostgresParser()


def text(sql: str, *functions: str) -> Text:
    return text_of(sql.encode(), PARSER.tree(sql.encode()), functions)


def does(sql: str, *functions: str) -> list[Does]:
    return [step.does for step in text(sql, *functions).steps or ()]


# ------------------------------------------------------------ what a text does


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1", "TABLE t", "VALUES (1)", "SELECT * FROM t FOR UPDATE", "FETCH c", "DECLARE c CURSOR FOR SELECT 1",
        "EXPLAIN INSERT INTO t VALUES (1)", "EXPLAIN ANALYZE SELECT 1", "SHOW work_mem", "SET work_mem = '1MB'", "SET ROLE x",
        "SET SESSION AUTHORIZATION x", "RESET ALL", "LISTEN x", "COPY t TO STDOUT", "LOCK TABLE t", "SAVEPOINT a",
        "RELEASE a", "PREPARE p AS INSERT INTO t VALUES (1)", "DEALLOCATE p", "DISCARD ALL", "SET CONSTRAINTS ALL DEFERRED",
        "CLOSE c", "SELECT now()", "SELECT 'INSERT'",
    ],
)  # fmt: skip
def test_reads(sql: str) -> None:
    assert does(sql) == [Does.READ]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (1)", "UPDATE t SET a = 1", "DELETE FROM t", "TRUNCATE t", "SELECT 1 INTO t",
        "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", "CREATE TABLE t AS SELECT 1", "DROP TABLE t",
        "WITH w AS (DELETE FROM t RETURNING *) SELECT * FROM w", "EXPLAIN ANALYZE DELETE FROM t", "GRANT ALL ON t TO u",
        "COPY t FROM STDIN", "COPY (DELETE FROM t RETURNING *) TO STDOUT", "COPY t TO '/tmp/x'", "COPY t TO PROGRAM 'x'",
        "DO 'BEGIN END'", "CALL p()", "EXECUTE p", "NOTIFY x", "SELECT nextval('s')", "SELECT lo_unlink(1)",
        "SELECT f(dblink_exec('', ''))", "SELECT my_write(1)", "REFRESH MATERIALIZED VIEW v", "CHECKPOINT", "LOAD 'x'",
    ],
)  # fmt: skip
def test_writes(sql: str) -> None:
    assert does(sql, "my_*") == [Does.WRITE]


@pytest.mark.parametrize(
    ("sql", "turn"),
    [
        ("BEGIN", Does.BEGIN), ("START TRANSACTION READ ONLY", Does.BEGIN), ("COMMIT", Does.COMMIT), ("END", Does.COMMIT),
        ("COMMIT AND CHAIN", Does.COMMIT_CHAIN), ("ABORT", Does.ROLLBACK), ("ROLLBACK AND CHAIN", Does.ROLLBACK_CHAIN),
        ("ROLLBACK TO a", Does.ROLLBACK_TO), ("PREPARE TRANSACTION 'a'", Does.TWO_PHASE),
        ("COMMIT PREPARED 'a'", Does.TWO_PHASE), ("ROLLBACK PREPARED 'a'", Does.TWO_PHASE),
    ],
)  # fmt: skip
def test_turns(sql: str, turn: Does) -> None:
    assert does(sql) == [turn]


def test_statements_of_one_text_are_told_apart() -> None:
    steps = text("/* a */ BEGIN; INSERT INTO t VALUES ('é;');\n SELECT 1 ; PREPARE p AS SELECT 2; VACUUM t").steps
    assert steps is not None
    assert [step.sql.decode() for step in steps] == [
        "BEGIN", "INSERT INTO t VALUES ('é;')", "SELECT 1", "PREPARE p AS SELECT 2", "VACUUM t"
    ]  # fmt: skip
    assert [step.prepares for step in steps] == ["", "", "", "p", ""]
    assert [step.is_alone for step in steps] == [False] * 4 + [True]
    (long,) = text(f"SELECT '{'x' * 2000}'").steps or ()
    assert long.sql.decode().endswith("xx … (2,009 bytes)")
    assert text("-- nothing").steps == ()
    assert text("INSERT INTO").steps is None


def test_a_dry_run_refuses_what_cannot_be_judged_whatever_else_is_said() -> None:
    lax = StatementRules(deny_ddl=True, forward_unparsed=True)
    assert judge(lax, UNKNOWN, b"x") is None
    assert judge(lax, UNKNOWN, b"x", is_dry_run=True) is not None
    assert judge(StatementRules(), UNKNOWN, b"x", is_dry_run=True) is not None
    told = PARSER.read(b"DO 'BEGIN END'").facts
    assert judge(StatementRules(), told, b"DO 'BEGIN END'", is_dry_run=True) is None
    assert judge(StatementRules(deny_ddl=True), told, b"DO 'BEGIN END'", is_dry_run=True) is not None
    assert judge(StatementRules(), told, rb"select 'a\''", is_dry_run=True) is not None


# ------------------------------------------------------------ what was written


def test_every_difference_makes_another_mark() -> None:
    def written(*writes: Write) -> Written:
        made = Written()
        for write in writes:
            made.add(write)
        return made

    one, other = Write("x", "d1", "UPDATE 1"), Write("x", "d1", "UPDATE 2")
    made = [
        written(), written(one), written(other), written(one, one), written(one, other), written(other, one),
        written(Write("x", "d2", "UPDATE 1")),
    ]  # fmt: skip
    marks = [mark_of("ses_1", 1, each) for each in made]
    marks += [mark_of("ses_2", 1, written(one)), mark_of("ses_1", 2, written(one))]
    assert len(set(marks)) == len(marks)
    many = written(*[Write(str(n), str(n), "INSERT 0 3") for n in range(MOST_SHOWN + 5)])
    assert (len(many.shown), many.count, many.rows) == (MOST_SHOWN, MOST_SHOWN + 5, 3 * (MOST_SHOWN + 5))


# ------------------------------------------------------------ a server, and what it commits


@dataclass
class Server:
    """As PostgreSQL does it. `committed` grows by what was pending, and by what was written outside a transaction.

    `setting` is what ROLLBACK takes back to `settings[0]`, ROLLBACK TO to what it was behind an earlier write.
    """

    committed: list[tuple[str, ...]] = field(default_factory=list)
    is_open: bool = False
    is_failed: bool = False
    pending: tuple[str, ...] = ()
    tx: int = 0
    setting: int = 0
    settings: list[int] = field(default_factory=lambda: [0])  # at BEGIN, and of each pending write

    @property
    def status(self) -> bytes:
        return (b"E" if self.is_failed else b"T") if self.is_open else b"I"

    def run(self, step: Step, *, fails: bool) -> str | None:
        """The command tag, None for an error."""
        ends = (Does.COMMIT, Does.COMMIT_CHAIN, Does.ROLLBACK, Does.ROLLBACK_CHAIN)
        if self.is_failed and step.does not in (*ends, Does.ROLLBACK_TO):
            return None
        if fails and step.does not in ends:
            self.is_failed = self.is_open
            return None
        match step.does:
            case Does.BEGIN:
                if not self.is_open:
                    self.tx, self.is_open, self.settings = self.tx + 1, True, [self.setting]
            case Does.WRITE if step.sets:
                raise AssertionError("nobody knows what the setting was")
            case Does.WRITE if self.is_open:
                self.pending += (step.sql.decode(),)
                self.settings.append(self.setting)
            case Does.WRITE:
                self.committed.append((step.sql.decode(),))
            case Does.ROLLBACK_TO:
                if not self.is_open:
                    return None
                kept = len(self.pending) // 2
                self.is_failed, self.pending, self.settings = False, self.pending[:kept], self.settings[: kept + 1]
                self.setting = self.settings[-1]
            case Does.READ if step.sets:
                self.setting += 1 + max(self.settings)
            case Does.COMMIT | Does.COMMIT_CHAIN if self.is_open and not self.is_failed and not fails:
                if self.pending:
                    self.committed.append(self.pending)
                self._end(step)
                return "COMMIT"
            case Does.COMMIT | Does.COMMIT_CHAIN | Does.ROLLBACK | Does.ROLLBACK_CHAIN:
                if not self.is_open and step.does in (Does.COMMIT_CHAIN, Does.ROLLBACK_CHAIN):
                    return None
                was_failed = self.is_failed
                self.setting = self.settings[0] if self.is_open else self.setting
                has_failed_now = fails and step.does in (Does.COMMIT, Does.COMMIT_CHAIN) and not was_failed
                self._end(step)
                if has_failed_now:
                    self.is_open = False
                    return None
                return "ROLLBACK"
        return step.does.value

    def _end(self, step: Step) -> None:
        self.is_open = self.is_open and step.does in (Does.COMMIT_CHAIN, Does.ROLLBACK_CHAIN)
        self.is_failed, self.pending, self.tx, self.settings = False, (), self.tx + 1, [self.setting]


def a_text(steps: Sequence[Step]) -> Text:
    return Text(repr(steps), tuple(steps))


@st.composite
def steps(draw: st.DrawFn) -> Step:
    kinds = [Does.READ, Does.WRITE, Does.WRITE, Does.BEGIN, Does.BEGIN, Does.COMMIT, Does.COMMIT, Does.ROLLBACK_TO]
    kinds += [Does.COMMIT_CHAIN, Does.ROLLBACK, Does.ROLLBACK_CHAIN, Does.TWO_PHASE]
    return Step(draw(st.sampled_from(kinds)), str(draw(st.integers(0, 2))).encode())


FAILS = st.sampled_from([False, False, False, True])
ROUND = st.one_of(
    st.tuples(st.just("query"), st.lists(st.tuples(steps(), FAILS), min_size=1, max_size=4)),
    st.tuples(st.just("pipeline"), st.lists(st.tuples(st.lists(steps(), min_size=1, max_size=2), FAILS), max_size=5)),
)


class Session:
    """A client, the ledger and the server, and an engineer who says yes now and then."""

    def __init__(self) -> None:
        self.server, self.ledger = Server(), Ledger()
        self.confirmed: dict[str, tuple[str, ...]] = {}  # by mark: what was pending when it was looked at
        self.may_commit: tuple[str, ...] | None = None
        self.count = 0

    def mark(self) -> str:
        return mark_of("ses_1", self.server.tx, self.ledger.written)

    def round(self, kind: str, told: Sequence[tuple[object, bool]]) -> None:
        has_failed = self._query(told) if kind == "query" else self._pipeline(told)  # type: ignore[arg-type]
        self.ledger.ready(self.server.status, has_failed=has_failed)
        if self.ledger.is_untold:
            self.ledger.told((("setting", str(self.server.setting)),))
        if self.server.pending:
            assert self.ledger.is_written or self.server.is_failed
            if not self.server.is_failed:
                self._demand_true_settings()

    def _demand_true_settings(self) -> None:
        """Whoever looks is shown under which settings each write ran, and COMMIT would."""
        under = self.ledger.written.under
        if len(under) == MOST_UNDER:
            return
        assert under[-1].settings == (("setting", str(self.server.setting)),)
        numbers = {write.sql: n for n, write in enumerate(self.ledger.written.shown, 1)}
        for sql, setting in zip(self.server.pending, self.server.settings[1:], strict=True):
            n = next(n for shown, n in numbers.items() if sql in shown.split("  -- or: "))
            of_it = [each.settings for each in under if each.first <= n][-1]
            assert of_it == (("setting", str(setting)),), f"{sql} ran under {setting}, and {of_it} is shown"

    def confirm(self) -> None:
        self.confirmed[self.mark()] = self.server.pending

    def named(self, told: Sequence[tuple[Any, bool]]) -> Sequence[tuple[Any, bool]]:
        """The same, with another text in each step."""
        return [
            (self._named(each) if isinstance(each, Step) else [self._named(step) for step in each], fails)
            for each, fails in told
        ]

    def _named(self, step: Step) -> Step:
        self.count += 1
        return step._replace(sql=str(self.count).encode())

    def _query(self, told: Sequence[tuple[Step, bool]]) -> bool:
        ruling = self.ledger.query(a_text([step for step, _ in told])._replace(era=self.ledger.era))
        if ruling.verdict is Verdict.REFUSE:
            self.server.is_failed = self.server.is_open
            return True
        if ruling.verdict is not Verdict.PASS and not self._agrees(ruling.verdict, a_text([told[0][0]])):
            return False
        return any(not self._run(step, fails) for step, fails in _until_failure(told, self))

    def _pipeline(self, told: Sequence[tuple[list[Step], bool]]) -> bool:
        has_failed = False
        for alternatives, fails in told:
            texts = frozenset(a_text([step])._replace(era=self.ledger.era) for step in alternatives)
            ruling = self.ledger.run(texts)
            if ruling.verdict is Verdict.REFUSE:
                self.server.is_failed |= self.server.is_open and not has_failed
                has_failed = True
            elif ruling.verdict is not Verdict.PASS and not self._agrees(ruling.verdict, *texts):
                return has_failed  # dropped up to the Sync
            elif not has_failed:
                has_failed = not self._run(alternatives[0], fails)
        return has_failed

    def _agrees(self, verdict: Verdict, *texts: Text) -> bool:
        if verdict is Verdict.HOLD or self.mark() not in self.confirmed:
            return False
        self.may_commit = self.confirmed[self.mark()]
        self.ledger.agreed(texts)
        return True

    def _run(self, step: Step, fails: bool) -> bool:
        before = len(self.server.committed)
        tag = self.server.run(step, fails=fails)
        for found in self.server.committed[before:]:
            assert found == self.may_commit, f"{found} was committed without a yes to it"
        if tag is None:
            return False
        self.ledger.answered(tag)
        return True


def _until_failure(told: Sequence[tuple[Step, bool]], session: Session):  # type: ignore[no-untyped-def]
    for step, fails in told:
        yield step, fails
        if session.server.is_failed and step.does is not Does.ROLLBACK_TO and fails:
            return


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(ROUND, st.booleans()), max_size=12))
def test_no_sequence_of_messages_commits_a_write_without_a_yes_to_just_that(
    rounds: list[tuple[tuple[str, list[tuple[object, bool]]], bool]],
) -> None:
    session = Session()
    for (kind, told), says_yes in rounds:
        session.round(kind, session.named(told))
        if says_yes:
            session.confirm()


SETTING = st.tuples(
    st.sampled_from([
        Step(Does.WRITE), Step(Does.READ, sets=True), Step(Does.ROLLBACK_TO), Step(Does.ROLLBACK), Step(Does.BEGIN),
        Step(Does.WRITE, sets=True), Step(Does.ROLLBACK_CHAIN),
    ]),
    FAILS,
)  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.lists(SETTING, min_size=1, max_size=4)), max_size=8))
@example(
    [
        (True, [(Step(Does.WRITE), False), (Step(Does.WRITE), False), (Step(Does.READ), True)]),
        (False, [(Step(Does.ROLLBACK_TO), False), (Step(Does.READ, sets=True), False)]),
    ]
)
def test_whoever_looks_is_shown_under_which_settings_each_write_ran(
    rounds: list[tuple[bool, list[tuple[Step, bool]]]],
) -> None:
    session = Session()
    session.round("query", [(Step(Does.BEGIN), False)])
    for is_query, told in rounds:
        one = session.named(told if is_query else [([step], fails) for step, fails in told])
        session.round("query" if is_query else "pipeline", one)


def test_what_is_set_behind_a_write_is_set_by_itself() -> None:
    for behind in ("SET search_path = x", "RESET ROLE", "SELECT set_config('a.b', 'c', false)"):
        ledger = Ledger()
        assert ledger.query(text("BEGIN; SET a.b = 1; INSERT INTO t VALUES (1)")).verdict is Verdict.PASS
        broken = ledger.run([text(behind)]).broken
        assert broken is not None
        assert "comes by itself" in broken.sentence
        assert ledger.run([text("SET TRANSACTION READ WRITE")]).verdict is Verdict.PASS
        assert ledger.query(text(f"INSERT INTO t VALUES (1); {behind}")).verdict is Verdict.REFUSE
        ledger.ready(b"T", has_failed=False)
        assert ledger.run([text("COMMIT")]).verdict is Verdict.HOLD  # as long as nobody knows the settings
        ledger.told((("a.b", "1"),))
        assert ledger.run([text("COMMIT")]).verdict is Verdict.ASK
        assert ledger.run([text(behind)]).verdict is Verdict.PASS
    assert Ledger().query(text("BEGIN; INSERT INTO t SELECT set_config('a.b', 'c', false)")).verdict is Verdict.REFUSE


def test_settings_that_are_others_make_another_mark() -> None:
    one, other = (("search_path", "a"),), (("search_path", "b"),)
    made = []
    for told in ((), (one,), (other,), (one, other), (one, other, one), (one, one)):
        written = Written()
        written.add(Write("x", "d", "UPDATE 1"))
        for each in told:
            written.tell(each)
        made.append(mark_of("ses_1", 1, written))
    assert made[1] == made[5]
    assert len(set(made)) == 5
    for n in range(MOST_UNDER + 3):
        written.tell((("n", str(n)),))
    assert (len(written.under), written.changes) == (MOST_UNDER, MOST_UNDER + 4)
    assert [each.first for each in written.under[:2]] == [1, 2]


def test_a_name_that_may_be_a_write_or_a_commit_hides_no_transaction() -> None:
    session = Session()
    write, commit = Step(Does.WRITE, b"1"), Step(Does.COMMIT)
    session.round("query", [(Step(Does.BEGIN), False)])
    session.round("pipeline", [([write, commit], False), ([commit], False)])
    assert (session.server.committed, session.server.pending) == ([], ("1",))


def test_what_may_have_ended_a_transaction_takes_nothing_off_what_was_written_in_it() -> None:
    session = Session()
    session.confirm()  # of nothing at all
    session.round("query", [(Step(Does.BEGIN), False), (Step(Does.WRITE, b"1"), False)])
    session.round("pipeline", [([Step(Does.READ), Step(Does.ROLLBACK_CHAIN)], False)])
    assert session.ledger.is_written
    assert [write.sql for write in session.ledger.written.shown] == ["1", ""]
    session.round("query", [(Step(Does.COMMIT), False)])
    assert session.server.committed == []


def test_of_a_name_that_may_be_either_both_are_shown() -> None:
    session = Session()
    session.round("query", [(Step(Does.BEGIN), False)])
    session.round("pipeline", [([Step(Does.WRITE, b"two"), Step(Does.READ, b"one")], False)])
    assert [write.sql for write in session.ledger.written.shown] == ["one  -- or: two"]


@pytest.mark.parametrize(
    ("sql", "hides"),
    [
        ("DO 'x'", True),
        ("CALL f()", True),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", True),
        ("CREATE EXTENSION x", True),
        ("DECLARE c CURSOR FOR SELECT nextval('s')", True),
        ("DECLARE c CURSOR FOR SELECT 1", False),
        ("INSERT INTO t VALUES (1)", False),
    ],
)
def test_what_reads_where_code_or_a_cursor_may_write_is_written(sql: str, hides: bool) -> None:
    begin, first = text("BEGIN"), text(sql)
    for fetch in (text("FETCH ALL c"), text("SELECT f()"), text("EXPLAIN SELECT f()"), CURSOR):
        ledger = Ledger()
        for each in (begin, first, fetch):
            assert ledger.run([each]).verdict is Verdict.PASS
            ledger.answered("FETCH 1" if each is fetch else "")
            ledger.ready(b"T", has_failed=False)
        assert [write.tag for write in ledger.written.shown].count("FETCH 1") == hides
        ledger.run([text("ROLLBACK")])
        ledger.ready(b"I", has_failed=False)
        assert [ledger.run([each]).verdict for each in (begin, fetch, text("COMMIT"))] == [Verdict.PASS] * 3


def test_the_model_commits_at_all() -> None:
    session = Session()
    begin, write, commit = Step(Does.BEGIN), Step(Does.WRITE, b"1"), Step(Does.COMMIT)
    session.round("query", [(begin, False), (write, False)])
    session.round("query", [(commit, False)])
    assert session.server.committed == []
    session.confirm()
    session.round("pipeline", [([write], False), ([commit], False)])
    session.round("query", [(commit, False)])
    assert session.server.committed == []
    session.confirm()
    session.round("pipeline", [([Step(Does.READ)], False), ([commit], False)])  # which may have set something
    assert session.server.committed == []
    session.round("pipeline", [([commit], False), ([Step(Does.READ)], False)])
    assert session.server.committed == [("1", "1")]
    assert session.ledger.has_committed


@pytest.mark.parametrize(
    ("tag", "rows"),
    [
        ("INSERT 0 7", 7),
        ("UPDATE 12", 12),
        ("MERGE 1", 1),
        ("COPY 3", 3),
        ("SELECT 1", 0),
        ("FETCH 9", 0),
        ("failed", 0),
        ("", 0),
    ],
)
def test_rows_are_those_that_were_written_and_not_those_that_were_shown(tag: str, rows: int) -> None:
    assert Write("WITH d AS (DELETE FROM t RETURNING 1) SELECT count(*) FROM d", "", tag).rows == rows


@pytest.mark.parametrize(
    "call", ["lo_export(1, '/x')", "pg_stat_reset()", "pg_create_logical_replication_slot('a', 'b')"]
)
def test_what_changes_more_than_tables_is_a_write(call: str) -> None:
    assert does(f"SELECT {call}") == [Does.WRITE]
