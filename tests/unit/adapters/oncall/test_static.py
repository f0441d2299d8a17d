import contextlib
import itertools
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.adapters.oncall.static import Rotation, Schedule, StaticRota, Turn, read_schedules
from gateway.adapters.yaml_source import SourceError
from gateway.core.errors import Unavailable
from gateway.core.rota import Shift
from gateway.core.window import Window

AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
GOOD = """\
version: 1
services:
  orders:
    schedules:
      primary:
        escalation: 1
        time_zone: Europe/Berlin
        rotation:
          people: [anna, ben]
          starts: 2026-01-05
          weekday: monday
          handover: "09:00"
          length: 1w
        overrides:
          - {who: carl, from: 2026-03-04T12:00, to: 2026-03-04T18:00}
      secondary:
        escalation: 2
        time_zone: UTC
        rotation: {people: [dora], starts: 2026-01-01, handover: "00:00", length: 1d}
"""
BERLIN = ZoneInfo("Europe/Berlin")


def window(days: int = 14) -> Window:
    return Window(AT - timedelta(days=1), AT + timedelta(days=days))


def at(shifts: Sequence[Shift], level: int, moment: datetime) -> list[str]:
    return [s.subject for s in shifts if s.level == level and s.window.contains(moment)]


def test_rotation_override_and_evidence(tmp_path: Path):
    path = tmp_path / "rota.yaml"
    path.write_text(GOOD)
    source = StaticRota(path)
    shifts = source.fetch(window(), AT)
    # Weeks since 5 January: 2 March begins the ninth, which is anna's; Berlin's 09:00 is 08:00 UTC in winter.
    assert at(shifts, 1, datetime(2026, 3, 2, 7, 59, tzinfo=UTC)) == ["ben"]
    assert at(shifts, 1, datetime(2026, 3, 2, 8, 0, tzinfo=UTC)) == ["anna"]
    assert at(shifts, 1, datetime(2026, 3, 4, 10, 59, tzinfo=UTC)) == ["anna"]
    assert at(shifts, 1, datetime(2026, 3, 4, 11, 0, tzinfo=UTC)) == ["carl"]
    assert at(shifts, 1, datetime(2026, 3, 4, 17, 0, tzinfo=UTC)) == ["anna"]
    assert at(shifts, 2, AT) == ["dora"]
    assert {s.fetched_at for s in shifts} == {AT}
    assert all(s.source.endswith("rota.yaml") for s in shifts)
    assert all(s.window.not_after > window().not_before for s in shifts)


def test_a_handover_keeps_its_local_time_across_summer_time():
    rotation = Rotation(("anna", "ben"), date(2026, 1, 5), time(9), 7)
    around = Window(datetime(2026, 3, 20, tzinfo=UTC), datetime(2026, 4, 10, tzinfo=UTC))
    begins = [turn.window.not_before for turn in rotation.turns(BERLIN, around)]
    assert [b.hour for b in begins] == [8, 8, 7, 7]  # 29 March 2026 is the change
    assert all(b.astimezone(BERLIN).hour == 9 for b in begins)


@pytest.mark.parametrize(("day", "utc_hour"), [(date(2026, 3, 29), 1), (date(2026, 10, 25), 0)])
def test_a_handover_at_a_skipped_or_doubled_hour(day: date, utc_hour: int):
    """02:30 does not exist on 29 March and exists twice on 25 October: still exactly one handover."""
    rotation = Rotation(("anna", "ben"), day - timedelta(days=3), time(2, 30), 1)
    assert rotation.handover_at(3, BERLIN) == datetime(day.year, day.month, day.day, utc_hour, 30, tzinfo=UTC)
    around = Window(datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=1), datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=2))  # fmt: skip
    turns = list(rotation.turns(BERLIN, around))
    assert all(a.window.not_after == b.window.not_before for a, b in itertools.pairwise(turns))


zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca", "Pacific/Apia"])  # fmt: skip
START = datetime(2026, 1, 6, tzinfo=UTC)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    people = draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=5))
    rotation = Rotation(
        tuple(people),
        date(2026, 1, 1) - timedelta(days=draw(st.integers(0, 400))),
        time(draw(st.integers(0, 23)), draw(st.sampled_from([0, 15, 30, 59]))),
        draw(st.sampled_from([1, 2, 3, 7, 14, 28])),
    )
    edges = sorted(draw(st.lists(st.integers(0, 500 * 24), max_size=6, unique=True)))
    overrides = tuple(
        Turn("x", Window(START + timedelta(hours=a), START + timedelta(hours=b)))
        for a, b in zip(edges[::2], edges[1::2], strict=False)
    )
    return Schedule("orders", 1, ZoneInfo(draw(zones)), rotation, overrides)


@settings(max_examples=200)
@given(schedules(), st.integers(0, 500 * 24 * 60), st.integers(1, 20))
def test_every_instant_has_exactly_one_person(schedule: Schedule, minute: int, days: int):
    moment = START + timedelta(minutes=minute)
    around = Window(moment - timedelta(days=1), moment + timedelta(days=days))
    on_duty = [turn for turn in schedule.turns(around) if turn.window.contains(moment)]
    assert len(on_duty) == 1
    is_swapped = any(o.window.contains(moment) for o in schedule.overrides)
    assert (on_duty[0].person == "x") is is_swapped


@settings(max_examples=200)
@given(schedules(), st.integers(0, 400), st.integers(1, 30))
def test_turns_join_without_gap_or_overlap_and_hand_over_at_local_time(schedule: Schedule, day: int, days: int):
    begin = START + timedelta(days=day)
    around = Window(begin, begin + timedelta(days=days))
    turns = schedule.turns(around)
    assert turns[0].window.not_before <= around.not_before
    assert turns[-1].window.not_after >= around.not_after
    assert all(a.window.not_after == b.window.not_before for a, b in itertools.pairwise(turns))
    rotation = schedule.rotation
    for turn in rotation.turns(schedule.zone, around):
        local = turn.window.not_before.astimezone(schedule.zone).replace(tzinfo=None)
        wanted = datetime.combine(local.date(), rotation.handover)
        exists = wanted.replace(tzinfo=schedule.zone).astimezone(UTC).astimezone(schedule.zone).replace(tzinfo=None) == wanted  # fmt: skip
        assert local == wanted or not exists


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "Europe/Berlin",
            "Europe/Berlim",
            "rota.yaml:7: services.orders.schedules.primary.time_zone: .*not a time zone",
        ),
        ("Europe/Berlin", "../../etc/passwd", "not a time zone"),
        ("weekday: monday", "weekday: friday", "rota.yaml:11: .*weekday: 2026-01-05 is a monday"),
        ('"09:00"', '"9"', "rota.yaml:12: .*handover: .*not a time of day"),
        ("length: 1w", "length: 0w", "rota.yaml:13: .*length"),
        ("[anna, ben]", "[]", "people: must not be empty"),
        ("[anna, ben]", "['a b']", "is not a name"),
        ("starts: 2026-01-05", "starts: soon", "rota.yaml:10: .*starts"),
        ("starts: 2026-01-05", "starts: 0001-01-01", "must be between 1990 and 2200|weekday"),
        ("to: 2026-03-04T18:00", "to: 2026-03-04T11:00", "to: must be after from"),
        ("to: 2026-03-04T18:00", "to: 9999-12-31T23:59", "between 1990 and 2200"),
        ("escalation: 2", "escalation: 0", "escalation: must be a number from 1 to 9"),
        ("escalation: 2", "level: 2", "level: unknown key"),
    ],
)
def test_a_fault_is_told_with_file_line_and_key(tmp_path: Path, old: str, new: str, said: str):
    path = tmp_path / "rota.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(Unavailable, match=said):
        StaticRota(path).fetch(window(), AT)


def test_overlapping_overrides_are_refused():
    more = "          - {who: emil, from: 2026-03-04T17:00, to: 2026-03-04T19:00}\n      secondary:"
    with pytest.raises(SourceError, match="carl and emil overlap"):
        read_schedules(GOOD.replace("      secondary:", more).encode(), "rota.yaml")


@settings(max_examples=300)
@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.text(max_size=8))
def test_mangled_text_never_raises_anything_else(start: int, length: int, junk: str):
    text = GOOD[:start] + junk + GOOD[start + length :]
    with contextlib.suppress(SourceError):
        for schedule in read_schedules(text.encode("utf-8", "surrogatepass"), "rota.yaml"):
            schedule.turns(window())
