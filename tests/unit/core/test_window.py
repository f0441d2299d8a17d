from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.window import Window
from tests.unit.core.values import HOUR, T0, TICK

BERLIN = ZoneInfo("Europe/Berlin")
instants = st.datetimes(
    min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.timezones(), allow_imaginary=False
)


def test_the_window_is_half_open() -> None:
    window = Window(T0, T0 + HOUR)
    assert [window.contains(at) for at in (T0 - TICK, T0, T0 + HOUR - TICK, T0 + HOUR)] == [False, True, True, False]
    assert window.remaining(T0 + HOUR / 2) == HOUR / 2
    assert window.remaining(T0 + 2 * HOUR) == timedelta(0)


@pytest.mark.parametrize("end", [T0, T0 - TICK])
def test_a_window_is_never_empty(end: datetime) -> None:
    with pytest.raises(ValueError, match="after it begins"):
        Window(T0, end)


@pytest.mark.parametrize(("begin", "end"), [(datetime(2026, 1, 1), T0), (T0, datetime(2027, 1, 1))])
def test_a_window_needs_a_zone(begin: datetime, end: datetime) -> None:
    with pytest.raises(ValueError, match="timezone-aware"):
        Window(begin, end)


def test_clipping() -> None:
    window = Window(T0, T0 + HOUR)
    assert window.clipped(T0 + 2 * HOUR) == window
    assert window.clipped(T0 + HOUR / 2) == Window(T0, T0 + HOUR / 2)
    assert window.clipped(T0) is None


def test_the_hour_that_comes_twice_is_an_hour_of_the_window() -> None:
    """2026-10-25 in Berlin: 02:30 summer time, then 02:30 again; by wall clock the window would be empty."""
    window = Window(
        datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=0), datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)
    )
    assert window.not_after - window.not_before == HOUR
    assert window.contains(datetime(2026, 10, 25, 2, 45, tzinfo=BERLIN, fold=0))
    assert not window.contains(datetime(2026, 10, 25, 2, 45, tzinfo=BERLIN, fold=1))


def test_a_span_added_to_the_end_of_a_window_is_that_long_across_a_change() -> None:
    """2026-03-29 in Berlin jumps from 02:00 to 03:00: half an hour after 01:45 is 03:15."""
    window = Window(datetime(2026, 3, 29, 1, 0, tzinfo=BERLIN), datetime(2026, 3, 29, 1, 45, tzinfo=BERLIN))
    assert (window.not_after + HOUR / 2) == datetime(2026, 3, 29, 3, 15, tzinfo=BERLIN)


@given(begin=instants, length=st.timedeltas(min_value=TICK, max_value=timedelta(days=400)), at=instants)
def test_zones_change_nothing(begin: datetime, length: timedelta, at: datetime) -> None:
    exact = begin.timestamp()
    window = Window(begin, Window(begin, begin + timedelta(days=500)).not_before + length)
    assert window.not_before.utcoffset() == window.not_after.utcoffset() == timedelta(0)
    assert window.not_before.timestamp() == exact
    assert window.contains(at) == (window.not_before <= at < window.not_after)
    clipped = window.clipped(at)
    assert (clipped is None) == (at <= window.not_before)
    assert clipped is None or clipped.not_after <= window.not_after
