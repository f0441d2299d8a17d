import json
from datetime import UTC, datetime
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


def told(books: Books) -> list[tuple[str, dict[str, Any]]]:
    return [(kind, {**json.loads(data), "ms": 0}) for kind, _, data in books.records]


@given(st.lists(st.one_of(ASKED.map(lambda m: (True, m)), ANSWERED.map(lambda m: (False, m))), max_size=20), st.data())
def test_accounting_later_tells_the_same(chunks: list[tuple[bool, bytes]], data: st.DataObject) -> None:
    at_once, late = Books(lambda: AT), Books(lambda: AT)
    wrong = None
    for is_asking, chunk in chunks:
        try:
            (at_once.ask if is_asking else at_once.answer)(chunk)
        except ProtocolViolation as why:
            wrong = str(why)
            late.later(chunk, is_asking=is_asking)
            break
        late.later(chunk, is_asking=is_asking)
        if data.draw(st.booleans()):
            assert late.catch_up() is None
    found = late.catch_up()
    assert (str(found) if found else None) == wrong
    assert [each for each in told(late) if each[0] != "unread"] == told(at_once)
    if wrong is not None:
        assert late.is_unreadable is is_asking is (told(late)[-1:] != [] and told(late)[-1][0] == "unread")


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
