from dataclasses import replace
from datetime import timedelta

import pytest

from gateway.app.end_session import end_session
from gateway.app.list_access import sessions
from gateway.app.lock_session import lock_session
from gateway.app.record_evidence import Evidence
from gateway.app.reevaluate import Reevaluation
from gateway.core.errors import Conflict, Denied, NotFound
from gateway.core.session import EndReason
from gateway.core.target import SshRules
from tests.unit.app.house import House
from tests.unit.app.test_main_job import READ, granted, opened

MINUTE = timedelta(minutes=1)


def limit_idleness(house: House, limit: timedelta) -> None:
    catalogue = house.ctx.catalogue.current()
    web = catalogue.targets["web-1"]
    level = replace(web.levels["shell"], ssh=SshRules(idle_timeout=limit))
    changed = replace(web, levels={**web.levels, "shell": level})
    house.ctx.catalogue.catalogue = replace(catalogue, targets={**catalogue.targets, "web-1": changed})


def test_a_lock_reaches_the_session_with_a_sentence_and_is_in_the_log(house: House):
    session, held = opened(house, granted(house))
    watch = Reevaluation()
    watch.tick(house.ctx, ask_policy=False)
    locked = lock_session(house.ctx, house.people["lead"], session.session.id, locked=True, reason="looks odd")
    assert locked.locked_by == "lead"
    for _ in range(3):
        watch.tick(house.ctx, ask_policy=False)
    assert held.locks == [True]
    assert "lead has locked this session" in held.warnings[-1]
    told = house.events("session:locked")[-1]
    assert (told.principal, told.session, told.data["reason"]) == ("lead", session.session.id, "looks odd")
    lock_session(house.ctx, house.people["auditor"], session.session.id, locked=False)
    watch.tick(house.ctx, ask_policy=False)
    assert held.locks == [True, False]
    assert "unlocked" in held.warnings[-1]
    assert held.ended == []
    assert house.types()[-1] == ("session:unlocked", "ok")


def test_who_may_end_may_lock_and_the_holder_does_not_unlock_anothers(house: House):
    session, _ = opened(house, granted(house))
    with pytest.raises(Denied):
        lock_session(house.ctx, house.people["developer"], session.session.id, locked=True)
    lock_session(house.ctx, house.people["lead"], session.session.id, locked=True)
    with pytest.raises(Denied):
        lock_session(house.ctx, house.people["oncall"], session.session.id, locked=False)
    assert house.types()[-1] == ("session:unlock-denied", "denied")
    with pytest.raises(Conflict):
        lock_session(house.ctx, house.people["auditor"], session.session.id, locked=True)
    with pytest.raises(NotFound):
        lock_session(house.ctx, house.people["lead"], "ses_none", locked=True)


def test_a_database_session_is_not_locked(house: House):
    session, _ = opened(house, granted(house, READ))
    with pytest.raises(Conflict) as no:
        lock_session(house.ctx, house.people["lead"], session.session.id, locked=True)
    assert no.value.refusal.code == "lock-not-supported"
    assert "gw session kill" in no.value.refusal.sentence()


def test_an_idle_session_is_warned_once_and_then_ended(house: House):
    limit_idleness(house, 15 * MINUTE)
    _, held = opened(house, granted(house))
    watch = Reevaluation()
    for idle, warnings in ((0, 0), (13, 0), (14, 1), (14.5, 1), (1, 1), (14, 2)):
        held.idle = idle * MINUTE
        watch.tick(house.ctx, ask_policy=False)
        assert len(held.warnings) == warnings, idle
    assert held.warnings[-1] == "gateway: nothing was typed for a while; this session ends in 60 s."
    assert held.ended == []
    held.idle = 15 * MINUTE
    watch.tick(house.ctx, ask_policy=False)
    assert held.ended == [(EndReason.IDLE_TIMEOUT, "idle for 15 min")]


def test_a_level_without_a_limit_never_times_out(house: House):
    _, held = opened(house, granted(house))
    held.idle = timedelta(days=3)
    Reevaluation().tick(house.ctx, ask_policy=False)
    assert (held.ended, held.warnings) == ([], [])


def test_the_list_says_when_something_last_happened(house: House):
    session, _ = opened(house, granted(house))
    oncall = house.people["oncall"]
    assert sessions(house.ctx, oncall, live=True)[0].active_at is None
    at = house.later(MINUTE)
    evidence = Evidence()
    evidence.note(session.session.id, 3, "ab", {})
    evidence.store(house.ctx)
    assert sessions(house.ctx, oncall, live=True)[0].active_at == at


@pytest.mark.parametrize("reason", list(EndReason))
@pytest.mark.parametrize("ask", [None, READ], ids=["ssh", "postgres"])
def test_every_end_has_its_reason_in_the_log_and_in_the_list(house: House, reason: EndReason, ask: object):
    session, _ = opened(house, granted(house) if ask is None else granted(house, READ))
    end_session(house.ctx, session.session, session.recording, reason, "by lead")
    told = house.events("session:ended")[-1]
    assert (told.session, told.data["reason"], told.data["detail"]) == (session.session.id, reason.value, "by lead")
    listed = sessions(house.ctx, house.people["oncall"], live=False)[0]
    assert (listed.end_reason, listed.end_detail) == (reason, "by lead")
