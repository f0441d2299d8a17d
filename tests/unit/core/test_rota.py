from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.rota import Freshness, RotaRules, Shift, freshness, is_counted, on_call, with_grace
from gateway.core.window import Window
from tests.unit.core.values import HOUR, MINUTE, T0, TICK

RULES = RotaRules()
BERLIN = ZoneInfo("Europe/Berlin")
SHIFT = Shift("orders", "oncall", 1, Window(T0, T0 + 8 * HOUR), "rota.yaml", T0, "cafe")


def _fetched(at: datetime, shift: Shift = SHIFT) -> Shift:
    return replace(shift, fetched_at=at)


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (timedelta(0), Freshness.FRESH),
        (10 * MINUTE, Freshness.FRESH),
        (10 * MINUTE + TICK, Freshness.STALE),
        (24 * HOUR, Freshness.STALE),
        (24 * HOUR + TICK, Freshness.PROJECTED),
        (-MINUTE, Freshness.FRESH),
        (-MINUTE - TICK, Freshness.NONE),
    ],
)
def test_how_old_evidence_may_be(age: timedelta, expected: Freshness) -> None:
    assert freshness(T0 - age, T0, RULES) is expected
    assert is_counted(_fetched(T0 + HOUR - age), T0 + HOUR, RULES) is (expected in (Freshness.FRESH, Freshness.STALE))


def test_grace_on_both_ends_to_the_tick() -> None:
    assert with_grace(SHIFT, RULES) == Window(T0 - 15 * MINUTE, T0 + 8 * HOUR + 30 * MINUTE)
    ends = {
        T0 - 15 * MINUTE - TICK: False,
        T0 - 15 * MINUTE: True,
        T0 + 8 * HOUR + 30 * MINUTE - TICK: True,
        T0 + 8 * HOUR + 30 * MINUTE: False,
    }
    for at, expected in ends.items():
        duty = on_call([_fetched(at)], "orders", "oncall", at, RULES)
        assert duty.is_on_call is expected


@pytest.mark.parametrize(("level", "expected"), [(-1, False), (0, False), (1, True), (2, True), (3, False)])
def test_only_near_escalation_levels_count(level: int, expected: bool) -> None:
    duty = on_call([replace(SHIFT, level=level)], "orders", "oncall", T0, RULES)
    assert duty.is_on_call is expected
    assert duty.level == (level if expected else None)


def test_no_evidence_is_a_no() -> None:
    duty = on_call([], "orders", "oncall", T0, RULES)
    assert (duty.is_on_call, duty.freshness, duty.shift, duty.until) == (False, Freshness.NONE, None, None)
    assert not on_call([SHIFT], "search", "oncall", T0, RULES).is_on_call
    assert not on_call([SHIFT], "orders", "developer", T0, RULES).is_on_call


def test_evidence_from_the_future_or_too_old_is_a_no() -> None:
    for fetched in (T0 + 2 * MINUTE, T0 - 25 * HOUR):
        duty = on_call([_fetched(fetched)], "orders", "oncall", T0, RULES)
        assert (duty.is_on_call, duty.freshness, duty.others) == (False, Freshness.NONE, ())


def test_the_answer_carries_its_evidence() -> None:
    duty = on_call([_fetched(T0 - HOUR)], "orders", "oncall", T0, RULES)
    assert (duty.service, duty.subject, duty.level) == ("orders", "oncall", 1)
    assert (duty.freshness, duty.shift) == (Freshness.STALE, _fetched(T0 - HOUR))
    assert duty.until == T0 + 8 * HOUR + 30 * MINUTE


def test_several_duties_count_as_the_nearest_level_until_the_last_end() -> None:
    backup = replace(SHIFT, level=2, window=Window(T0 - HOUR, T0 + 12 * HOUR))
    duty = on_call([backup, SHIFT], "orders", "oncall", T0 + HOUR, RULES)
    assert (duty.level, duty.shift, duty.until) == (1, SHIFT, T0 + 12 * HOUR + 30 * MINUTE)


def test_of_two_sources_that_agree_the_fresher_one_is_evidence() -> None:
    old, new = _fetched(T0 - HOUR), _fetched(T0)
    for known in ([old, new], [new, old]):
        duty = on_call(known, "orders", "oncall", T0, RULES)
        assert (duty.freshness, duty.shift) == (Freshness.FRESH, new)


def test_others_are_who_to_call_now_and_grace_makes_nobody_that() -> None:
    leaving = replace(SHIFT, subject="leaving", window=Window(T0 - 8 * HOUR, T0))
    backup = replace(SHIFT, subject="backup", level=2)
    manager = replace(SHIFT, subject="manager", level=3)
    shifts = [backup, leaving, SHIFT, backup, manager]
    assert on_call(shifts, "orders", "developer", T0, RULES).others == ("oncall", "backup")
    assert on_call(shifts, "orders", "oncall", T0, RULES).others == ("backup",)
    duty = on_call(shifts, "orders", "leaving", T0, RULES)
    assert duty.is_on_call
    assert duty.others == ("oncall", "backup")


def test_a_no_says_how_fresh_what_is_known_is() -> None:
    duty = on_call([_fetched(T0 - HOUR)], "orders", "developer", T0, RULES)
    assert (duty.is_on_call, duty.freshness, duty.others) == (False, Freshness.STALE, ("oncall",))


@pytest.mark.parametrize(
    ("day", "hours"),
    [(datetime(2026, 3, 28, 20, tzinfo=BERLIN), 11), (datetime(2026, 10, 24, 20, tzinfo=BERLIN), 13)],
)
def test_a_night_shift_across_daylight_saving_is_as_long_as_it_is(day: datetime, hours: int) -> None:
    """20:00 to 08:00 by the wall is 11 hours in spring and 13 in autumn, and grace is real minutes."""
    morning = (day + timedelta(days=1)).replace(hour=8)
    shift = replace(SHIFT, window=Window(day, morning))
    assert shift.window.not_after - shift.window.not_before == hours * HOUR
    begin = shift.window.not_before
    for at in (begin, begin + hours * HOUR + 30 * MINUTE - TICK):
        assert on_call([_fetched(at, shift)], "orders", "oncall", at, RULES).is_on_call
    at = begin + hours * HOUR + 30 * MINUTE
    assert not on_call([_fetched(at, shift)], "orders", "oncall", at, RULES).is_on_call


def test_a_shift_that_ends_inside_the_hour_that_comes_twice() -> None:
    first = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=0)
    shift = replace(SHIFT, window=Window(first - 8 * HOUR, first))
    second = first.replace(fold=1)
    assert not on_call([_fetched(T0 + timedelta(days=237), shift)], "orders", "oncall", second, RULES).is_on_call


people = st.sampled_from(["oncall", "lead", "developer"])
moments = st.timedeltas(min_value=timedelta(hours=-30), max_value=timedelta(hours=30))
shifts = st.builds(
    lambda subject, service, level, begin, length, fetched: Shift(
        service, subject, level, Window(T0 + begin, T0 + begin + length), "rota", T0 + fetched, "h"
    ),
    people,
    st.sampled_from(["orders", "search"]),
    st.integers(0, 4),
    moments,
    st.timedeltas(min_value=TICK, max_value=timedelta(hours=24)),
    moments,
)


@given(st.lists(shifts, max_size=8), people, moments)
def test_a_yes_always_rests_on_a_shift_that_counts(known: list[Shift], person: str, offset: timedelta) -> None:
    at = T0 + offset
    duty = on_call(known, "orders", person, at, RULES)
    counted = [s for s in known if s.service == "orders" and is_counted(s, at, RULES)]
    mine = [s for s in counted if s.subject == person]
    assert duty.is_on_call == bool(mine)
    assert person not in duty.others
    assert set(duty.others) <= {s.subject for s in counted}
    if duty.is_on_call:
        assert duty.shift in mine
        assert duty.level == duty.shift.level == min(s.level for s in mine)
        assert duty.until > at
        assert duty.freshness in (Freshness.FRESH, Freshness.STALE)
    else:
        assert (duty.shift, duty.level, duty.until) == (None, None, None)


@given(st.lists(shifts, max_size=8), people, moments, st.randoms(use_true_random=False))
def test_the_order_of_snapshots_does_not_decide(
    known: list[Shift], person: str, offset: timedelta, chance: object
) -> None:
    shuffled = list(known)
    chance.shuffle(shuffled)
    one = on_call(known, "orders", person, T0 + offset, RULES)
    other = on_call(shuffled, "orders", person, T0 + offset, RULES)
    assert (one.is_on_call, one.level, one.until, one.others) == (
        other.is_on_call,
        other.level,
        other.until,
        other.others,
    )
    assert one.freshness == other.freshness
