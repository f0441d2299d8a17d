from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.adapters.sealed_secrets import SealedSecrets
from gateway.app import attempts
from gateway.app.approve_request import answer
from gateway.app.commit_ports import Asking, Told
from gateway.app.confirm_commit import HeldView, answer_held, show_held
from gateway.app.hold_commit import MOST_HELD, ask_commit, end_held
from gateway.app.recover import recover
from gateway.app.request_access import Ask, request_access
from gateway.core.dry_run import Confirm
from gateway.core.errors import Conflict, Denied, NotFound, Unavailable
from gateway.core.held_commit import HeldState
from gateway.core.obligation import Obligations
from gateway.core.request import Verdict
from gateway.core.session import EndReason, Session
from gateway.core.written import Under, Write
from tests.unit.app.house import INCIDENT, House
from tests.unit.app.test_main_job import READ, granted, opened
from tests.unit.app.test_step_up import demand

SQL = "UPDATE orders SET secret = 'x'"
ASKING = Asking(1, "m1", Confirm.APPROVER, 1, 7, (Write(SQL, "d1", "UPDATE 7"),))
MORE = ASKING._replace(mark="m2", statements=2, rows=9)
YES, NO = HeldState.CONFIRMED, HeldState.REFUSED


@pytest.fixture
def sealed(house: House, tmp_path: Path) -> House:
    house.ctx = replace(house.ctx, sealer=SealedSecrets(tmp_path / "tokens.key"))
    return house


def a_session(house: House) -> Session:
    return opened(house, granted(house, READ))[0].session


def say(house: House, who: str, session: Session, mark: str, state: HeldState, reason: str = "") -> HeldView:
    return answer_held(house.ctx, house.people[who], session.id, mark, state, reason)


def kinds(house: House) -> list[str]:
    return [event.type for event in house.events() if event.type.startswith("transaction:")]


def test_an_approver_sees_what_is_held_and_says_yes_to_just_that(sealed: House):
    house, session = sealed, a_session(sealed)
    assert ask_commit(house.ctx, session, ASKING) == Told(False)
    assert ask_commit(house.ctx, session, ASKING) == Told(False)
    (held,) = house.events("transaction:held")
    assert (held.principal, held.session) == ("oncall", session.id)
    assert held.data == {"tx": 1, "mark": "m1", "confirm": "approver", "statements": 1, "rows": 7}
    view = show_held(house.ctx, house.people["lead"], session.id)
    assert list(view.writes) == [Write(SQL, "", "UPDATE 7")]
    assert house.events("transaction:shown")[-1].principal == "lead"
    show_held(house.ctx, house.people["oncall"], session.id)
    assert len(house.events("transaction:shown")) == 1
    say(house, "lead", session, "m1", YES, "looked at it")
    assert ask_commit(house.ctx, session, ASKING) == Told(True, False, "lead", "looked at it")
    tried, told = house.events("transaction:confirmed")
    assert (told.principal, told.session, tried.outcome, told.outcome) == ("lead", session.id, "attempt", "ok")
    assert tried.data == told.data == {
        "tx": 1, "mark": "m1", "holder": "oncall", "reason": "looked at it", "statements": 1, "rows": 7
    }  # fmt: skip
    end_held(house.ctx, session, 1, "committed")
    assert house.events("transaction:ended")[-1].data == {"tx": 1, "outcome": "committed", "level": "read"}
    end_held(house.ctx, session, 1, "committed")
    assert kinds(house) == [f"transaction:{each}" for each in ("held", "shown", "confirmed", "confirmed", "ended")]


def test_what_is_written_after_a_yes_needs_another(sealed: House):
    house, session = sealed, a_session(sealed)
    ask_commit(house.ctx, session, ASKING)
    say(house, "lead", session, "m1", YES)
    assert not ask_commit(house.ctx, session, MORE).may_pass
    assert not ask_commit(house.ctx, session, ASKING).may_pass  # nor does the old state come back
    ask_commit(house.ctx, session, MORE)
    with pytest.raises(Conflict) as no:
        say(house, "lead", session, "m1", YES)
    assert no.value.refusal.code == "commit-changed"
    stale = house.events("transaction:confirmed")[-1]
    assert (stale.principal, stale.outcome, stale.data["code"], stale.data["mark"]) == (
        "lead", "denied", "commit-changed", "m1"
    )  # fmt: skip
    say(house, "lead", session, "m2", YES)
    assert ask_commit(house.ctx, session, MORE).may_pass
    assert not ask_commit(house.ctx, session, MORE._replace(tx=2)).may_pass
    assert not ask_commit(house.ctx, a_session(house), MORE).may_pass


def test_an_approver_sees_under_which_settings_it_was_written(sealed: House):
    house, session = sealed, a_session(sealed)
    under = (Under(1, (("current_user", "orders_write"), ("search_path", "secret"))), Under(2, ()))
    ask_commit(house.ctx, session, ASKING._replace(under=under, changes=3))
    view = show_held(house.ctx, house.people["lead"], session.id)
    assert (list(view.under), view.changes) == (list(under), 3)
    with house.ctx.store.read() as uow:
        assert "secret" not in repr(uow.held.get(session.id))


@pytest.mark.parametrize("meanwhile", ["changed", "over"])
def test_what_has_changed_while_the_log_confirmed_a_yes_is_not_committed_by_it(sealed: House, meanwhile: str):
    house, session = sealed, a_session(sealed)
    ask_commit(house.ctx, session, ASKING)

    class Slow:
        def wait_included(self, *_: object) -> bool:
            ask_commit(house.ctx, session, MORE) if meanwhile == "changed" else end_held(
                house.ctx, session, 1, "rolled-back"
            )
            return True

    slow = replace(house.ctx, log=Slow())  # type: ignore[arg-type]
    with pytest.raises(Conflict) as no:
        answer_held(slow, house.people["lead"], session.id, "m1", YES)
    assert no.value.refusal.code == {"changed": "commit-changed", "over": "nothing-held"}[meanwhile]
    assert [each.outcome for each in house.events("transaction:confirmed")] == ["attempt", "denied"]
    assert not ask_commit(house.ctx, session, MORE).may_pass
    assert not ask_commit(house.ctx, session, ASKING).may_pass


def test_a_commit_goes_on_only_once_the_log_has_confirmed_the_yes(sealed: House):
    house, session = sealed, a_session(sealed)
    ask_commit(house.ctx, session, ASKING)
    seen: list[bool] = []

    class Watching:
        def wait_included(self, *_: object) -> bool:
            seen.append(ask_commit(house.ctx, session, ASKING).may_pass)
            return True

    answer_held(replace(house.ctx, log=Watching()), house.people["lead"], session.id, "m1", YES)  # type: ignore[arg-type]
    assert seen == [False]
    assert ask_commit(house.ctx, session, ASKING).may_pass


def test_of_two_who_answer_at_once_one_does(sealed: House):
    house, session = sealed, a_session(sealed)
    ask_commit(house.ctx, session, ASKING)

    class Other:
        def wait_included(self, *_: object) -> bool:
            say(house, "lead", session, "m1", YES, "faster")
            return True

    with pytest.raises(Conflict) as no:
        answer_held(replace(house.ctx, log=Other()), house.people["lead"], session.id, "m1", YES, "slower")  # type: ignore[arg-type]
    assert no.value.refusal.code == "commit-confirmed"
    assert [each.data["reason"] for each in house.events("transaction:confirmed") if each.outcome == "ok"] == ["faster"]


def test_how_many_are_held_for_a_grant_is_bounded(sealed: House):
    house = sealed
    session, told = a_session(house), Told(False)
    for n in range(MOST_HELD + 5):
        told = ask_commit(house.ctx, session, ASKING._replace(mark=f"m{n}"))
        assert bool(told.waits) is (n >= MOST_HELD)
    assert not told.may_pass
    assert "More than 30 commits were held" in told.waits
    held = house.events("transaction:held")
    assert [each.outcome for each in held] == ["ok"] * MOST_HELD + ["denied"]
    assert held[-1].data["code"] == "held-too-often"
    with pytest.raises(Conflict):  # and nobody says yes to what they were not shown
        say(house, "lead", session, f"m{MOST_HELD + 4}", YES)
    assert ask_commit(house.ctx, session, ASKING._replace(mark=f"m{MOST_HELD - 1}")) == Told(False)
    assert not ask_commit(house.ctx, a_session(house), ASKING).waits  # another grant
    house.clock.advance(attempts.WINDOW)
    assert not ask_commit(house.ctx, session, MORE).waits


def test_a_no_is_for_the_whole_transaction_and_either_may_say_it(sealed: House):
    house = sealed
    for who in ("lead", "oncall"):
        session = a_session(house)
        ask_commit(house.ctx, session, ASKING)
        say(house, who, session, "m1", NO, "the wrong rows")
        for asking in (ASKING, MORE):
            assert ask_commit(house.ctx, session, asking) == Told(False, True, who, "the wrong rows")
        with pytest.raises(Conflict):
            say(house, "lead", session, "m1", YES)
        assert not ask_commit(house.ctx, session, ASKING._replace(tx=2)).is_refused
    assert [event.principal for event in house.events("transaction:refused")] == ["lead", "oncall"]


def test_four_eyes(sealed: House):
    house, session = sealed, a_session(sealed)
    ask_commit(house.ctx, session, ASKING)
    with pytest.raises(Denied) as no:
        say(house, "oncall", session, "m1", YES)
    assert no.value.refusal.code == "own-commit"
    assert house.events("transaction:confirmed")[-1].outcome == "denied"
    for who in ("developer", "auditor"):
        with pytest.raises(Denied):
            say(house, who, session, "m1", YES)
        with pytest.raises(Denied):
            show_held(house.ctx, house.people[who], session.id)
        with pytest.raises(Denied):
            say(house, who, session, "m1", NO)
    assert ask_commit(house.ctx, session, ASKING) == Told(False)


def test_at_a_level_of_their_own_yes_nobody_else_says_it(sealed: House):
    house, session = sealed, a_session(sealed)
    own = ASKING._replace(confirm=Confirm.SELF)
    ask_commit(house.ctx, session, own)
    with pytest.raises(Denied) as no:
        say(house, "lead", session, "m1", YES)
    assert no.value.refusal.code == "not-your-commit"
    say(house, "oncall", session, "m1", YES)
    assert ask_commit(house.ctx, session, own).may_pass
    assert house.notes.sent == []


def test_whoever_is_told_of_requests_is_told_of_what_is_held(sealed: House):
    house = sealed
    asked = request_access(house.ctx, house.people["oncall"], READ, duties=(Obligations(notify=frozenset({"chat"})),))
    assert asked.grant is not None
    session = opened(house, asked.grant)[0].session
    house.notes.sent.clear()
    for asking in (ASKING, ASKING, MORE):
        ask_commit(house.ctx, session, asking)
    assert len(house.notes.sent) == 2
    channel, title, fields = house.notes.sent[0]
    assert (channel, title) == ("chat", "oncall wants to commit on orders-db (read)")
    assert fields["look"] == f"gw session commit {session.id}"
    assert fields["incident"] == INCIDENT
    assert SQL not in str(house.notes.sent)


def test_there_is_nothing_to_answer_before_and_after(sealed: House):
    house, session = sealed, a_session(sealed)
    for of in (session.id, "ses_none"):
        with pytest.raises(NotFound):
            show_held(house.ctx, house.people["oncall"], of)
    ask_commit(house.ctx, session, ASKING)
    with house.ctx.store.begin() as uow:
        uow.sessions.save(replace(session, ended_at=house.clock.now(), end_reason=EndReason.KILLED))
    with pytest.raises(NotFound):
        say(house, "lead", session, "m1", YES)
    end_held(house.ctx, session, 9, "lost")  # of a transaction that was never held: nothing to tell
    assert kinds(house) == ["transaction:held"]


def test_what_cannot_be_shown_is_not_answered_and_texts_are_sealed(sealed: House, tmp_path: Path):
    house, session = sealed, a_session(sealed)
    ask_commit(house.ctx, session, ASKING)
    with house.ctx.store.read() as uow:
        held = uow.held.get(session.id)
    assert held is not None
    assert "secret" not in repr(held)
    house.ctx = replace(house.ctx, sealer=SealedSecrets(tmp_path / "other.key"))
    with pytest.raises(Unavailable):
        say(house, "lead", session, "m1", YES)
    assert ask_commit(house.ctx, session, ASKING) == Told(False)


def test_a_yes_that_the_log_does_not_confirm_is_none(sealed: House, monkeypatch: pytest.MonkeyPatch):
    house, session = sealed, a_session(sealed)
    ask_commit(house.ctx, session, ASKING)
    monkeypatch.setattr(house.ctx.log, "wait_included", lambda *_: False)
    for state in (YES, NO):
        with pytest.raises(Unavailable):
            answer_held(house.ctx, house.people["oncall"], session.id, "m1", NO) if state is NO else say(
                house, "lead", session, "m1", YES
            )
        assert ask_commit(house.ctx, session, ASKING) == Told(
            False, state is NO, *(("oncall", "") if state is NO else ())
        )
    assert [each.outcome for each in house.events("transaction:confirmed")] == ["attempt", "failed"]


def test_a_lead_who_wrote_does_not_confirm_their_own(sealed: House):
    """Policy forbids it (never-your-own), and so do we whatever policy says."""
    house = sealed
    waits = request_access(house.ctx, house.people["oncall"], Ask("orders-db", "write", READ.duration, "why", INCIDENT))
    assert waits.grant is None
    grant = answer(house.ctx, house.people["lead"], waits.request.id, Verdict.APPROVE).grant
    assert grant is not None
    session = opened(house, grant)[0].session
    ask_commit(house.ctx, session, ASKING)
    house.people["oncall"] = replace(house.people["oncall"], groups=frozenset({"engineers", "leads"}))
    with pytest.raises(Denied):
        say(house, "oncall", session, "m1", YES)
    say(house, "lead", session, "m1", YES)


@pytest.mark.parametrize(("is_confirmed", "outcome"), [(True, "unknown"), (False, "lost")])
def test_of_a_gateway_that_died_nobody_knows_whether_a_confirmed_commit_went_through(
    sealed: House, is_confirmed: bool, outcome: str
):
    session = a_session(sealed)
    ask_commit(sealed.ctx, session, ASKING)
    if is_confirmed:
        say(sealed, "lead", session, "m1", YES)
    assert recover(sealed.ctx) == 1
    assert sealed.events("transaction:ended")[-1].data == {"tx": 1, "outcome": outcome, "level": "read"}
    with sealed.ctx.store.read() as uow:
        assert uow.held.get(session.id) is None


def test_nobody_answers_for_a_gateway_that_has_fallen_silent(sealed: House):
    session = a_session(sealed)
    ask_commit(sealed.ctx, session, ASKING)
    other, beat = replace(sealed.ctx, gateway="other"), sealed.clock.now()
    with sealed.ctx.store.begin() as uow:
        uow.gateways.beat(session.gateway, beat)
    assert show_held(other, sealed.people["lead"], session.id).silence == timedelta(0)
    sealed.later(timedelta(seconds=7))
    assert show_held(other, sealed.people["lead"], session.id).silence == timedelta(seconds=7)
    assert show_held(sealed.ctx, sealed.people["lead"], session.id).silence is None
    sealed.later(sealed.ctx.limits.gateway_silent_after + timedelta(seconds=1))
    for look in (show_held, lambda *about: answer_held(*about, "m1", YES)):
        with pytest.raises(NotFound) as no:
            look(other, sealed.people["lead"], session.id)
        assert no.value.refusal.code == "holder-silent"
    assert show_held(sealed.ctx, sealed.people["lead"], session.id).held.mark == "m1"  # its own knows better
    assert not sealed.events("transaction:confirmed")
    with sealed.ctx.store.begin() as uow:
        uow.gateways.beat(session.gateway, sealed.clock.now())
    assert answer_held(other, sealed.people["lead"], session.id, "m1", YES).held.state is YES


def test_a_proof_that_is_good_once_is_used_up_by_the_answer_and_not_by_the_look(sealed: House, tmp_path: Path):
    house, session = sealed, a_session(sealed)
    demand(house, tmp_path, "approvers.cedar", '@id("leads-approve")', '@step_up("webauthn-each")')
    ask_commit(house.ctx, session, ASKING)
    with pytest.raises(Denied):
        show_held(house.ctx, house.people["lead"], session.id)
    lead = house.proved("lead")
    for _ in range(2):
        assert show_held(house.ctx, lead, session.id).held.mark == "m1"
    assert answer_held(house.ctx, lead, session.id, "m1", YES).held.state is YES
    ask_commit(house.ctx, session, MORE)
    with pytest.raises(Denied):
        answer_held(house.ctx, lead, session.id, "m2", YES)
