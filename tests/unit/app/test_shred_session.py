"""Recordings destroyed on purpose: by whom policy lets, with the order in the log before, and told ever after."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from gateway.adapters.event_log.tree import EVENTS
from gateway.adapters.recordings import FileRecorder
from gateway.app import journal
from gateway.app.end_session import end_session
from gateway.app.replay_session import replay
from gateway.app.search_statements import FoundStatement, StatementQuery, search_statements
from gateway.app.shred_session import AGAIN_AFTER, ShredFailed, Shreds, shred_session
from gateway.core.errors import Conflict, Denied, NotFound, Unavailable
from gateway.core.session import EndReason
from tests.unit.adapters.recordings.stage import AT, eventually, is_sealed
from tests.unit.app.house import House
from tests.unit.app.test_main_job import granted, opened

WHY = "kept for two years, as the rule says"
ORDER, DONE, FAILED = (("session:shredded", outcome) for outcome in ("attempt", "ok", "failed"))


def ended(house: House) -> str:
    session, _ = opened(house, granted(house))
    session.recording.append("out", house.clock.now(), b"hello")
    end_session(house.ctx, session.session, session.recording, EndReason.CLIENT_CLOSED)
    eventually(is_sealed(recorder_of(house), session.session.id))
    return session.session.id


def recorder_of(house: House) -> FileRecorder:
    assert isinstance(house.ctx.recorder, FileRecorder)
    return house.ctx.recorder


def key_of(house: House, session: str) -> bytes:
    return recorder_of(house).sealed.key_path(session).read_bytes()


def shredded(house: House) -> list[tuple[str, str]]:
    return [told for told in house.types() if told[0] == "session:shredded"]


def refused(house: House, session: str, reason: str = WHY, person: str = "security") -> str:
    with pytest.raises((Conflict, Denied)) as caught:
        shred_session(house.ctx, house.proved(person), session, reason)
    assert not shredded(house)
    return caught.value.refusal.code


def unplayed(house: House, session: str) -> str:
    with pytest.raises(Conflict) as caught:
        replay(house.ctx, house.people["auditor"], session)
    assert caught.value.refusal.code == "recording-shredded"
    return caught.value.refusal.message


def test_the_order_is_in_the_log_before_and_replaying_tells_of_it(house: House, monkeypatch: pytest.MonkeyPatch):
    session = ended(house)
    real, seen = recorder_of(house).shred, []

    def shred(session_id: str) -> None:
        found = house.ctx.log.get(house.events("session:shredded")[-1].id)
        seen.append((found is not None and found.index is not None, shredded(house)))
        real(session_id)

    monkeypatch.setattr(recorder_of(house), "shred", shred)
    order = shred_session(house.ctx, house.proved("security"), session, f"  {WHY}.")
    assert seen == [(True, [ORDER])]
    attempt, done = house.events("session:shredded")
    assert (attempt.id, attempt.principal, attempt.session, attempt.target) == (order, "security", session, "web-1")
    assert attempt.data["reason"] == f"{WHY}."
    assert str(attempt.data["recording"]).startswith("2:")
    assert (done.outcome, done.data["order"]) == ("ok", order)
    said = unplayed(house, session)
    place = house.ctx.log.get(order).index  # type: ignore[union-attr]
    assert f"was shredded by security at {attempt.at:%Y-%m-%dT%H:%M}" in said
    assert said.endswith(f"event {place}: {WHY}.")
    assert ("session:recording-locked", "failed") not in house.types(), "nobody has evidence to lose here"


def test_a_copy_of_the_key_that_is_back_plays_nothing(house: House):
    session = ended(house)
    key = recorder_of(house).sealed.key_path(session)
    kept = key.read_bytes()
    shred_session(house.ctx, house.proved("security"), session, WHY)
    key.write_bytes(kept)
    assert list(recorder_of(house).read(session)), "the key is good"
    unplayed(house, session)
    with pytest.raises(Conflict) as caught:
        shred_session(house.ctx, house.proved("security"), session, WHY)
    assert caught.value.refusal.code == "recording-shredded"


@pytest.mark.parametrize("person", ["oncall", "lead", "auditor"])
def test_only_who_policy_lets(house: House, person: str):
    assert refused(house, ended(house), person=person) in ("own-request", "not-security")


def test_not_without_a_passkey_nor_a_reason(house: House):
    session = ended(house)
    with pytest.raises(Denied, match="passkey"):
        shred_session(house.ctx, house.people["security"], session, WHY)
    assert refused(house, session, "  ") == "reason-missing"
    with pytest.raises(NotFound):
        shred_session(house.ctx, house.proved("security"), "ses_404", WHY)


def test_not_while_it_runs_and_not_where_it_is_not(house: House):
    session, _ = opened(house, granted(house))
    assert refused(house, session.session.id) == "session-live"
    over = ended(house)
    recorder_of(house).sealed.key_path(over).unlink()
    assert refused(house, over) == "recording-not-here"


def test_not_under_a_legal_hold(house: House):
    session = ended(house)
    catalogue = house.ctx.catalogue.catalogue  # type: ignore[attr-defined]
    held = replace(catalogue.targets["web-1"], labels=frozenset({"legal-hold"}))
    house.ctx.catalogue.catalogue = replace(catalogue, targets={**catalogue.targets, "web-1": held})  # type: ignore[attr-defined]
    assert refused(house, session) == "forbidden"


def test_nothing_is_destroyed_that_the_log_does_not_confirm_and_the_order_stands(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    session, shreds = ended(house), Shreds(house.ctx)
    with monkeypatch.context() as down:
        down.setattr(house.ctx.log, "wait_included", lambda *_: False)
        with pytest.raises(Unavailable, match="not carried out yet"):
            shred_session(house.ctx, house.proved("security"), session, WHY)
    assert list(recorder_of(house).read(session))
    assert "is being shredded, as ordered by security" in unplayed(house, session)
    assert shreds.step(house.ctx) == 0, "whoever took the order may be at it"
    house.clock.advance(AGAIN_AFTER)
    assert shreds.step(house.ctx) == 1
    assert shredded(house) == [ORDER, FAILED, DONE]
    assert recorder_of(house).orders.all() == {}
    assert "was shredded by security" in unplayed(house, session)
    assert shreds.step(house.ctx) == 0


def test_what_fails_is_tried_again_until_it_is_done(house: House, monkeypatch: pytest.MonkeyPatch):
    session, other, shreds = ended(house), ended(house), Shreds(house.ctx)

    def failing(_: str) -> None:
        raise ShredFailed("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(recorder_of(house), "shred", failing)
        for each in (session, other):
            with pytest.raises(Unavailable, match="the disk is full"):
                shred_session(house.ctx, house.proved("security"), each, WHY)
        house.clock.advance(AGAIN_AFTER)
        assert [shreds.step(house.ctx) for _ in range(3)] == [0, 0, 0]
        assert shredded(house) == [ORDER, FAILED] * 2, "told once"
    house.clock.advance(timedelta(days=3))
    assert shreds.step(house.ctx) == 2
    assert shredded(house)[-2:] == [DONE, DONE]


def test_a_key_that_is_away_is_destroyed_when_it_is_back(house: House, monkeypatch: pytest.MonkeyPatch):
    session = ended(house)
    key = recorder_of(house).sealed.key_path(session)

    def carried_out_after(change: Callable[[], object]) -> int:
        change()
        house.clock.advance(AGAIN_AFTER)
        return shreds.step(house.ctx)

    shreds = Shreds(house.ctx)
    with monkeypatch.context() as down:
        down.setattr(house.ctx.log, "wait_included", lambda *_: False)
        with pytest.raises(Unavailable):
            shred_session(house.ctx, house.proved("security"), session, WHY)
    assert carried_out_after(lambda: key.rename(key.with_suffix(".away"))) == 0
    assert carried_out_after(lambda: key.with_suffix(".away").rename(key)) == 1


def test_an_event_that_somebody_made_up_in_the_database_destroys_nothing(house: House):
    session, shreds = ended(house), Shreds(house.ctx)
    forged = [
        journal.record(house.ctx, kind, outcome, {"reason": WHY}, principal="security", session=of)
        for kind, outcome, of in (
            ("session:shredded", "attempt", session),
            ("session:shredded", "ok", session),
            ("session:shredded", "attempt", "ses_2"),
            ("session:ended", "attempt", session),
        )
    ]
    house.clock.advance(AGAIN_AFTER)
    assert shreds.step(house.ctx) == 0
    for other in forged[1:]:
        recorder_of(house).orders.note(session, other)  # as if that were noted here
        assert shreds.step(house.ctx) == 0
    assert list(recorder_of(house).read(session))


def test_an_order_that_cannot_be_noted_is_none(house: House, monkeypatch: pytest.MonkeyPatch):
    session = ended(house)

    def full(*_: object) -> None:
        raise OSError(28, "no room in this test")

    monkeypatch.setattr(recorder_of(house).orders, "note", full)
    with pytest.raises(Unavailable, match="nothing was destroyed"):
        shred_session(house.ctx, house.proved("security"), session, WHY)
    assert not shredded(house)


def test_a_note_that_stays_behind_is_removed(house: House):
    session, shreds = ended(house), Shreds(house.ctx)
    order = shred_session(house.ctx, house.proved("security"), session, WHY)
    recorder_of(house).orders.note(session, order)  # as if it had died before it removed that
    house.clock.advance(AGAIN_AFTER)
    assert shreds.step(house.ctx) == 0
    assert recorder_of(house).orders.all() == {}
    assert shredded(house) == [ORDER, DONE]


@pytest.mark.parametrize("leaf", [None, b"no event"])
def test_a_row_that_was_made_to_look_like_a_shredding_is_none(house: House, leaf: bytes | None):
    """Whoever writes to the database cannot change what the log says, and no column beside that counts."""
    session = ended(house)
    other = journal.record(house.ctx, "session:replayed", session=session, target="web-1", principal="auditor")
    journal.confirm_logged(house.ctx, other)
    changed = {"type": "session:shredded"} | ({} if leaf is None else {"leaf": leaf})
    with house.ctx.store.writing.begin() as connection:  # type: ignore[attr-defined]
        connection.execute(update(EVENTS).where(EVENTS.c.id == other).values(**changed))
    assert replay(house.ctx, house.people["auditor"], session).count > 0
    order = shred_session(house.ctx, house.proved("security"), session, WHY)
    assert (house.events("session:shredded")[-1].data["order"], key_of(house, session)) == (order, bytes(68))


def test_a_replay_that_a_shredding_overtakes_says_so_and_calls_nothing_lost(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    session, real = ended(house), recorder_of(house).read

    def read(session_id: str, from_seq: int = 0) -> object:
        monkeypatch.setattr(recorder_of(house), "read", real)
        shred_session(house.ctx, house.proved("security"), session, WHY)
        return real(session_id, from_seq)

    monkeypatch.setattr(recorder_of(house), "read", read)
    assert "was shredded by security" in unplayed(house, session)
    assert ("session:recording-locked", "failed") not in house.types()


class OldIndex:
    """As it comes back from a backup."""

    def __init__(self, *sessions: str) -> None:
        self._sessions = sessions

    def search(self, query: StatementQuery) -> list[FoundStatement]:
        told = (None, None, None, None, None, "orders-db", "oncall")
        return [FoundStatement(each, query.limit, AT, "select 1", *told) for each in self._sessions]

    def behind(self) -> frozenset[str]:
        return frozenset()


def test_what_a_copy_of_the_index_still_has_of_it_is_not_found(house: House):
    session, other = ended(house), ended(house)

    def found() -> list[str]:
        told = search_statements(house.ctx, OldIndex(session, other), house.people["auditor"])
        return [each.session for each in told.statements]

    assert found() == [session, other]
    shred_session(house.ctx, house.proved("security"), session, WHY)
    assert found() == [other]


def test_who_was_signed_out_while_policy_was_asked_destroys_nothing(house: House):
    session = ended(house)
    gone = replace(house.proved("security"), proof=replace(house.proved("security").proof, sign_in="lgn_over"))
    with pytest.raises(Denied) as no:
        shred_session(house.ctx, gone, session, WHY)
    assert no.value.refusal.code == "not-signed-in"
    assert house.types()[-1] == ("policy:denied", "denied")
    assert not shredded(house)
    assert any(key_of(house, session))
