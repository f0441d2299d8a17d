"""A rota from an iCal feed (RFC 5545): one calendar, one service, one escalation level.

Whoever is named by an event, as attendee or in its summary, and is in the explicit map of people, is on call while it
lasts. Nobody is guessed: an event that names nobody known is no evidence.
"""

import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import httpx2
import icalendar
import recurring_ical_events

from gateway.adapters.one_answer import UnusableAnswerError, body_of
from gateway.adapters.yaml_source import SourceError, read_bytes
from gateway.core.errors import Refusal, Unavailable
from gateway.core.rota import Shift
from gateway.core.window import Window

MAX_BYTES = 5 * 1024 * 1024
MAX_EVENTS = 5000
MAX_RECURRING = 200
MAX_SHIFTS = 5000
TOTAL_S = 10.0
# To work out all rules of a calendar. One that never holds, such as every 30 February, is looked for until the year
# 9999, which takes seconds, and a calendar may have two hundred of them.
RULES_S = 5.0
_OLDEST = 1990
# Rules that repeat within a day are no rota, and a line of them expands to millions of events.
_TOO_OFTEN = frozenset({"SECONDLY", "MINUTELY", "HOURLY"})
_WITHIN_A_DAY = ("BYHOUR", "BYMINUTE", "BYSECOND")
_CHANGES_WITH_EVERY_EXPORT = re.compile(rb"^(DTSTAMP|CREATED|LAST-MODIFIED|PRODID|SEQUENCE)[:;]")
# What the two libraries raise on malformed calendars, besides their own ValueErrors.
_MALFORMED = (
    ValueError,
    OSError,  # a time zone that is the name of a directory of them
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    AssertionError,
    Warning,
)


class IcalFeed:
    """The `ShiftSource` port on a feed: an https URL (plain http on loopback only) or a file.

    `people` maps an attendee's address or name, or a summary, to a user name; case does not matter. `time_zone` is
    that of all-day events and of times without a zone, unless the calendar itself says X-WR-TIMEZONE.
    """

    def __init__(
        self, service: str, location: str, people: Mapping[str, str], escalation: int = 1, time_zone: str = "UTC"
    ) -> None:
        """ValueError for a URL that is not https, or an unknown time zone."""
        self._service = service
        self._location = location
        self._is_url = "://" in location
        if self._is_url:
            _require_safe(location)
        self._people = {key.strip().casefold(): name for key, name in people.items()}
        self._escalation = escalation
        self._zone = _zone(time_zone)
        # A feed's address is often its only secret, so the name holds no more of it than tells two feeds apart.
        self.name = f"ical:{service}:{hashlib.sha256(location.encode()).hexdigest()[:8]}"

    def fetch(self, window: Window, at: datetime) -> Sequence[Shift]:
        """All shifts that overlap the window; Unavailable when the feed does not answer or makes no sense."""
        content = self._content()
        source_hash = _digest(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # both libraries warn of old habits in other people's calendars
                return [
                    Shift(self._service, person, self._escalation, duty, self.name, at, source_hash)
                    for person, duty in self._duties(content, window)
                ]
        except _MALFORMED as error:
            raise self._unavailable(f"is not a calendar that can be used: {_one_line(error)}") from None

    def _unavailable(self, why: str) -> Unavailable:
        return Unavailable(Refusal("rota-unreadable", f"{self.name} {why}"))

    def _content(self) -> bytes:
        if not self._is_url:
            try:
                return read_bytes(Path(self._location), MAX_BYTES)
            except SourceError as error:
                raise self._unavailable(f"cannot be read: {error}") from None
        # No redirects and no proxy from the environment: the feed is asked where it was configured, nowhere else.
        try:
            with httpx2.HTTPTransport(trust_env=False) as transport:
                accepted = {"accept": "text/calendar"}
                return body_of(transport, self._location, accepted, most=MAX_BYTES, seconds=TOTAL_S)
        except UnusableAnswerError as why:
            raise self._unavailable(f"cannot be used: {why}") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, RuntimeError) as error:  # also no descriptor is left
            # The library's text may repeat the address.
            raise self._unavailable(f"did not answer ({type(error).__name__})") from None

    def _duties(self, content: bytes, window: Window) -> Iterator[tuple[str, Window]]:
        calendar = icalendar.Calendar.from_ical(content)
        _require_bounded(calendar)
        zone = _zone(str(calendar["X-WR-TIMEZONE"])) if "X-WR-TIMEZONE" in calendar else self._zone
        for event in islice(_occurrences(calendar, window), MAX_SHIFTS):
            begin = _instant(event["DTSTART"].dt, zone)
            end = _instant(event["DTEND"].dt, zone)
            if str(event.get("STATUS", "")).upper() == "CANCELLED" or end <= max(begin, window.not_before):
                continue
            if begin < window.not_after:
                yield from ((person, Window(begin, end)) for person in self._named(event))

    def _named(self, event: icalendar.Event) -> tuple[str, ...]:
        """Users that an event names: its attendees, else whoever its summary is."""
        people = [p for attendee in _listed(event.get("ATTENDEE", [])) if (p := self._person_behind(attendee))]
        if not people and (named := self._people.get(str(event.get("SUMMARY", "")).strip().casefold())):
            people = [named]
        return tuple(dict.fromkeys(people))

    def _person_behind(self, attendee: icalendar.vCalAddress) -> str | None:
        if str(attendee.params.get("PARTSTAT", "")).upper() == "DECLINED":
            return None
        address = re.sub(r"(?i)^mailto:", "", str(attendee)).strip().casefold()
        name = str(attendee.params.get("CN", "")).strip().casefold()
        return self._people.get(address) or self._people.get(name)


def _require_safe(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or not _is_loopback(parts.hostname or ""):
        raise ValueError("a calendar feed is fetched over https only")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _require_bounded(calendar: Any) -> None:
    """ValueError for a calendar whose expansion would not be small."""
    events = calendar.walk("VEVENT")
    recurring = [event for event in events if "RRULE" in event]
    if len(events) > MAX_EVENTS or len(recurring) > MAX_RECURRING:
        raise ValueError(f"more than {MAX_EVENTS} events or {MAX_RECURRING} recurring ones")
    dates = [dates for event in events for key in ("RDATE", "EXDATE") for dates in _listed(event.get(key, []))]
    if sum(len(each.dts) for each in dates) > MAX_EVENTS:
        raise ValueError(f"more than {MAX_EVENTS} dates that are named one by one")
    for event in events:
        if _instant(event["DTSTART"].dt, ZoneInfo("UTC")).year < _OLDEST:
            raise ValueError(f"an event begins before {_OLDEST}")
    for event in recurring:
        for rule in _listed(event["RRULE"]):
            if _TOO_OFTEN & {str(f).upper() for f in rule.get("FREQ", [])} or any(key in rule for key in _WITHIN_A_DAY):
                raise ValueError("an event recurs more than once a day")


def _listed(found: Any) -> list[Any]:
    """A property's values: the library has a list of them only where there are several."""
    return found if isinstance(found, list) else [found]


def _occurrences(calendar: Any, window: Window) -> list[Any]:
    """Every event as it happens in the window; ValueError when that takes too long, after the rule that did."""
    until = monotonic() + RULES_S
    found: list[Any] = []
    for series in recurring_ical_events.of(calendar).series:
        found += series.between(window.not_before, window.not_after)
        if monotonic() > until:
            raise ValueError("its rules take too long to work out")
    return [occurrence.as_component(keep_recurrence_attributes=False) for occurrence in found]


def _instant(value: date | datetime, zone: ZoneInfo) -> datetime:
    if not isinstance(value, datetime):
        value = datetime.combine(value, time_of_day(0), zone)
    return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError):
        raise ValueError(f"{name[:60]!r} is not a time zone") from None


def _digest(content: bytes) -> str:
    """SHA-256 (hex) of the lines that carry meaning: some servers stamp every export anew."""
    lines = (line for line in content.splitlines() if not _CHANGES_WITH_EVERY_EXPORT.match(line))
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def _one_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
