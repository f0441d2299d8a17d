from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from gateway.core.grant import Grant, extend
from gateway.core.obligation import Obligations
from gateway.core.request import RequestKind
from gateway.core.window import Window
from tests.unit.core.values import HOUR, MINUTE, T0, TICK, grant

LONGEST = 12 * HOUR
HELD = grant()  # from T0, for an hour
SPANS = st.timedeltas(min_value=timedelta(days=-1), max_value=timedelta(days=2))


def _code(value: object) -> str:
    return value.code if isinstance(value, Refusal) else ""


def test_it_ends_as_long_from_now_as_was_asked() -> None:
    extended = extend(HELD, Obligations(), 2 * HOUR, T0 + 10 * MINUTE, LONGEST)
    assert extended == replace(HELD, window=Window(T0, T0 + 10 * MINUTE + 2 * HOUR))


@pytest.mark.parametrize(
    ("held", "at", "code"),
    [
        (HELD, T0 - TICK, "grant-pending"),
        (HELD, T0 + HOUR, "grant-expired"),
        (grant(revoked_at=T0), T0 + MINUTE, "grant-revoked"),
        (grant(kind=RequestKind.BREAK_GLASS), T0 + MINUTE, "break-glass-not-extended"),
    ],
)
def test_only_an_active_standard_grant_is_extended(held: Grant, at: object, code: str) -> None:
    refused = extend(held, Obligations(), 2 * HOUR, at, LONGEST)  # type: ignore[arg-type]
    assert _code(refused) == code
    assert isinstance(refused, Refusal)
    assert "gw request" in refused.sentence()


@pytest.mark.parametrize(
    ("duties", "duration", "code"),
    [
        (Obligations(approvals=1), 2 * HOUR, "approval-missing"),
        (Obligations(review=True), 2 * HOUR, "review-needed"),
        (Obligations(), timedelta(0), "duration-invalid"),
        (Obligations(), -HOUR, "duration-invalid"),
        (Obligations(), 50 * MINUTE, "not-longer"),
        (Obligations(max_duration=50 * MINUTE), 2 * HOUR, "not-longer"),
    ],
)
def test_what_needs_more_than_the_holders_word_is_refused(duties: Obligations, duration: timedelta, code: str) -> None:
    assert _code(extend(HELD, duties, duration, T0 + 10 * MINUTE, LONGEST)) == code


def test_a_grant_that_owes_a_review_may_be_extended_under_the_same_duty() -> None:
    owing = replace(HELD, obligations=Obligations(review=True))
    assert isinstance(extend(owing, Obligations(review=True), 2 * HOUR, T0, LONGEST), Grant)


@given(SPANS, SPANS, st.none() | SPANS.filter(lambda span: span > timedelta(0)), st.integers(0, 2), st.booleans())
def test_an_extension_is_never_shorter_nor_beyond_any_bound(
    age: timedelta, duration: timedelta, limit: timedelta | None, approvals: int, review: bool
) -> None:
    at = T0 + age
    duties = Obligations(max_duration=limit, approvals=approvals, review=review)
    extended = extend(HELD, duties, duration, at, LONGEST)
    if isinstance(extended, Refusal):
        return
    assert HELD.is_active(at)
    assert not approvals
    assert not review
    until = extended.window.not_after
    assert HELD.window.not_after < until <= at + duration
    assert until <= T0 + LONGEST
    assert limit is None or until <= at + limit
    assert replace(extended, window=HELD.window) == HELD  # and nothing else changes


@given(st.lists(st.tuples(SPANS, SPANS), max_size=30))
def test_however_often_it_is_extended_it_ends_within_the_longest_grant(
    asked: list[tuple[timedelta, timedelta]],
) -> None:
    held = HELD
    for age, duration in asked:
        extended = extend(held, Obligations(), duration, T0 + age, LONGEST)
        held = held if isinstance(extended, Refusal) else extended
    assert held.window.not_before == T0
    assert held.window.not_after <= T0 + LONGEST
