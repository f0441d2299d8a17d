from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from gateway.core.session import IDLE_WARNING, EndReason, Protocol, Session, begin, end, idle_verdict, lock
from tests.unit.core.values import MINUTE, T0, TICK, grant

_BEGUN = begin(grant(), session_id="ses_1", protocol=Protocol.SSH, client="192.0.2.7:5", gateway="gw-a", at=T0)
assert isinstance(_BEGUN, Session)
SESSION: Session = _BEGUN
LIMITS = st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(hours=9))


def _code(value: object) -> str:
    return value.code if isinstance(value, Refusal) else ""


def test_a_lock_names_who_set_it_and_another_may_open_it() -> None:
    locked = lock(SESSION, "usr_lead", "lead", locked=True)
    assert locked == replace(SESSION, locked_by="lead")
    assert isinstance(locked, Session)
    assert lock(locked, "usr_auditor", "auditor", locked=False) == SESSION


def test_a_person_opens_their_own_lock_and_not_anothers() -> None:
    by_lead = replace(SESSION, locked_by="lead")
    assert _code(lock(by_lead, SESSION.holder, SESSION.holder_name, locked=False)) == "own-session"
    by_holder = replace(SESSION, locked_by=SESSION.holder_name)
    assert lock(by_holder, SESSION.holder, SESSION.holder_name, locked=False) == SESSION


def test_locks_that_make_no_sense_are_refused() -> None:
    over = end(SESSION, EndReason.KILLED, T0)
    assert isinstance(over, Session)
    assert _code(lock(over, "usr_lead", "lead", locked=True)) == "session-over"
    database = replace(SESSION, protocol=Protocol.POSTGRES)
    assert _code(lock(database, "usr_lead", "lead", locked=True)) == "lock-not-supported"
    assert _code(lock(SESSION, "usr_lead", "lead", locked=False)) == "lock-unchanged"
    assert _code(lock(replace(SESSION, locked_by="lead"), "usr_lead", "lead", locked=True)) == "lock-unchanged"


@pytest.mark.parametrize(
    ("idle", "due"),
    [
        (13 * MINUTE, None),
        (14 * MINUTE - TICK, None),
        (14 * MINUTE, MINUTE),
        (15 * MINUTE - TICK, TICK),
        (15 * MINUTE, EndReason.IDLE_TIMEOUT),
        (99 * MINUTE, EndReason.IDLE_TIMEOUT),
    ],
)
def test_idle_for_too_long_ends_after_a_warning(idle: timedelta, due: EndReason | timedelta | None) -> None:
    assert idle_verdict(idle, 15 * MINUTE) == due


def test_a_level_without_a_limit_lets_people_think() -> None:
    assert idle_verdict(timedelta(days=365), None) is None


@given(LIMITS, LIMITS)
def test_nobody_is_warned_late_and_nobody_is_cut_early(idle: timedelta, limit: timedelta) -> None:
    due = idle_verdict(idle, limit)
    assert (due is EndReason.IDLE_TIMEOUT) == (idle >= limit)
    if isinstance(due, timedelta):
        assert timedelta(0) < due <= min(IDLE_WARNING, limit / 2)


@pytest.mark.parametrize("reason", list(EndReason))
def test_every_reason_is_a_sentence(reason: EndReason) -> None:
    assert reason.sentence()[0].isupper()
    assert reason.sentence("by lead").endswith(". (by lead)")
