"""A mistake of ours in what judges, masks or holds: nothing goes on behind it, and the person is told."""

from typing import Any

import pytest

from gateway.adapters.postgres_parser import PostgresParser
from gateway.app.commit_ports import Told
from gateway.core.masking import ColumnName, Known, Mask, Relation
from gateway.core.session import EndReason
from gateway.core.statement_rules import StatementRules
from gateway.core.target import Level
from gateway.edges.proxy.postgres_books import Backlog
from gateway.edges.proxy.postgres_guarded import GuardedSession
from gateway.wire.postgres_messages import message
from tests.unit.edges.proxy.test_postgres_dry_run import OPEN, READY, Kept, Session, done, query, turns
from tests.unit.edges.proxy.test_postgres_relay import AT, StalledSpool, on_a_loop

RULES = Level("read", "orders_read", 0, rules=StatementRules(deny_ddl=True))
MASKS = Level("read", "orders_read", 0, masks={ColumnName("public", "customers", "email"): Mask.FULL})
CUSTOMERS = Relation(20_000, "public", "customers", {"email": 1}, {"email": Mask.FULL})
KNOWN = Known((CUSTOMERS,), frozenset(), frozenset(), frozenset(), frozenset())
SECRET = "hunter2"
WHY = (EndReason.GATEWAY_FAULT, "")


def mistaken(*_: object, **__: object) -> Any:
    raise IndexError(SECRET)


class Guarded:
    def __init__(self, level: Level) -> None:
        self.client, self.target = Kept(), Kept()
        self.session = GuardedSession(
            self.client, StalledSpool(), lambda: AT, Backlog(), level, PostgresParser(), lambda *_: None,
            is_strict=False,
        )  # fmt: skip
        if level.masks:
            self.session.mask(KNOWN, b"")
        self.session.start(self.target, b"", b"", b"")


def told(words: bytes) -> None:
    """Just that is said."""
    assert words.startswith(b"E")
    for part in (b"SFATAL\0", b"C58000\0", EndReason.GATEWAY_FAULT.sentence().encode()):
        assert part in words
    assert SECRET.encode() not in words


@on_a_loop
async def test_a_statement_that_cannot_be_judged_goes_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for level, broken in ((RULES, "_refusal"), (MASKS, "_is_indirect")):
        guarded = Guarded(level)
        gate = guarded.session._client_gate
        if broken == "_refusal":
            monkeypatch.setattr(gate, "_judge", mistaken)
        else:
            assert guarded.session._masking is not None
            monkeypatch.setattr(guarded.session._masking.asks, "feed", mistaken)
        guarded.session._from_client(query(b"SELECT 1"))
        assert await guarded.session.over == WHY
        told(guarded.client.taken())
        assert guarded.target.written == b""
    assert "IndexError in mistaken" in caplog.text
    assert SECRET not in caplog.text


@on_a_loop
async def test_what_is_shown_already_is_shown_to_the_end_of_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = Guarded(RULES)
    guarded.session._from_client(query(b"SELECT 1"))
    row = message(b"D", b"\0\1\0\0\0\5hello")
    guarded.session._from_target(row[:-3])
    monkeypatch.setattr(guarded.session._client_gate, "_judge", mistaken)
    guarded.session._from_client(query(b"SELECT 2"))
    assert not guarded.session.over.done()
    guarded.session._from_target(row[-3:] + done(b"SELECT 1", READY))
    assert await guarded.session.over == WHY
    assert guarded.client.written.startswith(row)
    told(guarded.client.taken().removeprefix(row))


@on_a_loop
async def test_an_answer_that_cannot_be_masked_or_counted_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for breaks in ("answers", "gate"):
        guarded = Guarded(MASKS)
        guarded.session._from_client(query(b"SELECT email FROM customers"))
        assert guarded.session._masking is not None
        owner = guarded.session._masking.answers if breaks == "answers" else guarded.session._target_gate
        monkeypatch.setattr(owner, "feed", mistaken)
        guarded.session._from_target(message(b"D", b"\0\1\0\0\0\6secret"))
        guarded.session._from_target(done(b"SELECT 1", READY))
        assert await guarded.session.over == WHY
        told(guarded.client.taken())


@pytest.mark.parametrize("place", ["feed", "take", "answers", "take_question"])
@on_a_loop
async def test_a_mistake_in_whose_turn_it_is(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    monkeypatch.setattr(session.held._turns, place, mistaken)
    session.says(b"BEGIN")
    heard = session.hears(done(b"BEGIN", OPEN))
    session.says(b"DELETE FROM t WHERE id = 1")
    heard += session.hears(done(b"DELETE 1", OPEN))
    assert await session.held.over == WHY
    told(heard[heard.index(b"E\0\0") :])


@pytest.mark.parametrize("place", ["answer", "_report_of"])
@on_a_loop
async def test_a_mistake_behind_an_answer_to_a_commit(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    session.says(b"BEGIN")
    session.hears(done(b"BEGIN", OPEN))
    session.says(b"DELETE FROM t WHERE id = 1")
    session.hears(done(b"DELETE 1", OPEN))
    monkeypatch.setattr(session.held._turns if place == "answer" else session.held, place, mistaken)
    session.says(b"COMMIT")
    await turns()
    session.answer.set_result(Told(False))
    await turns()
    assert await session.held.over == WHY
    told(session.client.taken())
    assert session.target.written == b""
    assert session.ended == [(1, "lost")]


@on_a_loop
async def test_a_timer_of_ours_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = Guarded(RULES)
    guarded.session._from_client(query(b"SELECT 1"))
    monkeypatch.setattr(guarded.session._target_gate, "cut", mistaken)
    guarded.session._too_late()
    assert await guarded.session.over == WHY
    told(guarded.client.taken())
