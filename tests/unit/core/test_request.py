from dataclasses import replace
from datetime import timedelta

import pytest

from gateway.core.errors import Refusal
from gateway.core.obligation import Obligations
from gateway.core.request import (
    MAX_REASON,
    PENDING_FOR,
    Request,
    RequestState,
    Verdict,
    add_approval,
    settle,
    validate_ask,
)
from tests.unit.core.values import HOUR, MINUTE, PLAIN, T0, TICK, answer, request


def _code(value: object) -> str:
    return value.code if isinstance(value, Refusal) else ""


@pytest.mark.parametrize(
    ("duration", "reason", "code"),
    [
        (HOUR, "a reason", ""),
        (12 * HOUR, "x" * MAX_REASON, ""),
        (HOUR, " \t\n", "reason-missing"),
        (HOUR, "x" * (MAX_REASON + 1), "reason-too-long"),
        (timedelta(0), "a reason", "duration-invalid"),
        (-HOUR, "a reason", "duration-invalid"),
        (12 * HOUR + TICK, "a reason", "duration-too-long"),
    ],
)
def test_what_a_person_may_ask(duration: timedelta, reason: str, code: str) -> None:
    assert _code(validate_ask(duration, reason, 12 * HOUR)) == code


def test_the_refusal_says_what_may_be_asked_instead() -> None:
    refused = validate_ask(9 * HOUR, "why", timedelta(hours=1.5))
    assert refused is not None
    assert refused.sentence() == "No grant is longer than 1.5 h here. Ask for --for 1.5h or less."


def test_others_approvals_make_the_quorum() -> None:
    asked = request(approvals=2)
    assert not asked.is_quorate()
    once = add_approval(asked, answer("lead"))
    assert isinstance(once, Request)
    assert not once.is_quorate()
    twice = add_approval(once, answer("auditor"))
    assert isinstance(twice, Request)
    assert twice.is_quorate()
    assert twice.approved_by() == {"lead", "auditor"}
    assert twice.state is RequestState.PENDING


def test_the_requester_never_counts() -> None:
    asked = request(approvals=1)
    assert _code(add_approval(asked, answer(asked.requester))) == "own-request"
    assert _code(add_approval(asked, answer(asked.requester, Verdict.REJECT))) == "own-request"
    forged = replace(asked, approvals=(answer(asked.requester),))
    assert not forged.is_quorate()


def test_one_person_counts_once() -> None:
    once = add_approval(request(approvals=2), answer("lead"))
    assert isinstance(once, Request)
    assert _code(add_approval(once, answer("lead"))) == "answered-already"
    assert _code(add_approval(once, answer("lead", Verdict.REJECT))) == "answered-already"


def test_one_rejection_ends_it() -> None:
    once = add_approval(request(approvals=2), answer("lead"))
    assert isinstance(once, Request)
    rejected = add_approval(once, answer("auditor", Verdict.REJECT))
    assert isinstance(rejected, Request)
    assert rejected.state is RequestState.REJECTED
    assert rejected.approved_by() == {"lead"}
    assert _code(add_approval(rejected, answer("third"))) == "already-decided"


def test_nothing_is_decided_after_it_has_lapsed() -> None:
    asked = request(approvals=1)
    assert isinstance(add_approval(asked, answer("lead", at=T0 + PENDING_FOR - TICK)), Request)
    assert _code(add_approval(asked, answer("lead", at=T0 + PENDING_FOR))) == "request-lapsed"


def test_an_answer_counts_for_its_own_request_only() -> None:
    with pytest.raises(ValueError, match="does not count"):
        add_approval(request(approvals=1), replace(answer("lead"), request="req_other"))


@pytest.mark.parametrize("state", [s for s in RequestState if s is not RequestState.PENDING])
def test_a_request_is_settled_once(state: RequestState) -> None:
    settled = settle(PLAIN, state)
    assert isinstance(settled, Request)
    assert settled.state is state
    for again in RequestState:
        assert _code(settle(settled, again)) == "already-decided"


def test_policy_shortens_and_never_lengthens() -> None:
    assert PLAIN.effective_duration() == HOUR
    assert replace(PLAIN, obligations=Obligations(max_duration=MINUTE)).effective_duration() == MINUTE
    assert replace(PLAIN, obligations=Obligations(max_duration=9 * HOUR)).effective_duration() == HOUR
