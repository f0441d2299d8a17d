"""Transactions in the account: held against a server in miniature, and the cases that it cannot play."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.postgres_messages import Report, error_response, message, notice_response
from gateway.wire.postgres_rounds import RoundAccount
from gateway.wire.postgres_transactions import Turn, turn_of
from gateway.wire.postgres_walk import ClientWalk, ServerWalk

SYNC = message(b"S")


def query(sql: str) -> bytes:
    return message(b"Q", sql.encode() + b"\0")


def run(sql: str) -> bytes:
    """Parse, Bind and Execute."""
    return message(b"P", b"\0" + sql.encode() + b"\0\0\0") + message(b"B", bytes(8)) + message(b"E", bytes(5))


def tag(text: str) -> bytes:
    return message(b"C", text.encode() + b"\0")


def ran(text: str) -> bytes:
    return message(b"1") + message(b"2") + tag(text)


def ready(status: str) -> bytes:
    return message(b"Z", status.encode())


def warning(code: str) -> bytes:
    return notice_response(Report("WARNING", code, "no"))


FAILED = error_response(Report("ERROR", "23505", "no"))


class Session:
    def __init__(self) -> None:
        self._account = RoundAccount(blake3)
        self._client, self._server = ClientWalk(self._account), ServerWalk(self._account)

    def exchange(self, asked: bytes, *answers: bytes) -> "Session":
        self._client.feed(asked, 0)
        for answer in answers:
            self._server.feed(answer, 0)
        return self

    def close(self) -> "Session":
        self._account.close(0)
        return self

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [json.loads(data) for told, data in self._account.entries if told == kind]

    def outcomes(self) -> list[tuple[int, str, int]]:
        return [(each["tx"], each["outcome"], each["n"]) for each in self.of("transaction")]

    def members(self) -> list[int]:
        return [each.get("tx", 0) for each in self.of("result")]


def test_statements_know_their_transaction_and_its_end_is_told_behind_its_last_one() -> None:
    session = Session()
    session.exchange(query("SELECT 1"), tag("SELECT 1") + ready("I"))
    session.exchange(query("BEGIN"), tag("BEGIN") + ready("T"))
    session.exchange(query("UPDATE a"), tag("UPDATE 3") + ready("T"))
    session.exchange(query("COMMIT"), tag("COMMIT") + ready("I"))
    session.exchange(query("START TRANSACTION"), tag("START TRANSACTION"), ready("T"))
    session.exchange(query("UPDATE b"), FAILED, ready("E"))
    session.exchange(query("COMMIT"), tag("ROLLBACK") + ready("I"))
    assert session.members() == [0, 1, 1, 1, 2, 2, 2]
    assert session.outcomes() == [(1, "committed", 4), (2, "rolled-back", 7)]


def test_pipelined_transactions_are_told_apart_before_any_ready() -> None:
    session = Session().exchange(
        b"".join(map(run, ("BEGIN", "a", "COMMIT", "b", "BEGIN", "c", "ROLLBACK"))) + SYNC,
        b"".join(map(ran, ("BEGIN", "UPDATE 1", "COMMIT", "UPDATE 1", "BEGIN", "UPDATE 1", "ROLLBACK"))) + ready("I"),
    )
    assert session.members() == [1, 1, 1, 0, 2, 2, 2]
    assert session.outcomes() == [(1, "committed", 3), (2, "rolled-back", 7)]


def test_what_is_skipped_never_ran_in_it() -> None:
    session = Session().exchange(run("BEGIN") + run("a") + run("b") + SYNC, ran("BEGIN") + FAILED, ready("E"))
    assert session.members() == [1, 1, 0]
    assert session.exchange(query("ROLLBACK"), tag("ROLLBACK") + ready("I")).outcomes() == [(1, "rolled-back", 4)]


@pytest.mark.parametrize("lost_before", [True, False])
def test_a_session_that_ends_loses_its_transaction(lost_before: bool) -> None:
    session = Session().exchange(query("BEGIN"), tag("BEGIN") + ready("T"))
    if not lost_before:
        session.exchange(query("COMMIT"))
    session.close().close()
    assert session.outcomes() == [(1, "lost", 0)]
    assert [each["state"] for each in session.of("result")][1:] == ([] if lost_before else ["unknown"])


def test_a_commit_that_fails_undoes() -> None:
    session = Session().exchange(query("BEGIN"), tag("BEGIN") + ready("T"))
    session.exchange(run("COMMIT") + SYNC, message(b"1") + message(b"2") + FAILED + ready("I"))
    assert (session.members(), session.outcomes()) == ([1, 1], [(1, "rolled-back", 2)])


def test_chains_and_prepared_transactions() -> None:
    session = Session().exchange(query("BEGIN"), tag("BEGIN") + ready("T"))
    session.exchange(query("COMMIT AND CHAIN"), tag("COMMIT") + ready("T"))
    session.exchange(
        run("rollback and chain") + run("a") + SYNC, ran("ROLLBACK") + ran("UPDATE 1") + ready("T")
    ).exchange(query("PREPARE TRANSACTION 'x'"), tag("PREPARE TRANSACTION") + ready("I"))
    assert session.members() == [1, 1, 2, 3, 3]
    assert session.outcomes() == [(1, "committed", 2), (2, "rolled-back", 3), (3, "prepared", 5)]


def test_many_in_one_text() -> None:
    session = Session().exchange(
        query("BEGIN; SAVEPOINT a; ROLLBACK TO a; COMMIT; BEGIN; x"),
        b"".join(map(tag, ("BEGIN", "SAVEPOINT", "ROLLBACK", "COMMIT", "BEGIN", "UPDATE 1"))) + ready("T"),
    )
    session.exchange(query("x; COMMIT AND CHAIN; y"), tag("SELECT 1") + tag("COMMIT") + tag("SELECT 1") + ready("T"))
    assert session.members() == [2, 2]
    assert session.outcomes() == [(1, "committed", 1), (2, "committed", 2)]
    session.exchange(query("z"), tag("SELECT 1") + ready("T"))
    assert session.members() == [2, 2, 3]


def test_warnings_of_the_server_say_what_a_tag_does_not() -> None:
    session = Session().exchange(query("BEGIN"), tag("BEGIN") + ready("T"))
    session.exchange(query("BEGIN"), warning("25001") + tag("BEGIN") + ready("T"))
    session.exchange(query("ROLLBACK; COMMIT"), tag("ROLLBACK") + warning("25P01") + tag("COMMIT") + ready("I"))
    session.exchange(query("COMMIT"), warning("25P01") + tag("COMMIT") + ready("I"))
    assert session.members() == [1, 1, 1, 0]
    assert session.outcomes() == [(1, "rolled-back", 3)]


def test_a_warning_that_a_function_raises_is_not_believed() -> None:
    session = Session().exchange(query("BEGIN"), tag("BEGIN") + ready("T"))
    session.exchange(query("SELECT f()"), warning("25001"), tag("SELECT 1") + ready("T"))
    text = "SELECT f(); ROLLBACK/**/; BEGIN"
    session.exchange(query(text), warning("25001") + tag("SELECT 1") + tag("ROLLBACK") + tag("BEGIN") + ready("T"))
    session.exchange(query("COMMIT"), tag("COMMIT") + ready("I"))
    assert session.outcomes() == [(1, "unknown", 3), (2, "committed", 4)]


@pytest.mark.parametrize("follows", ["COMMIT", "BEGIN", ""])
def test_what_cannot_be_known_is_not_claimed(follows: str) -> None:
    """With `client_min_messages = error` there are no warnings, and this text does not tell."""
    session = Session().exchange(query("BEGIN"), tag("BEGIN") + ready("T"))
    tags = tag("ROLLBACK") + (tag(follows) if follows else b"")
    session.exchange(query(f"ROLLBACK/**/TO a; {follows}"), tags, ready("I" if follows == "COMMIT" else "T"))
    assert session.outcomes() == [(1, "unknown", 2)]


def test_a_commit_where_there_is_no_transaction_is_an_odd_thing_to_be_told_of() -> None:
    session = Session().exchange(query("BEGIN"), tag("BEGIN") + ready("T"))
    session.exchange(query("COMMIT"), warning("25P01") + tag("COMMIT") + ready("I"))
    assert session.outcomes() == [(1, "unknown", 2)]
    session.exchange(query("x"), tag("DO") + ready("T")).exchange(query("y"), tag("DO") + ready("E"))
    assert session.members()[2:] == [0, 2]


@pytest.mark.parametrize(
    ("sql", "turn"),
    [
        ("COMMIT", Turn.WHOLE),
        (" /* a */ -- b\n\tEND work ;\n", Turn.WHOLE),
        ("ABORT TRANSACTION AND NO CHAIN", Turn.WHOLE),
        ("Rollback And Chain;", Turn.CHAIN),
        ("ROLLBACK TO SAVEPOINT a", Turn.SAVEPOINT),
        ("ROLLBACK WORK TO a; RELEASE a", Turn.SAVEPOINT),
        ("ROLLBACK TO a; ROLLBACK", Turn.UNKNOWN),
        ("ROLLBACK; ROLLBACK TO a", Turn.UNKNOWN),
        ("ABORT; ROLLBACK TO a", Turn.UNKNOWN),
        ('ROLLBACK TO"a"', Turn.UNKNOWN),
        ("COMMIT; SELECT 1", Turn.UNKNOWN),
        ("SELECT 1", Turn.UNKNOWN),
        ("/*" * 300_000, Turn.UNKNOWN),
        ("/**/" * 200_000 + "rollback x", Turn.UNKNOWN),
        ("rollback " * 100_000, Turn.UNKNOWN),
    ],
)
def test_what_texts_say(sql: str, turn: Turn) -> None:
    assert turn_of(sql.encode()) is turn


class Server:
    """What PostgreSQL does with transactions, for simple queries of one statement each."""

    def __init__(self) -> None:
        self.status, self.count, self.savepoints = "I", 0, 0
        self.ends: list[tuple[int, str]] = []

    def answer(self, sql: str) -> bytes:
        return b"".join(self._answer(sql)) + ready(self.status)

    def _answer(self, sql: str) -> Iterable[bytes]:
        verb = sql.split(maxsplit=1)[0]
        if self.status == "E" and verb not in ("ROLLBACK", "COMMIT"):
            yield FAILED
        elif verb == "BEGIN":
            if self.status == "T":
                yield warning("25001")
            else:
                self._begin()
            yield tag("BEGIN")
        elif sql == "ROLLBACK TO a" or verb == "SAVEPOINT":
            yield from self._save(verb)
        elif verb in ("COMMIT", "ROLLBACK"):
            yield from self._finish(sql, verb)
        elif sql == "fails":
            self.status = "E" if self.status == "T" else self.status
            yield FAILED
        else:
            yield tag("UPDATE 1")

    def _begin(self) -> None:
        self.count += 1
        self.status, self.savepoints = "T", 0

    def _save(self, verb: str) -> Iterable[bytes]:
        if self.status == "I" or (verb == "ROLLBACK" and not self.savepoints):
            self.status = self.status if self.status == "I" else "E"
            yield FAILED
        else:
            self.savepoints += 1
            self.status = "T"
            yield tag(verb)

    def _finish(self, sql: str, verb: str) -> Iterable[bytes]:
        if self.status == "I":
            yield FAILED if sql.endswith("CHAIN") else warning("25P01") + tag(verb)
            return
        did = "COMMIT" if verb == "COMMIT" and self.status == "T" else "ROLLBACK"
        self.ends.append((self.count, "committed" if did == "COMMIT" else "rolled-back"))
        self.status = "I"
        if sql.endswith("AND CHAIN"):
            self._begin()
        yield tag(did)


STATEMENTS = (
    "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "ROLLBACK TO a", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "works", "fails",
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(STATEMENTS), st.booleans())))
def test_the_account_knows_what_the_server_did(said: list[tuple[str, bool]]) -> None:
    server, session = Server(), Session()
    expected = []
    for sql, is_cut in said:
        before = server.count if server.status != "I" else 0
        answer = server.answer(sql)
        expected.append(before or (server.count if server.status != "I" else 0))
        session.exchange(query(sql), *((answer[:7], answer[7:]) if is_cut else (answer,)))
    assert session.members() == expected
    if server.status != "I":
        server.ends.append((server.count, "lost"))
    assert [end[:2] for end in session.close().outcomes()] == server.ends
