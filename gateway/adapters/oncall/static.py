"""A rota from a YAML file: rotations that hand over at local wall time, and overrides.

Between the first handover and the end of time every instant belongs to exactly one person per schedule. A handover
at a local time that a daylight-saving change skips takes place as the clocks jump; at one that happens twice, the
first time (PEP 495, fold=0).
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.adapters.yaml_source import Place, SourceError, WatchedFile, digest, document
from gateway.core.errors import Refusal, Unavailable
from gateway.core.rota import Shift
from gateway.core.window import Window

_LENGTH = re.compile(r"([1-9][0-9]?)([dw])")
_WEEKDAYS = {
    name: i for i, name in enumerate(("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"))
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One person's unbroken duty."""

    person: str
    window: Window


@dataclass(frozen=True, slots=True)
class Rotation:
    """People in turn, `length` days each, from `starts` on, handing over at `handover` in the schedule's zone."""

    people: tuple[str, ...]
    starts: date
    handover: time
    length: int

    def turns(self, zone: ZoneInfo, window: Window) -> Iterator[Turn]:
        """Every turn that overlaps `window`, whole."""
        # A day of slack on the left: the local date may differ from the UTC date.
        days = (window.not_before.astimezone(zone).date() - self.starts).days - 1
        number = max(0, days // self.length)
        while (begin := self.handover_at(number, zone)) < window.not_after:
            end = self.handover_at(number + 1, zone)
            if end > window.not_before:
                yield Turn(self.people[number % len(self.people)], Window(begin, end))
            number += 1

    def handover_at(self, number: int, zone: ZoneInfo) -> datetime:
        day = self.starts + timedelta(days=number * self.length)
        return datetime.combine(day, self.handover, zone).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Who is on call for a service at one escalation level. Overrides do not overlap."""

    service: str
    escalation: int
    zone: ZoneInfo
    rotation: Rotation
    overrides: tuple[Turn, ...] = ()

    def turns(self, window: Window) -> list[Turn]:
        """The rotation with the overrides cut in, overlapping `window`, in order."""
        cut = [piece for turn in self.rotation.turns(self.zone, window) for piece in self._left_of(turn)]
        begins = self.rotation.handover_at(0, self.zone)
        swaps = [
            o
            for o in self.overrides
            if o.window.not_before < window.not_after and o.window.not_after > max(window.not_before, begins)
        ]
        within = [t for t in cut if t.window.not_before < window.not_after and t.window.not_after > window.not_before]
        return sorted(within + swaps, key=lambda turn: turn.window.not_before)

    def _left_of(self, turn: Turn) -> Iterator[Turn]:
        """What the overrides leave of a turn."""
        begin = turn.window.not_before
        for swap in self.overrides:
            if swap.window.not_after <= begin or swap.window.not_before >= turn.window.not_after:
                continue
            if swap.window.not_before > begin:
                yield Turn(turn.person, Window(begin, swap.window.not_before))
            begin = swap.window.not_after
        if begin < turn.window.not_after:
            yield Turn(turn.person, Window(begin, turn.window.not_after))


class StaticRota:
    """The `ShiftSource` port on a file, parsed again only when it has changed."""

    def __init__(self, path: Path) -> None:
        self.name = f"rota:{path}"  # the whole path: two files of one name are two sources
        self._file = WatchedFile(path, lambda content, file: (read_schedules(content, file), digest(content)))

    def fetch(self, window: Window, at: datetime) -> Sequence[Shift]:
        """All shifts that overlap the window; Unavailable with file, line and key when the file cannot be used."""
        try:
            schedules, source_hash = self._file.get()
        except SourceError as error:
            raise Unavailable(Refusal("rota-unreadable", str(error))) from None
        return [
            Shift(schedule.service, turn.person, schedule.escalation, turn.window, self.name, at, source_hash)
            for schedule in schedules
            for turn in schedule.turns(window)
            if turn.window.not_after > window.not_before and turn.window.not_before < window.not_after
        ]


def read_schedules(content: bytes, file: str) -> tuple[Schedule, ...]:
    """Parse and judge; SourceError with file, line and key."""
    services = document(content, file, {"services"}, set())["services"].named()
    return tuple(
        _schedule(service, schedule)
        for service, place in services.items()
        for schedule in place.keys({"schedules"}, set())["schedules"].named().values()
    )


def _schedule(service: str, place: Place) -> Schedule:
    keys = place.keys({"escalation", "time_zone", "rotation"}, {"overrides"})
    zone = keys["time_zone"].parsed(_zone)
    overrides = tuple(_override(item, zone) for item in keys["overrides"].items()) if "overrides" in keys else ()
    ordered = tuple(sorted(overrides, key=lambda turn: turn.window.not_before))
    for earlier, later in itertools.pairwise(ordered):
        if later.window.not_before < earlier.window.not_after:
            raise keys["overrides"].wrong(f"{earlier.person} and {later.person} overlap; say who it is to be")
    return Schedule(service, keys["escalation"].number(1, 9), zone, _rotation(keys["rotation"]), ordered)


def _rotation(place: Place) -> Rotation:
    keys = place.keys({"people", "starts", "handover", "length"}, {"weekday"})
    people = keys["people"].names()
    if not people:
        raise keys["people"].wrong("must not be empty")
    starts = keys["starts"].day()
    if "weekday" in keys and keys["weekday"].one_of(_WEEKDAYS) != starts.weekday():
        raise keys["weekday"].wrong(f"{starts} is a {list(_WEEKDAYS)[starts.weekday()]}")
    if not 1990 <= starts.year <= 2200:
        raise keys["starts"].wrong("must be between 1990 and 2200")
    return Rotation(people, starts, keys["handover"].parsed(_time_of_day), keys["length"].parsed(_length))


def _override(place: Place, zone: ZoneInfo) -> Turn:
    keys = place.keys({"who", "from", "to"}, set())
    begin, end = (keys[key].parsed(lambda text: _local_instant(text, zone)) for key in ("from", "to"))
    if end <= begin:
        raise keys["to"].wrong("must be after from")
    return Turn(keys["who"].name(), Window(begin, end))


def _zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{text[:60]!r} is not a time zone such as Europe/Berlin or UTC") from None


def _time_of_day(text: str) -> time:
    if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", text):
        raise ValueError(f'{text[:60]!r} is not a time of day such as "09:00"')
    return time.fromisoformat(text)


def _length(text: str) -> int:
    match = _LENGTH.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:60]!r} is not a length such as 1w or 3d")
    return int(match[1]) * (7 if match[2] == "w" else 1)


def _local_instant(text: str, zone: ZoneInfo) -> datetime:
    """With an offset as written, without one in the schedule's zone."""
    at = datetime.fromisoformat(text)
    if not 1990 <= at.year <= 2200:
        raise ValueError("must be between 1990 and 2200")
    return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)
