import contextlib
import gzip
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Timer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from gateway.adapters.oncall import ical
from gateway.adapters.oncall.ical import IcalFeed
from gateway.core.errors import Unavailable
from gateway.core.rota import Shift
from gateway.core.window import Window

AT = datetime(2026, 3, 23, 12, tzinfo=UTC)
WINDOW = Window(AT - timedelta(days=1), AT + timedelta(days=14))
PEOPLE = {"anna@corp.test": "anna", "Ben B.": "ben", "carl (primary)": "carl"}
HEAD = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\n"


def event(*lines: str, uid: str = "1") -> str:
    return "\r\n".join(("BEGIN:VEVENT", f"UID:{uid}", "DTSTAMP:20260101T000000Z", *lines, "END:VEVENT", ""))


def calendar(*parts: str) -> str:
    return HEAD + "".join(parts) + "END:VCALENDAR\r\n"


def fetch(tmp_path: Path, text: str, **more: str) -> list[Shift]:
    path = tmp_path / "rota.ics"
    path.write_bytes(text.encode())
    return list(IcalFeed("orders", str(path), PEOPLE, **more).fetch(WINDOW, AT))  # type: ignore[arg-type]


def spans(shifts: list[Shift]) -> list[tuple[str, str, str]]:
    return sorted(
        (s.subject, f"{s.window.not_before:%m-%dT%H:%M}", f"{s.window.not_after:%m-%dT%H:%M}") for s in shifts
    )


WEEKLY = event(
    "DTSTART;TZID=Europe/Berlin:20260302T090000",
    "DTEND;TZID=Europe/Berlin:20260309T090000",
    "RRULE:FREQ=WEEKLY;INTERVAL=2",
    "ATTENDEE;CN=Anna A.:mailto:Anna@corp.test",
)


def test_a_recurring_shift_keeps_its_local_time_across_summer_time(tmp_path: Path):
    shifts = fetch(tmp_path, calendar(WEEKLY))
    # 16 March to 23 March 09:00 in winter is over by 08:00 UTC; 30 March is summer, 07:00 UTC.
    assert spans(shifts) == [("anna", "03-16T08:00", "03-23T08:00"), ("anna", "03-30T07:00", "04-06T07:00")]
    assert {(s.service, s.level, s.fetched_at) for s in shifts} == {("orders", 1, AT)}


def test_exceptions_and_moved_occurrences(tmp_path: Path):
    daily = event(
        "DTSTART;TZID=Europe/Berlin:20260323T090000",
        "DTEND;TZID=Europe/Berlin:20260323T170000",
        "RRULE:FREQ=DAILY;COUNT=4",
        "EXDATE;TZID=Europe/Berlin:20260324T090000",
        "SUMMARY:Carl (Primary)",
    )
    moved = event(
        "RECURRENCE-ID;TZID=Europe/Berlin:20260325T090000",
        "DTSTART;TZID=Europe/Berlin:20260325T120000",
        "DTEND;TZID=Europe/Berlin:20260325T130000",
        "ATTENDEE;CN=Ben B.:mailto:ben@else.test",
    )
    assert spans(fetch(tmp_path, calendar(daily, moved))) == [
        ("ben", "03-25T11:00", "03-25T12:00"),
        ("carl", "03-23T08:00", "03-23T16:00"),
        ("carl", "03-26T08:00", "03-26T16:00"),
    ]


def test_all_day_events_and_times_without_zone_take_the_calendars_zone(tmp_path: Path):
    text = calendar(
        event("DTSTART;VALUE=DATE:20260328", "DTEND;VALUE=DATE:20260330", "ATTENDEE:mailto:anna@corp.test"),
        event("DTSTART:20260324T090000", "DTEND:20260324T100000", "ATTENDEE:mailto:anna@corp.test", uid="2"),
    )
    assert spans(fetch(tmp_path, text, time_zone="Europe/Berlin")) == [
        ("anna", "03-24T08:00", "03-24T09:00"),
        ("anna", "03-27T23:00", "03-29T22:00"),
    ]
    own = text.replace(HEAD, HEAD + "X-WR-TIMEZONE:America/New_York\r\n")
    assert ("anna", "03-24T13:00", "03-24T14:00") in spans(fetch(tmp_path, own))


def test_only_those_in_the_map_count(tmp_path: Path):
    when = ("DTSTART:20260323T090000Z", "DTEND:20260323T170000Z")
    text = calendar(
        event(*when, "ATTENDEE:mailto:mallory@corp.test", "SUMMARY:mallory", uid="1"),
        event(*when, "ATTENDEE;PARTSTAT=DECLINED:mailto:anna@corp.test", uid="2"),
        event(*when, "ATTENDEE:mailto:anna@corp.test", "STATUS:CANCELLED", uid="3"),
        event(*when, "ATTENDEE:mailto:xanna@corp.test", uid="4"),
    )
    assert fetch(tmp_path, text) == []


def test_a_new_export_of_the_same_rota_has_the_same_hash(tmp_path: Path):
    first = fetch(tmp_path, calendar(WEEKLY))
    again = fetch(tmp_path, calendar(WEEKLY).replace("DTSTAMP:20260101", "DTSTAMP:20260323"))
    other = fetch(tmp_path, calendar(WEEKLY).replace("INTERVAL=2", "INTERVAL=1"))
    assert first[0].source_hash == again[0].source_hash != other[0].source_hash


@pytest.mark.parametrize(
    "text",
    [
        "", "no calendar", HEAD, calendar("BEGIN:VEVENT\r\n"),
        calendar(event("DTSTART:nonsense", "SUMMARY:carl (primary)")),
        calendar(event("SUMMARY:carl (primary)")),
        calendar(event("DTSTART:20260323T090000Z", "DTEND:20260323T100000Z", "RRULE:FREQ=SECONDLY")),
        calendar(event("DTSTART:20260323T090000Z", "DTEND:20260323T100000Z", "RRULE:FREQ=DAILY;BYMINUTE=1,2,3")),
        calendar(event("DTSTART:00010101T000000Z", "DTEND:00010101T010000Z", "RRULE:FREQ=DAILY")),
        calendar(event("DTSTART:20260323T090000Z", "DTEND:20260323T100000Z", "RRULE:FREQ=DAILY") * 201),
        calendar(event("DTSTART:20260323T090000Z") * 5001),
        calendar(event("DTSTART:20260323T090000Z", f"RDATE:{','.join(['20260324T090000Z'] * 5001)}")),
        calendar(event("DTSTART:20260323T090000Z", *[f"EXDATE:{','.join(['20260324T090000Z'] * 3000)}"] * 2)),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_unavailable(tmp_path: Path, text: str):
    with pytest.raises(Unavailable, match="is not a calendar that can be used"):
        fetch(tmp_path, text)


def test_a_missing_or_large_file_is_unavailable(tmp_path: Path):
    with pytest.raises(Unavailable, match="No such file"):
        IcalFeed("orders", str(tmp_path / "none.ics"), PEOPLE).fetch(WINDOW, AT)
    (tmp_path / "big.ics").write_bytes(b"x" * (ical.MAX_BYTES + 1))
    with pytest.raises(Unavailable, match="larger than"):
        IcalFeed("orders", str(tmp_path / "big.ics"), PEOPLE).fetch(WINDOW, AT)


def test_a_feed_over_http(httpserver: HTTPServer):
    httpserver.expect_request("/secret-token.ics").respond_with_data(calendar(WEEKLY), content_type="text/calendar")
    feed = IcalFeed("orders", httpserver.url_for("/secret-token.ics"), PEOPLE)
    assert len(feed.fetch(WINDOW, AT)) == 2
    assert "secret-token" not in feed.name


def test_a_feed_that_fails_is_unavailable_and_its_address_stays_secret(httpserver: HTTPServer):
    def endless(_request: Request) -> Response:
        return Response((b"x" * 65536 for _ in range(200)), content_type="text/calendar")

    httpserver.expect_request("/secret-token/404").respond_with_data("", status=404)
    httpserver.expect_request("/secret-token/302").respond_with_data("", status=302, headers={"location": "/x"})
    httpserver.expect_request("/secret-token/big").respond_with_handler(endless)
    for path, said in (("404", "status 404"), ("302", "status 302"), ("big", "too large")):
        with pytest.raises(Unavailable, match=said) as error:
            IcalFeed("orders", httpserver.url_for(f"/secret-token/{path}"), PEOPLE).fetch(WINDOW, AT)
        assert "secret-token" not in str(error.value)
    with pytest.raises(Unavailable, match="did not answer") as refused:
        IcalFeed("orders", "http://127.0.0.1:1/secret-token", PEOPLE).fetch(WINDOW, AT)
    assert "secret-token" not in str(refused.value)


def test_a_compressed_answer_is_refused(httpserver: HTTPServer):
    """A few hundred bytes, compressed twice, are as much memory as their sender likes."""
    twice = gzip.compress(gzip.compress(calendar(WEEKLY).encode()))
    httpserver.expect_request("/x").respond_with_data(twice, headers={"content-encoding": "gzip, gzip"})
    with pytest.raises(Unavailable, match="compressed"):
        IcalFeed("orders", httpserver.url_for("/x"), PEOPLE).fetch(WINDOW, AT)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\ncontent-type: text/calendar\r\n\r\n"])
def test_a_feed_that_drips_is_cut_off(head: bytes, monkeypatch: pytest.MonkeyPatch):
    """A byte now and then meets no timeout of a read, in the head or in the body; other sources wait meanwhile."""
    monkeypatch.setattr(ical, "TOTAL_S", 0.5)
    over = Event()

    def drip(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(head)
            with contextlib.suppress(OSError):
                while not over.wait(0.1):
                    peer.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        dripping = pool.submit(drip, listener)
        gives_up = Timer(20.0, over.set)  # a feed that is not cut off fails the test, and does not hang it
        gives_up.start()
        try:
            with pytest.raises(Unavailable, match="takes too long"):
                IcalFeed("orders", f"http://127.0.0.1:{listener.getsockname()[1]}/x", PEOPLE).fetch(WINDOW, AT)
            assert not over.is_set()
        finally:
            gives_up.cancel()
            over.set()
        dripping.result(10)


@pytest.mark.parametrize(
    "url", ["http://calendar.example/x.ics", "ftp://127.0.0.1/x", "https://", "file:///etc/passwd", "http://127.0.0.1.evil.example/x"]
)  # fmt: skip
def test_only_https_or_loopback(url: str):
    with pytest.raises(ValueError, match="https only"):
        IcalFeed("orders", url, PEOPLE)


GOOD = calendar(WEEKLY, event("DTSTART;VALUE=DATE:20260328", "DURATION:P2D", "SUMMARY:carl (primary)", uid="9"))


def test_rules_that_never_hold_hold_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each is looked for over eight thousand years. The clock stands in for the seconds that it takes."""
    now = [0.0]
    worked_out = []

    class Series:
        def between(self, *_: object) -> list[object]:
            now[0] += 2
            worked_out.append(self)
            return []

    class Query:
        series = (Series(),) * 200

    monkeypatch.setattr(ical, "monotonic", lambda: now[0])
    monkeypatch.setattr(ical.recurring_ical_events, "of", lambda _: Query())
    with pytest.raises(Unavailable, match="take too long"):
        fetch(tmp_path, GOOD)
    assert len(worked_out) == 3


@settings(max_examples=200)
@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.text(max_size=6))
def test_mangled_calendars_never_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int, junk: str
):
    path = tmp_path_factory.getbasetemp() / "fuzz.ics"
    path.write_bytes((GOOD[:start] + junk + GOOD[start + length :]).encode("utf-8", "surrogatepass"))
    with contextlib.suppress(Unavailable):
        IcalFeed("orders", str(path), PEOPLE).fetch(WINDOW, AT)


def test_a_time_zone_that_is_a_directory_is_a_calendar_that_cannot_be_used(tmp_path: Path):
    path = tmp_path / "rota.ics"
    path.write_text(GOOD.replace("Europe/Berlin", "Europe"))
    assert "TZID=Europe:" in path.read_text()
    with pytest.raises(Unavailable):
        IcalFeed("orders", str(path), PEOPLE).fetch(WINDOW, AT)
