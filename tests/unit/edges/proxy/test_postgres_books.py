import json
from datetime import UTC, datetime
from itertools import chain, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.recording import unix_ns
from gateway.edges.proxy.postgres_books import Books
from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_account import Entry
from gateway.wire.postgres_messages import message

AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
BIND = message(b"B", b"\0\0" + bytes(6))
EXECUTE = message(b"E", bytes(5))
ASKED = st.sampled_from([
    message(b"Q", b"SELECT 1\0"), BIND + EXECUTE + message(b"S"), message(b"P", b"\0SELECT 2\0\0\0"), message(b"S"), BIND, EXECUTE,
    message(b"F", bytes(8)), message(b"X"), message(b"Q", b"half\0")[:7], b"\xff" * 5, message(b"d", b"data"), message(b"c"),
])  # fmt: skip
ANSWERED = st.sampled_from([
    message(b"C", b"SELECT 1\0"), message(b"D", b"\0\0"), message(b"Z", b"I"), message(b"1"), message(b"2"), message(b"G", b"\0\0\0"),
    message(b"E", b"C42P01\0\0"), message(b"D", b"\0" * 9)[:6],
])  # fmt: skip


DESCRIBE, SYNC, READY, READY_IN_TX = message(b"D", b"P\0"), message(b"S"), message(b"Z", b"I"), message(b"Z", b"T")
COMPLETE, DESCRIPTION, ROWS = message(b"C", b"SELECT 2\0"), message(b"T", b"\0\0"), message(b"D", b"\0\0") * 2
PREPARE, NAMED, BOUND = message(b"P", b"s\0SELECT 3\0\0\0"), message(b"B", b"\0s\0" + bytes(6)), message(b"2")
VALUED = message(b"B", b"\0s\0" + b"\0\0\0\1\0\0\0\2ab\0\0")
QUERY = message(b"Q", b"SELECT 1\0")
TRIPS = [  # a question, and an answer that fits it
    (QUERY, DESCRIPTION + ROWS + COMPLETE), (QUERY, COMPLETE), (message(b"Q", b"BEGIN\0"), message(b"C", b"BEGIN\0")),
    (message(b"Q", b"rollback\0"), message(b"C", b"ROLLBACK\0")), (QUERY, message(b"E", b"C42P01\0\0")),
    (message(b"Q", b"DISCARD ALL\0"), message(b"C", b"DISCARD ALL\0")), (QUERY, DESCRIPTION + ROWS + message(b"C", b"COPY 1\0") * 2),
    (PREPARE + SYNC, message(b"1")), (PREPARE + NAMED + EXECUTE + SYNC, message(b"1") + BOUND + ROWS + COMPLETE),
    (NAMED + EXECUTE + SYNC, BOUND + ROWS + COMPLETE), (VALUED + EXECUTE + SYNC, BOUND + ROWS + COMPLETE),
    (NAMED + DESCRIBE + EXECUTE + SYNC, BOUND + DESCRIPTION + ROWS + COMPLETE), (EXECUTE + SYNC, ROWS + COMPLETE),
    (VALUED + DESCRIBE + EXECUTE + SYNC, BOUND + message(b"n") + COMPLETE), (NAMED + EXECUTE + SYNC, message(b"E", b"C42P01\0\0")),
    (NAMED + EXECUTE + SYNC, BOUND + message(b"C", b"ROLLBACK\0")),
]  # fmt: skip
FITTING = st.tuples(st.sampled_from(TRIPS), st.sampled_from([READY, READY, READY_IN_TX])).map(
    lambda drawn: [(True, drawn[0][0]), (False, drawn[0][1] + drawn[1])]
)
QUESTIONS = [question for question, _ in TRIPS] + [VALUED[:-3] + EXECUTE + SYNC, message(b"Q", b"a\0b\0")]
ODD = st.tuples(
    st.sampled_from(QUESTIONS),
    st.sampled_from([answer for _, answer in TRIPS]),
).map(lambda pair: [(True, pair[0]), (False, pair[1] + READY)])
KNOWN = [(True, PREPARE + NAMED + EXECUTE + SYNC), (False, message(b"1") + BOUND + ROWS + COMPLETE + READY)]  # and told
OPEN = [(True, message(b"Q", b"BEGIN\0")), (False, message(b"C", b"BEGIN\0") + READY_IN_TX)]
UNDO, LONG = message(b"P", b"s\0rollback\0\0\0"), message(b"P", b"s\0" + b"x" * 70_000 + b"\0\0\0")
HALF = [(True, message(b"Q", b"half\0")[:7])]
BEGINNINGS = [
    [], KNOWN, OPEN, KNOWN + OPEN, HALF, KNOWN + HALF, [*KNOWN, (True, QUERY)], [(True, PREPARE + SYNC), (False, message(b"1") + READY)],
    [(True, UNDO + NAMED + EXECUTE + SYNC), (False, message(b"1") + BOUND + message(b"C", b"ROLLBACK\0") + READY), *OPEN], [(True, LONG + SYNC), (False, message(b"1") + READY)],
]  # fmt: skip
SINGLES = st.one_of(ASKED.map(lambda m: [(True, m)]), ANSWERED.map(lambda m: [(False, m)]))


def told(books: Books) -> list[tuple[str, dict[str, Any]]]:
    return [(kind, {**json.loads(data), "ms": 0}) for kind, _, data in books.records]


def in_pieces(books: Books, chunk: bytes, *, is_asking: bool) -> None:
    """Nothing is recognised at a glance in three bytes, nor in a part of a long text: message by message."""
    size = 3 if len(chunk) < 1_000 else 10_000
    for start in range(0, len(chunk), size):
        (books.ask if is_asking else books.answer)(chunk[start : start + size])


@given(st.lists(st.one_of(FITTING, FITTING, FITTING, ODD, SINGLES), max_size=20), st.sets(st.integers(0, 40)))
def test_accounting_at_once_or_later_tells_the_same_as_message_by_message(
    chunks: list[list[tuple[bool, bytes]]], pauses: set[int]
) -> None:
    hold_together(list(chain.from_iterable(chunks)), pauses)


@pytest.mark.parametrize("begun", BEGINNINGS)
def test_every_question_and_answer_tell_the_same_as_message_by_message(begun: list[tuple[bool, bytes]]) -> None:
    after = [(True, NAMED + EXECUTE + SYNC), (False, BOUND + ROWS + COMPLETE + READY)]
    for question, answer, ready in product(QUESTIONS, {answer for _, answer in TRIPS}, (READY, READY_IN_TX)):
        hold_together([*begun, (True, question), (False, answer + ready), *after], set())


def hold_together(chunks: list[tuple[bool, bytes]], pauses: set[int]) -> None:
    by_message, at_once, first, late = (Books(lambda: AT) for _ in range(4))
    wrong, is_asking = None, False
    for place, (is_asking, chunk) in enumerate(chunks):
        late.later(chunk, is_asking=is_asking)
        if is_asking:  # as where records come first: answers are accounted for with the question behind them
            assert first.catch_up() is None
        else:
            first.later(chunk, is_asking=False)
        try:
            in_pieces(by_message, chunk, is_asking=is_asking)
        except ProtocolViolation as why:
            wrong = str(why)
        for books in (at_once, first) if is_asking else (at_once,):
            told_wrong = None
            try:
                (books.ask if is_asking else books.answer)(chunk)
            except ProtocolViolation as why:
                told_wrong = str(why)
            assert told_wrong == wrong
        if wrong is not None:
            break
        if place in pauses:
            assert late.catch_up() is None
    found, last = late.catch_up(), first.catch_up()
    assert (str(found) if found else None) == wrong
    assert (str(last) if last else None) == (None if wrong is None or is_asking else wrong)
    assert [each for each in told(late) if each[0] != "unread"] == told(at_once) == told(first) == told(by_message)
    if wrong is not None:
        assert late.is_unreadable is is_asking is (told(late)[-1:] != [] and told(late)[-1][0] == "unread")


@pytest.mark.parametrize("is_late", [True, False])
def test_a_mistake_of_ours_ends_it_and_what_went_on_is_recorded(
    is_late: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    books = Books(lambda: AT)

    def mistaken(*_: object) -> None:
        raise IndexError("hunter2")

    monkeypatch.setattr(books.asks, "feed", mistaken)
    monkeypatch.setattr(books, "_trip", mistaken)
    monkeypatch.setattr(books.account, "opens", mistaken)
    if is_late:
        books.later(QUERY, is_asking=True)
        books.later(READY, is_asking=False)
        assert str(books.catch_up()) == "the gateway could not account for it"
        assert told(books)[0][0] == "unread"
    else:
        with pytest.raises(ProtocolViolation, match="the gateway could not account for it"):
            books.ask(QUERY)
    assert "IndexError" in caplog.text
    assert "hunter2" not in caplog.text


def test_what_went_on_behind_a_violation_is_recorded_unread() -> None:
    books = Books(lambda: AT)
    odd, behind = b"Q" + bytes(9), message(b"Q", b"DROP TABLE t\0")
    for chunk in (message(b"Q", b"SELECT 1\0"), odd, behind):
        books.later(chunk, is_asking=True)
    assert isinstance(books.catch_up(), ProtocolViolation)
    assert [kind for kind, _, _ in books.records] == ["statement", "unread", "unread"]
    assert [bytes.fromhex(each["hex"]) for kind, each in told(books) if kind == "unread"] == [odd, behind]


def test_an_answer_is_accounted_for_although_the_question_behind_it_is_odd() -> None:
    books = Books(lambda: AT)
    books.later(message(b"Q", b"SELECT 1\0"), is_asking=True)
    books.later(b"\xff" * 5, is_asking=True)
    books.later(message(b"C", b"SELECT 1\0") + message(b"Z", b"I"), is_asking=False)
    books.catch_up()
    assert [kind for kind, _, _ in books.records] == ["statement", "unread", "result"]


@pytest.mark.parametrize("is_late", [False, True])
def test_records_carry_the_instant_at_which_their_bytes_came(*, is_late: bool) -> None:
    books = Books(lambda: AT)
    if is_late:
        books.later(message(b"Q", b"SELECT 1\0"), is_asking=True)
        books.catch_up()
    else:
        books.ask(message(b"Q", b"SELECT 1\0"))
    books.note(Entry("startup", b"{}"))
    (_, first, _), (_, second, _) = books.records
    assert first <= second
    assert abs(first - unix_ns(AT)) < 600e9


def test_copy_data_counts_behind_data_that_nobody_asked_for() -> None:
    books = Books(lambda: AT)
    books.ask(QUERY + message(b"d", b"x"))
    books.answer(COMPLETE + READY)
    books.ask(message(b"Q", b"COPY t FROM STDIN\0"))
    books.ask(message(b"d", b"data") + message(b"c"))
    books.answer(message(b"G", b"\0\0\0") + message(b"C", b"COPY 1\0") + READY)
    last = json.loads(books.records[-1][2])
    assert (last["tag"], last["bytes_in"]) == ("COPY 1", 4)
