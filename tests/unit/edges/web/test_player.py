import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, timedelta
from hashlib import sha256
from pathlib import Path

from gateway.app.replay_session import Replay
from gateway.audit.recording import Frame, unix_ns
from gateway.core.session import EndReason, Session
from gateway.edges.cli.playback import transcript
from gateway.edges.web.player import CSP, MOST_LINES, replay_page
from tests.unit.adapters.recordings.stage import AT, session

STATIC = Path(__file__).parents[4] / "gateway" / "edges" / "web" / "static"


class Unread:
    def read(self, session_id: str, from_seq: int = 0) -> Iterator[Frame]:
        raise AssertionError

    def follow(
        self, session_id: str, from_seq: int = 0, silence: timedelta = timedelta(seconds=15)
    ) -> Iterator[Frame | None]:
        raise AssertionError


def found(**changes: object) -> Replay:
    over: Session = replace(session(), ended_at=AT + timedelta(minutes=5), end_reason=EndReason.KILLED, **changes)  # type: ignore[arg-type]
    return Replay(over, 3, "ab" * 32, (), True, Unread())


def test_the_page_plays_the_cast_and_runs_nothing_inline():
    page = replay_page(found(), "auditor")
    assert 'data-cast="/api/sessions/ses_1/cast"' in page
    assert re.findall(r"<script[^>]*>[^<]", page) == []
    assert " on" not in re.findall(r"<script[^>]*>|<div[^>]*>", page)
    assert "style=" not in page
    assert "'unsafe-inline'" not in CSP
    assert "'unsafe-eval'" not in CSP
    for name in re.findall(r'(?:src|href)="/static/([^"]+)"', page):
        assert (STATIC / name).is_file()


def test_what_somebody_typed_is_only_text():
    evil = "<script>alert(1)</script>\" onload='x'"
    page = replay_page(found(target=evil), evil, [evil])
    assert "<script>alert" not in page
    assert "onload='" not in page


def test_a_gap_is_never_silent():
    assert "were not recorded" not in replay_page(found(), "auditor")
    assert "were not recorded, 2 time(s)" in replay_page(replace(found(), gaps=2), "auditor")


def test_what_the_picture_leaves_out_is_told():
    assert "Not in this picture" not in replay_page(found(), "auditor")
    assert "Not in this picture: 1 more channel(s)." in replay_page(found(), "auditor", left_out="1 more channel(s)")


def test_a_long_transcript_is_cut_and_says_so():
    page = replay_page(found(), "auditor", [f"line {n}" for n in range(MOST_LINES + 7)])
    assert "there is more: gw session replay ses_1" in page


def test_vendored_files_are_as_published():
    written = (STATIC / "VENDORED.md").read_text()
    for name in STATIC.glob("asciinema-player*"):
        assert f"{sha256(name.read_bytes()).hexdigest()} |" in written


def test_a_hostile_file_name_is_one_harmless_line_of_the_page():
    name = os.fsdecode(b"new\nline \r\x1b[2J\xff\xe2\x80\xae<b>")
    told = json.dumps({"op": "transfer", "path": name, "direction": "upload", "bytes": 1, "outcome": "ok"}).encode()
    out = b"\0\0\0\0" + os.fsencode(name)
    lines = list(transcript([Frame(0, unix_ns(AT), "file", told), Frame(1, unix_ns(AT), "out", out)], UTC))
    page = replay_page(found(), "auditor", lines)
    page.encode()  # what was invalid UTF-8 is shown, and can be sent
    assert r"new\nline \r\x1b[2J\udcff\u202e&lt;b&gt;" in page
    assert r"line \r\x1b[2J\xff\u202e&lt;b&gt;" in page
    assert set("\x1b\r\u202e\udcff").isdisjoint(page)
    assert "<b>" not in page
