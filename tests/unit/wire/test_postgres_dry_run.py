"""The gate of a dry-run: rounds one after the other, however the streams are cut, and names that may mean either."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import postgres_names
from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_dry_run import DryRunGate
from gateway.wire.postgres_judge import Said, Word
from gateway.wire.postgres_messages import message
from tests.unit.wire.test_postgres_gate import bind, execute, kinds, parse, query

SYNC, FLUSH = message(b"S"), message(b"H")
DONE, IDLE, OPEN, BROKEN = message(b"C", b"INSERT 0 1\0"), message(b"Z", b"I"), message(b"Z", b"T"), message(b"Z", b"E")
ERROR, ROW, COPY_IN = message(b"E", b"C22012\0\0"), message(b"D", b"x" * 10), message(b"G", bytes(3))
DATA, COPY_DONE = message(b"d", b"y" * 5), message(b"c")
PREPARED, CURSOR, ANY = b"(prepared)", b"(cursor)", b"(any)"


class Judge:
    """Texts with `no` are refused, with `hold` held, with `ask` asked about; `name x` gives a name."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.asks = False

    def question(self) -> bytes:
        return b"mine" if self.asks and self.seen[-1] == (b"T", False) else b""

    def told(self, answer: bytes) -> None:
        self.seen.append(("told", answer))

    def read(self, sql: bytes) -> bytes:
        return sql

    def may_parse(self, sql: bytes) -> Said:
        return Said(Word.REFUSE, b"refused") if sql.startswith(b"copy") else Said(Word.PASS)

    def bound(self, sql: bytes, values: bytes | None) -> bytes:
        return sql if values == bytes(6) else sql + b"+" + (b"long" if values is None else values[6:])

    def query(self, sql: bytes) -> Said:
        return self.run(frozenset((sql,)))

    def run(self, sqls: frozenset[bytes]) -> Said:
        self.seen.append(set(sqls))
        for word, verdict in ((b"no", Word.REFUSE), (b"hold", Word.HOLD), (b"ask", Word.ASK)):
            if any(word in sql for sql in sqls):
                return Said(verdict, b"refused" if verdict is Word.REFUSE else b"")
        names = tuple(sql[5:] for sql in sqls if sql.startswith(b"name "))
        return Said(Word.PASS, names=names, hides=any(sql.startswith(b"do") for sql in sqls))

    def agreed(self, sqls: frozenset[bytes]) -> None:
        self.seen.append(("agreed", set(sqls)))

    def answered(self, tag: str) -> None:
        self.seen.append(tag)

    def ready(self, status: bytes, *, has_failed: bool) -> None:
        self.seen.append((status, has_failed))


def made() -> tuple[DryRunGate[bytes], Judge]:
    judge = Judge()
    return DryRunGate(judge, PREPARED, CURSOR, frozenset((PREPARED, ANY))), judge


def sent(gate: DryRunGate[bytes], chunk: bytes = b"") -> bytes:
    gate.feed(chunk)
    return gate.edited(gate.take())


def test_a_round_waits_for_the_one_before():
    gate, judge = made()
    assert sent(gate, query(b"a") + query(b"b")) == query(b"a")
    assert gate.is_blocked
    assert gate.answers(ROW + DONE) == [ROW + DONE]
    assert sent(gate) == b""
    assert gate.answers(OPEN) == [OPEN]
    assert sent(gate) == query(b"b")
    assert not gate.is_blocked
    assert judge.seen == [{b"a"}, "INSERT 0 1", (b"T", False), {b"b"}]
    gate.answers(IDLE)
    assert sent(gate, parse(b"a") + bind() + execute() + FLUSH) == parse(b"a") + bind() + execute() + FLUSH
    assert sent(gate, SYNC + parse(b"b")) == SYNC
    gate.answers(IDLE)
    assert sent(gate) == parse(b"b")


def test_a_commit_that_is_held_is_a_sync_and_the_client_hears_of_it():
    gate, _ = made()
    assert sent(gate, query(b"hold")) == SYNC
    assert gate.answers(OPEN) == [b"", None, OPEN]
    told = (
        parse(b"a")
        + bind()
        + execute()
        + parse(b"hold", b"x")
        + bind(b"", b"x")
        + execute()
        + parse(b"b")
        + DATA
        + FLUSH
    )
    assert kinds(sent(gate, told + SYNC + query(b"behind"))) == "PBEPBS"
    assert gate.answers(DONE + OPEN) == [DONE, None, OPEN]
    assert kinds(sent(gate)) == "Q"


def test_where_the_round_has_failed_already_the_client_knows():
    gate, judge = made()
    sent(gate, parse(b"a") + bind() + execute() + parse(b"hold") + bind() + execute() + SYNC)
    assert gate.answers(ERROR + BROKEN) == [ERROR + BROKEN]
    assert judge.seen[-1] == (b"E", True)


ANSWER = [
    message(b"3"), message(b"1"), message(b"2"), message(b"D", b"\0\1\0\0\0\2{}"), message(b"C", b"SELECT 1\0"),
    message(b"3"), message(b"3"),
]  # fmt: skip


def asked(
    gate: DryRunGate[bytes], judge: Judge, told: bytes = query(b"a"), answer: bytes = DONE + OPEN
) -> list[bytes | None]:
    judge.asks = True
    sent(gate, told)
    return gate.answers(answer)


def test_a_query_behind_what_nobody_has_flushed_waits_for_the_answers_as_pgjdbc_sends_it():
    gate, judge = made()
    begin, insert = parse(b"begin") + bind() + execute(), parse(b"a") + bind() + execute() + SYNC
    assert sent(gate, begin + query(b"savepoint") + insert) == begin + FLUSH
    assert gate.is_blocked
    assert sent(gate) == b""
    gate.answers(message(b"1") + message(b"2"))
    assert sent(gate) == b""
    gate.answers(DONE)
    assert sent(gate) == query(b"savepoint")
    gate.answers(DONE + OPEN)
    assert sent(gate) == insert
    assert judge.seen == [{b"begin"}, "INSERT 0 1", {b"savepoint"}, "INSERT 0 1", (b"T", False), {b"a"}]


def test_a_question_of_our_own_comes_between_two_rounds_and_the_client_hears_nothing_of_it():
    gate, judge = made()
    assert asked(gate, judge) == [DONE, b""]  # no ReadyForQuery yet
    assert sent(gate, query(b"behind")) == b""
    assert gate.is_blocked
    assert gate.question == b"mine"
    notice = message(b"N", b"x")
    assert gate.answers(notice) == [notice]
    assert gate.take_question() == b"mine"
    assert gate.is_asked
    judge.asks = False
    assert b"".join(each or b"" for each in gate.answers(b"".join(ANSWER) + notice + OPEN)) == notice + OPEN
    assert judge.seen[-1] == ("told", b"{}")
    assert not gate.is_asked
    assert sent(gate) == query(b"behind")


def test_behind_a_question_the_client_hears_that_its_commit_is_held():
    gate, judge = made()
    assert asked(gate, judge, parse(b"a") + bind() + execute() + parse(b"hold") + bind() + execute() + SYNC) == [
        DONE,
        b"",
    ]
    gate.take_question()
    assert [each for each in gate.answers(b"".join(ANSWER) + OPEN) if each != b""] == [None, OPEN]


def test_a_question_that_fails_fails_the_transaction_and_the_client_hears_of_it():
    for told in (query(b"a"), query(b"hold")):
        gate, judge = made()
        asked(gate, judge, told)
        gate.take_question()
        assert gate.answers(ERROR + BROKEN) == [ERROR + BROKEN]
        assert judge.seen[-1] == (b"E", False)
        assert sent(gate, query(b"b")) == query(b"b")


@pytest.mark.parametrize(
    "answer",
    [OPEN, IDLE, ANSWER[3] + IDLE, message(b"G", bytes(3)), message(b"D", bytes(1 << 16)), message(b"T"), COPY_IN],
)
def test_what_is_no_answer_ends_the_session(answer: bytes):
    gate, judge = made()
    asked(gate, judge)
    gate.take_question()
    with pytest.raises(ProtocolViolation):
        gate.answers(answer)
    gate, judge = made()
    asked(gate, judge)
    with pytest.raises(ProtocolViolation):  # before it was asked
        gate.answers(ANSWER[3])


def test_what_is_asked_about_waits_for_the_answer():
    for may_pass in (True, False):
        gate, judge = made()
        assert sent(gate, query(b"ask") + query(b"behind")) == b""
        assert gate.is_asking
        assert gate.is_blocked
        gate.answer(may_pass=may_pass)
        assert sent(gate) == (query(b"ask") if may_pass else SYNC)
        assert (("agreed", {b"ask"}) in judge.seen) is may_pass
        assert gate.answers(OPEN) == ([OPEN] if may_pass else [b"", None, OPEN])
        assert sent(gate) == query(b"behind")
        gate.answers(OPEN)
        assert kinds(sent(gate, parse(b"ask") + bind() + execute() + SYNC)) == "PB"
        gate.answer(may_pass=may_pass)
        assert kinds(sent(gate)) == ("ES" if may_pass else "S")


def test_what_is_refused_has_a_stand_in():
    gate, _ = made()
    assert sent(gate, query(b"no")) == query(b"refused")
    gate.answers(ERROR + BROKEN)
    assert kinds(sent(gate, parse(b"no") + bind() + execute() + SYNC)) == "PBPS"
    gate.answers(ERROR + BROKEN)
    assert b"refused" in sent(gate, parse(b"copy t from stdin", b"c"))


def test_names_mean_what_the_last_round_made_of_them():
    gate, judge = made()

    def means(name: bytes) -> object:
        sent(gate, bind(b"", name) + execute() + SYNC)
        gate.answers(OPEN)
        return judge.seen[-2]

    assert means(b"x") == {PREPARED}
    sent(gate, parse(b"a", b"x") + SYNC)
    gate.answers(OPEN)
    assert means(b"x") == {b"a"}
    sent(gate, parse(b"b", b"x") + SYNC)
    gate.answers(ERROR + BROKEN)
    assert means(b"x") == {b"a", b"b"}
    sent(gate, message(b"C", b"Sx\0") + parse(b"c", b"x") + SYNC)
    gate.answers(OPEN)
    assert means(b"x") == {b"c"}
    sent(gate, message(b"C", b"Sx\0") + SYNC)
    gate.answers(ERROR + BROKEN)
    assert means(b"x") == {b"c"}
    sent(gate, query(b"name x"))
    gate.answers(OPEN)
    assert means(b"x") == {b"c", PREPARED}
    sent(gate, message(b"C", b"Sx\0") + SYNC)
    gate.answers(OPEN)
    assert means(b"x") == {PREPARED}
    long = b"n" * 70
    sent(gate, parse(b"d", long) + SYNC)
    gate.answers(OPEN)
    assert means(long[:63]) == {b"d"}


def test_code_that_is_not_read_may_give_any_name_to_anything_and_that_stays():
    gate, judge = made()
    sent(gate, parse(b"a", b"x") + parse(b"a", b"y") + parse(b"a", b"") + SYNC)
    gate.answers(IDLE)
    sent(gate, query(b"do"))
    gate.answers(OPEN)
    sent(gate, parse(b"b", b"z") + bind(b"", b"z") + execute() + SYNC)
    assert judge.seen[-1] == {b"b", PREPARED}
    gate.answers(OPEN)
    sent(gate, bind(b"", b"") + execute() + bind(b"p", b"x") + execute(b"p") + SYNC)
    assert judge.seen[-2:] == [{b"a"}, {b"a", PREPARED, CURSOR}]
    gate.answers(ERROR + BROKEN)
    sent(gate, query(b"rollback"))
    gate.answers(IDLE)
    sent(gate, message(b"C", b"Sy\0") + parse(b"c", b"y") + bind(b"", b"y") + execute() + SYNC)
    assert judge.seen[-1] == {b"c"}
    gate.answers(IDLE)
    sent(gate, bind(b"", b"x") + execute() + SYNC)
    assert judge.seen[-1] == {b"a", PREPARED}
    gate.answers(IDLE)
    sent(gate, parse(b"do", b"") + bind(b"", b"") + execute() + bind(b"", b"y") + execute() + SYNC)
    assert judge.seen[-1] == {b"c", PREPARED}


def test_a_name_that_an_encoding_may_spell_otherwise_may_be_anything():
    gate, judge = made()
    sent(gate, parse(b"a", b"\xc3\xa9") + bind(b"", b"\xc3\xa9") + execute() + SYNC)
    assert judge.seen[-1] == {PREPARED, ANY}


def test_a_portal_keeps_the_meaning_that_it_was_bound_with():
    gate, judge = made()
    sent(gate, parse(b"a", b"x") + bind(b"p", b"x") + parse(b"b", b"x") + execute(b"p") + execute(b"cursor") + SYNC)
    assert judge.seen == [{b"a"}, {CURSOR}]
    gate.answers(OPEN)
    sent(gate, execute(b"p") + SYNC)
    assert judge.seen[-1] == {b"a"}
    gate.answers(IDLE)
    sent(gate, execute(b"p") + SYNC)
    assert judge.seen[-1] == {CURSOR}  # no portal outlives its transaction


def test_values_belong_to_the_portal_and_those_that_are_too_long_pass_unread():
    gate, judge = made()
    rounds = parse(b"a", b"x") + bind(b"p", b"x", b"one") + bind(b"q", b"x", b"two") + execute(b"p") + execute(b"q")
    sent(gate, rounds + SYNC)
    assert judge.seen == [{b"a+one"}, {b"a+two"}]
    gate.answers(OPEN)
    sent(gate, parse(b"1/0") + execute() + bind(b"p", b"x", b"three") + SYNC)
    gate.answers(ERROR + BROKEN)
    sent(gate, execute(b"p") + SYNC)
    assert judge.seen[-1] == {b"a+one", b"a+three"}
    gate.answers(OPEN)
    long = bind(b"p", b"x", b"v" * 30_000)
    assert sent(gate, long[:10_000]) == b""
    assert sent(gate, long[10_000:25_000]) == long[:25_000]
    assert sent(gate, long[25_000:] + execute(b"p")) == long[25_000:] + execute(b"p")
    assert judge.seen[-1] == {b"a+long"}


def test_beyond_the_names_that_are_remembered_each_may_be_anything(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(postgres_names, "MOST_NAMES", 2)
    gate, judge = made()
    for name in (b"x", b"y", b"z"):
        sent(gate, parse(b"a", name) + SYNC)
        gate.answers(IDLE)
    sent(gate, bind(b"", b"x") + execute() + SYNC)
    assert judge.seen[-1] == {PREPARED, ANY}
    gate.answers(IDLE)
    with pytest.raises(ProtocolViolation):
        sent(gate, parse(b"a", b"1") + parse(b"a", b"2") + parse(b"a", b"3"))


def test_copy_data_passes_and_nothing_else():
    gate, _ = made()
    sent(gate, query(b"copy"))
    assert gate.answers(COPY_IN) == [COPY_IN]
    assert sent(gate, DATA + DATA[:3]) == DATA
    assert not gate.is_blocked  # the rest of a piece must be read
    assert sent(gate, DATA[3:] + SYNC + COPY_DONE) == DATA
    gate, _ = made()
    sent(gate, query(b"copy"))
    assert sent(gate, DATA + COPY_DONE + query(b"b")) == DATA + COPY_DONE
    gate, _ = made()
    sent(gate, parse(b"a") + bind() + execute() + SYNC)
    with pytest.raises(ProtocolViolation):
        gate.answers(COPY_IN)


def test_what_nobody_sends_ends_the_session():
    for behind in (query(b"b"), message(b"F", bytes(10))):
        gate, _ = made()
        sent(gate, parse(b"a") + behind)
        gate.answers(ERROR)
        with pytest.raises(ProtocolViolation):  # the server skips it
            sent(gate)
    gate, _ = made()
    with pytest.raises(ProtocolViolation):
        gate.answers(IDLE)
    with pytest.raises(ProtocolViolation):
        gate.answers(b"C" + (1 << 20).to_bytes(4, "big"))


def test_what_is_too_long_is_left_to_the_account_and_nothing_of_it_is_sent():
    gate, _ = made()
    long = b"Q" + (1 << 30).to_bytes(4, "big") + b"x" * 100
    gate.feed(long)
    assert gate.take() == long
    assert gate.edited(long) == b""
    assert sent(gate, query(b"a")) == b""


def test_a_query_behind_what_was_answered_without_a_sync_passes_as_asyncpg_sends_it():
    gate, judge = made()
    described = message(b"D", b"Sx\0")
    sent(gate, parse(b"a", b"x") + described + FLUSH)
    gate.answers(message(b"1") + message(b"t", bytes(2)))
    assert sent(gate, query(b"early")) == FLUSH
    gate.answers(message(b"n"))
    assert sent(gate) == query(b"early")
    gate, judge = made()
    sent(gate, parse(b"a", b"x") + described + bind(b"", b"x") + execute() + FLUSH)
    gate.answers(message(b"1") + message(b"t", bytes(2)) + message(b"T", bytes(2)) + message(b"2") + ROW + DONE)
    assert sent(gate, query(b"b") + query(b"c")) == query(b"b")
    gate.answers(DONE + OPEN)
    assert sent(gate) == query(b"c")
    assert judge.seen == [{b"a"}, "INSERT 0 1", {b"b"}, "INSERT 0 1", (b"T", False), {b"c"}]
    gate, _ = made()
    assert kinds(sent(gate, message(b"C", b"Sx\0") + message(b"C", b"P\0") + query(b"b"))) == "CCQ"  # as pgjdbc does
    gate.answers(message(b"3") * 2 + DONE + OPEN)
    assert sent(gate, query(b"c")) == query(b"c")
    gate, _ = made()
    sent(gate, parse(b"a", b"x") + FLUSH)
    gate.answers(ERROR)
    with pytest.raises(ProtocolViolation):
        sent(gate, query(b"skipped by the server"))


MESSAGES = [
    query(b"a"), query(b"hold"), query(b"no"), parse(b"a") + bind() + execute() + SYNC, FLUSH,
    parse(b"hold") + bind(b"", b"", b"v" * 30) + execute() + parse(b"b", b"n") + SYNC, SYNC, bind(b"p", b"n") + execute(b"p") + SYNC,
    parse(b"no") + bind() + execute() + execute() + SYNC, message(b"F", bytes(10)),
]  # fmt: skip


def in_pieces(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    return [stream[a:b] for a, b in pairwise(places)]


def served(stream: bytes, cuts: Sequence[int], answer_cuts: Sequence[int]) -> tuple[bytes, bytes, list[object]]:
    """With a server that answers each round in whole: what was taken, what was sent, what the judge saw; and last what
    the client heard.
    """
    gate, judge = made()
    judge.asks = True
    taken = went = b""
    heard: list[bytes | None] = []
    for piece in in_pieces(stream, cuts):
        gate.feed(piece)
        while told := gate.take():
            taken += told
            went += b"".join(gate.edited(part) for part in in_pieces(told, cuts))
            if gate.is_waiting:
                for part in in_pieces(DONE + OPEN, answer_cuts):
                    heard += gate.answers(part)
                if gate.take_question():
                    for part in in_pieces(b"".join(ANSWER) + OPEN, answer_cuts):
                        heard += gate.answers(part)
    return taken, went, [*judge.seen, b"".join(b"(held)" if each is None else each for each in heard)]


@given(
    st.lists(st.sampled_from(MESSAGES), max_size=8),
    st.lists(st.integers(0, 500), max_size=6),
    st.lists(st.integers(0, 30), max_size=3),
)
def test_however_the_streams_are_cut_it_is_the_same(rounds: list[bytes], cuts: list[int], answer_cuts: list[int]):
    stream = b"".join(rounds)
    whole = served(stream, [], [])
    assert served(stream, cuts, answer_cuts)[1:] == whole[1:]
    assert whole[0] == stream
