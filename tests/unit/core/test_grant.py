from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from gateway.core.grant import (
    WARNINGS,
    Grant,
    GrantState,
    Review,
    due_warning,
    issue,
    review_owed,
    revoke,
    sign_review,
)
from gateway.core.obligation import Obligations
from gateway.core.request import PENDING_FOR, RequestState
from gateway.core.window import Window
from tests.unit.core.values import HOUR, MINUTE, PLAIN, T0, TICK, answer, grant, request

REVIEW = Review("rev_1", "grt_1", "usr_oncall", T0 + HOUR)


def _code(value: object) -> str:
    return value.code if isinstance(value, Refusal) else ""


def test_a_grant_begins_when_it_is_issued_and_lasts_what_policy_allows() -> None:
    asked = replace(PLAIN, duration=4 * HOUR, obligations=Obligations(max_duration=2 * HOUR))
    issued = issue(asked, "grt_1", T0 + MINUTE)
    assert isinstance(issued, Grant)
    assert issued.window == Window(T0 + MINUTE, T0 + MINUTE + 2 * HOUR)
    assert (issued.holder, issued.holder_name, issued.request) == (asked.requester, asked.requester_name, asked.id)
    assert (issued.target, issued.level, issued.kind) == (asked.target, asked.level, asked.kind)
    assert (issued.incident, issued.obligations, issued.approvals) == (asked.incident, asked.obligations, 0)


def test_no_grant_without_quorum() -> None:
    asked = replace(request(approvals=2), approvals=(answer("lead"),))
    refused = issue(asked, "grt_1", T0)
    assert isinstance(refused, Refusal)
    assert refused.message == "1 more approval(s) needed."
    quorate = issue(replace(asked, approvals=(answer("lead"), answer("auditor"))), "grt_1", T0)
    assert isinstance(quorate, Grant)
    assert quorate.approvals == 2


@pytest.mark.parametrize("state", [s for s in RequestState if s is not RequestState.PENDING])
def test_no_grant_from_a_request_that_is_decided(state: RequestState) -> None:
    assert _code(issue(replace(PLAIN, state=state), "grt_1", T0)) == "already-decided"


def test_no_grant_from_a_request_that_has_lapsed() -> None:
    assert isinstance(issue(PLAIN, "grt_1", T0 + PENDING_FOR - TICK), Grant)
    assert _code(issue(PLAIN, "grt_1", T0 + PENDING_FOR)) == "request-lapsed"


def test_the_state_follows_the_window() -> None:
    held = grant()
    at = [T0 - TICK, T0, T0 + HOUR - TICK, T0 + HOUR]
    expected = [GrantState.PENDING, GrantState.ACTIVE, GrantState.ACTIVE, GrantState.EXPIRED]
    assert [held.state(instant) for instant in at] == expected
    assert [held.is_active(instant) for instant in at] == [False, True, True, False]


@given(at=st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2030, 1, 1)))
def test_revoked_is_revoked_even_when_a_clock_is_set_back(at: datetime) -> None:
    ended = revoke(grant(), T0 + MINUTE, "lead", "finished")
    assert isinstance(ended, Grant)
    instant = at.replace(tzinfo=T0.tzinfo)
    assert ended.state(instant) is GrantState.REVOKED
    assert _code(revoke(ended, instant, "auditor", "again")) == "grant-over"


def test_a_revocation_says_who_and_why_and_changes_nothing_else() -> None:
    held = grant()
    ended = revoke(held, T0 + MINUTE, "lead", "finished")
    assert isinstance(ended, Grant)
    assert (ended.revoked_at, ended.revoked_by, ended.revoke_reason) == (T0 + MINUTE, "lead", "finished")
    assert replace(ended, revoked_at=None, revoked_by="", revoke_reason="") == held


def test_what_is_over_cannot_be_revoked_but_what_has_not_begun_can() -> None:
    assert _code(revoke(grant(), T0 + HOUR, "lead", "")) == "grant-over"
    assert isinstance(revoke(grant(), T0 - HOUR, "lead", ""), Grant)


def test_a_review_is_owed_when_policy_says_so() -> None:
    assert review_owed(grant(), "rev_1") is None
    owed = review_owed(grant(obligations=Obligations(review=True, review_within=4 * HOUR)), "rev_1")
    assert owed == Review("rev_1", "grt_1", "usr_oncall", T0 + 4 * HOUR)
    assert owed.is_open()


def test_somebody_else_signs_a_review_once() -> None:
    signed = sign_review(REVIEW, "usr_lead", "unjustified", "no incident was open", T0)
    assert isinstance(signed, Review)
    assert (signed.reviewer, signed.verdict, signed.signed_at) == ("usr_lead", "unjustified", T0)
    assert not signed.is_open()
    assert _code(sign_review(signed, "usr_auditor", "justified", "fine", T0)) == "reviewed-already"


@pytest.mark.parametrize(
    ("reviewer", "verdict", "note", "code"),
    [
        ("usr_oncall", "justified", "looked", "own-review"),
        ("usr_lead", "fine", "looked", "verdict-unknown"),
        ("usr_lead", "justified", "  ", "note-missing"),
    ],
)
def test_a_review_is_another_persons_judgement_in_words(reviewer: str, verdict: str, note: str, code: str) -> None:
    assert _code(sign_review(REVIEW, reviewer, verdict, note, T0)) == code


@pytest.mark.parametrize(
    ("left", "already", "expected"),
    [
        (6 * MINUTE, (), None),
        (5 * MINUTE, (), 5 * MINUTE),
        (3 * MINUTE, (5 * MINUTE,), None),
        (MINUTE, (5 * MINUTE,), MINUTE),
        (MINUTE / 2, (), MINUTE),
        (MINUTE / 2, (MINUTE,), None),
        (timedelta(0), (), None),
        (-MINUTE, (), None),
    ],
)
def test_warnings(left: timedelta, already: tuple[timedelta, ...], expected: timedelta | None) -> None:
    assert due_warning(T0, T0 - left, frozenset(already)) == expected


@given(st.lists(st.timedeltas(min_value=timedelta(minutes=-10), max_value=timedelta(minutes=10)), max_size=20))
def test_each_warning_is_given_once_and_never_after_a_later_one(moments: list[timedelta]) -> None:
    given_so_far: list[timedelta] = []
    for left in moments:
        due = due_warning(T0, T0 - left, frozenset(given_so_far))
        if due is not None:
            assert timedelta(0) < left <= due
            given_so_far.append(due)
    assert given_so_far == sorted(set(given_so_far), reverse=True)
    assert set(given_so_far) <= set(WARNINGS)
