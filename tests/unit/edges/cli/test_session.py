import json
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer

from gateway.audit.recording import Chain, Frame, encode, unix_ns
from gateway.audit.recording_json import Announced, frame_to_json, to_json_lines
from gateway.edges.cli import output, playback, session
from gateway.edges.cli.playback import TerminalFilter, harmless
from tests.unit.adapters.recordings.stage import AT
from tests.unit.audit.logs import PINNED, Log, events
from tests.unit.audit.test_sealed_digests import told

SHELL = [
    ("session", b'{"holder_name": "oncall", "target": "web-1", "level": "shell", "protocol": "ssh"}'),
    ("channel", b'{"channel": 0, "type": "shell", "command": "", "term": "xterm", "columns": 80, "rows": 24}'),
    ("out", b"\0\0\0\0$ ls\r\n\x1b[31mred\x1b[0m\x1b]52;c;ZXZpbA==\x07"),
]
SQL = [
    ("session", b'{"holder_name": "oncall", "target": "orders-db", "level": "read", "protocol": "postgres"}'),
    ("statement", b'{"n": 1, "sql": "select \'\\u001b[2J\'"}'),
    ("result", b'{"n": 1, "tag": "SELECT 1", "rows": 1, "bytes": 12, "ms": 0.5, "sqlstate": ""}'),
    ("statement", b'{"n": 2, "sql": "drop table t"}'),
    ("result", b'{"n": 2, "tag": "", "rows": 0, "bytes": 0, "ms": 0.5, "sqlstate": "42501"}'),
]


def recording(records: list[tuple[str, bytes]], protocol: str) -> tuple[Announced, list[Frame]]:
    chain, frames = Chain("ses_1"), []
    for seq, (kind, payload) in enumerate(records):
        link = chain.extend(encode(seq, unix_ns(AT), kind, payload))
        frames.append(Frame(seq, unix_ns(AT), kind, payload, False, link))
    return Announced("ses_1", protocol, chain.count, chain.digest.hex(), (), True), frames


@pytest.fixture
def server(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HTTPServer]:
    monkeypatch.setenv("GW_URL", httpserver.url_for("").rstrip("/"))
    monkeypatch.setenv("GW_TOKEN", "gwc_test")
    monkeypatch.setenv("GW_HOME", str(tmp_path / "home"))
    yield httpserver
    httpserver.check()


def serve(server: HTTPServer, announced: Announced, frames: list[Frame]) -> None:
    body = b"".join(to_json_lines(announced, frames))
    server.expect_request("/api/sessions/ses_1/recording").respond_with_data(body)


def run(*args: str) -> Result:
    group: click.Command = session.sessions if args[0] == "sessions" else session.session
    return CliRunner().invoke(group, args[1:] if args[0] == "sessions" else args)


def test_a_database_session_is_a_transcript(server: HTTPServer):
    serve(server, *recording(SQL, "postgres"))
    result = run("replay", "ses_1")
    assert result.exit_code == 0
    assert "[1] select '\\x1b[2J'" in result.stdout
    assert "[1]   -> SELECT 1, 1 rows, 12 bytes, 0.5 ms" in result.stdout
    assert "[2]   -> ERROR 42501" in result.stdout
    assert "\x1b" not in result.stdout
    assert "5 records, verified" in result.stderr


def test_octets_are_octets_whatever_they_look_like(server: HTTPServer):
    """The channel's number in front makes text of 32 bits a character out of them: a space, for channel 32."""
    looks_like_fields = b"\0\0\0\x20" + '{"a": "b"}'.encode("utf-32-be")
    deep = b"\0\0\0\x20" + ("[" * 100_000).encode("utf-32-be")
    piped = ("in", b"\0\0\0\0rm -rf /srv\n")
    serve(server, *recording([*SHELL[:1], ("out", looks_like_fields), ("out", deep), piped], "ssh"))
    shown = run("replay", "ses_1", "--statements")
    assert shown.exit_code == 0, shown
    assert " out | \\x00\\x00\\x00{" in shown.stdout
    assert "  in | rm -rf /srv" in shown.stdout
    told = json.loads(run("replay", "ses_1", "--json").stdout)["records"]
    assert [type(record["payload"]) for record in told] == [dict, str, str, str]


@pytest.mark.parametrize(
    "answer",
    [
        b'{"session": "ses_1", "protocol": "ssh", "records": 1, "digest": "", "evidence": [1], "complete": true}',
        b'{"session": "ses_1", "protocol": "ssh", "records": 1, "digest": "", "evidence": [["x", ""]], "complete": true}',
        b"[" * 1_000_000,
        b'{"session": "' + b"x" * 3_000_000 + b'"}',
    ],
)
def test_an_answer_that_is_no_recording_is_told_as_such(server: HTTPServer, answer: bytes):
    server.expect_request("/api/sessions/ses_1/recording").respond_with_data(answer)
    result = run("replay", "ses_1")
    assert isinstance(result.exception, SystemExit), result.exception
    assert "is no recording" in result.stderr
    assert len(result.stderr) < 200


def test_what_was_not_recorded_is_told(server: HTTPServer):
    gap = {"why": "disk full", "after": 5, "records": 7, "bytes": 70, "since": "12:00", "until": "12:01"}
    serve(server, *recording([*SQL, ("gap", json.dumps(gap).encode())], "postgres"))
    result = run("replay", "ses_1")
    assert "NOT RECORDED: 7 records, 70 bytes, from 12:00 to 12:01: disk full" in result.stdout
    assert "parts were NOT RECORDED, 1 time(s)" in result.stderr


def test_a_shell_away_from_a_terminal_is_harmless(server: HTTPServer):
    serve(server, *recording(SHELL, "ssh"))
    result = run("replay", "ses_1")
    assert result.stdout.startswith("$ ls\n\\x1b[31mred")
    assert "\x1b" not in result.stdout


def test_a_shell_is_exported(server: HTTPServer, tmp_path: Path):
    serve(server, *recording(SHELL, "ssh"))
    path = tmp_path / "x.cast"
    assert run("replay", "ses_1", "--export", str(path)).exit_code == 0
    header, event = (json.loads(line) for line in path.read_text().splitlines())
    assert (header["version"], header["width"], event[1]) == (2, 80, "o")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    serve(server, *recording(SHELL, "ssh"))
    assert "red" in run("replay", "ses_1", "--statements").stdout


@pytest.mark.parametrize("export", [False, True])
def test_what_the_picture_leaves_out_is_told(server: HTTPServer, tmp_path: Path, export: bool):
    args = ["replay", "ses_1", *(["--export", str(tmp_path / "x.cast")] if export else [])]
    serve(server, *recording(SHELL, "ssh"))
    assert "NOT IN THIS PICTURE" not in run(*args).stderr
    beside = ("channel", b'{"channel": 1, "type": "exec", "command": "rm -rf /srv"}')
    forward = ("forward", b'{"forward": 1, "type": "direct-tcpip", "destination": "db:5432", "originator": ""}')
    server.clear()
    serve(server, *recording([*SHELL, beside, forward], "ssh"))
    assert "NOT IN THIS PICTURE: 1 more channel(s) and 1 forward(s)" in run(*args).stderr
    assert "rm -rf /srv" in run("replay", "ses_1", "--statements").stdout


def test_scripts_get_one_value(server: HTTPServer):
    announced, frames = recording(SQL, "postgres")
    serve(server, announced, frames)
    told = json.loads(run("replay", "ses_1", "--json", "--expect", f"5:{announced.digest}").stdout)
    assert (told["verified"], told["digest"], told["records"][3]["payload"]["n"]) == (True, announced.digest, 2)


@pytest.mark.parametrize("wrong", ["changed", "dropped", "other", "expect", "rubbish"])
def test_nothing_is_played_of_what_does_not_verify(server: HTTPServer, wrong: str):
    announced, frames = recording(SQL, "postgres")
    args = ["replay", "ses_1"]
    if wrong == "changed":
        frames[3] = frames[3]._replace(payload=b'{"n": 2, "sql": "select 1"}')
    elif wrong == "dropped":
        del frames[4]
    elif wrong == "other":
        announced = announced._replace(session="ses_2")
    elif wrong == "expect":
        args += ["--expect", "5:00"]
    serve(server, announced, frames)
    if wrong == "rubbish":
        server.clear()
        server.expect_request("/api/sessions/ses_1/recording").respond_with_data(b"<html>")
    result = run(*args)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert {"changed": "Record 3", "dropped": "Record 4"}.get(wrong, "recording") in result.stderr


def test_nothing_is_played_of_what_cannot_be_read_to_its_end(server: HTTPServer):
    serve(server, *recording([*SQL, ("batch", b"\x09\0")], "postgres"))
    result = run("replay", "ses_1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "a record of a batch is cut short" in result.stderr


def exported(tmp_path: Path, *ends: Announced) -> Path:
    ended = [told("session:ended", each.records, each.digest) for each in ends]
    for path, content in Log([*events(3), *ended]).files.items():
        place = tmp_path / "log" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return tmp_path / "log"


def test_a_recording_is_held_against_ones_own_copy_of_the_log(server: HTTPServer, tmp_path: Path):
    announced, frames = recording(SQL, "postgres")
    log = str(exported(tmp_path, announced))
    serve(server, announced, frames)
    args = ["replay", "ses_1", "--log", log, "--key", PINNED.text()]
    result = run(*args)
    assert result.exit_code == 0, result.output
    assert "of your copy of the log" in result.stderr
    assert json.loads(run(*args, "--json").stdout)["verified_by"] == "log"
    assert "as the gateway tells it" in run(*args[:2]).stderr
    server.clear()
    serve(server, *recording(SQL[:3], "postgres"))  # by a gateway that has doctored it, and says what fits
    assert run(*args[:2]).exit_code == 0, "without the log nothing tells"
    result = run(*args)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"the log one of 5:{announced.digest}" in result.stderr


@pytest.mark.parametrize(("wrong", "said"), [("two", "2 ends"), ("none", "0 ends"), ("cut", "does not verify")])
def test_a_copy_of_the_log_that_does_not_tell(server: HTTPServer, tmp_path: Path, wrong: str, said: str):
    announced, _ = recording(SQL, "postgres")  # which is not even asked for
    log = exported(tmp_path, *{"two": (announced, announced), "none": (), "cut": (announced,)}[wrong])
    if wrong == "cut":
        (bundle,) = (log / "tile" / "entries").rglob("*.p/*")
        bundle.write_bytes(bundle.read_bytes()[:-900])
    result = run("replay", "ses_1", "--log", str(log), "--key", PINNED.text())
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert run("replay", "ses_1", "--log", str(log)).exit_code == 2, "a key is needed"


def test_watching_ends_with_the_session(server: HTTPServer):
    _, frames = recording(SQL, "postgres")
    events = b"".join(f": still here\n\ndata: {json.dumps(frame_to_json(f))}\n\n".encode() for f in frames)
    path = "/api/sessions/ses_1/watch"
    server.expect_oneshot_request(path).respond_with_data(events + b"event: end\ndata: {}\n\n")
    result = run("watch", "ses_1")
    assert result.exit_code == 0
    assert "[2] drop table t" in result.stdout
    server.expect_oneshot_request(path).respond_with_data(events)
    result = run("watch", "ses_1", "--json")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 6, "five records and the failure"


def test_watching_ends_with_the_right_to_watch(server: HTTPServer):
    told = json.dumps({"code": "no-policy", "detail": "No policy permits \x1bthat."})
    _, frames = recording(SQL, "postgres")
    events = f"data: {json.dumps(frame_to_json(frames[0]))}\n\nevent: denied\ndata: {told}\n\n"
    server.expect_oneshot_request("/api/sessions/ses_1/watch").respond_with_data(events)
    result = run("watch", "ses_1")
    assert result.exit_code == 3
    assert "No policy permits" in result.stderr
    assert "\x1b" not in result.stderr


def test_lists_and_kills(server: HTTPServer):
    one = {
        "id": "ses_1", "target": "web-1", "level": "shell", "holder": "on\x1bcall", "protocol": "ssh", "client": "x",
        "grant": "grt_1", "started_at": AT.isoformat(), "ended_at": None, "end_reason": "", "recording_digest": "",
        "active_at": AT.isoformat(), "locked_by": "",
    }  # fmt: skip
    server.expect_request("/api/sessions", query_string="all=false").respond_with_json([one])
    server.expect_request("/api/sessions/ses_1").respond_with_json(one)
    server.expect_request("/api/sessions/ses_1/kill", method="POST", json={"reason": "r"}).respond_with_json(one)
    listed = run("sessions")
    assert "on\\x1bcall" in listed.stdout
    assert "live" in listed.stdout
    assert json.loads(run("sessions", "--json").stdout) == [one]
    assert "still growing" in run("show", "ses_1").stdout
    assert "being ended" in run("kill", "ses_1", "--reason", "r").stdout
    with pytest.raises(output.Failure):
        CliRunner().invoke(session.session, ["show", ".."], standalone_mode=False, catch_exceptions=False)


def test_locks_and_unlocks(server: HTTPServer):
    for verb in ("lock", "unlock"):
        path = f"/api/sessions/ses_1/{verb}"
        server.expect_request(path, method="POST", json={"reason": "r"}).respond_with_json({"id": "ses_1"})
        assert f"is {verb}ed" in run(verb, "ses_1", "--reason", "r").stdout
        assert json.loads(run(verb, "ses_1", "--reason", "r", "--json").stdout) == {"id": "ses_1"}


# ---------------------------------------------------------------- the terminal is the viewer's


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("plain \x1b[1;31mred\x1b[0m\r\n", "plain \x1b[1;31mred\x1b[0m\r\n"),
        ("\x1b[2J\x1b[H\x1b[?1049h\x1b(B\x1b7", "\x1b[2J\x1b[H\x1b[?1049h\x1b(B\x1b7"),
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b]52;c;ZXZpbA==\x1b\\b", "ab"),
        ("a\x1bP$qm\x1b\\b", "ab"),
        ("a\x1b[6n\x1b[c\x1b[>c\x1b[21tb", "ab"),
        ("a\x1b[>4;2m\x1b[=1;1m\x1b[<1mb", "ab"),
        ("a\x9b6n\x9d0;x\x07\x00\x05b", "a6n0;xb"),
        ("a\x1bcb\x1b#8\x1b[u\x1b[?u", "a\x1bcb8\x1b[u"),
        ("a\x1b[1\r2mb", "a2mb"),
        ("\x1b[" + "1" * 300 + "m", "1" * 45 + "m"),
    ],
)
def test_drawing_passes_and_commands_do_not(written: str, shown: str):
    assert TerminalFilter().clean(written) == shown
    cut = TerminalFilter()
    assert "".join(cut.clean(c) for c in written) == shown


@given(st.text())
def test_harmless_text_has_no_control_characters(text: str):
    assert all(c.isprintable() or c == "\n" for c in harmless(text))


def test_a_terminal_is_played_in_its_own_time_and_restored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    _, frames = recording([*SHELL, ("out", b"\0\0\0\0later")], "ssh")
    frames[3] = frames[3]._replace(at_ns=frames[2].at_ns + 500_000_000)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    slept: list[float] = []
    assert playback.play(frames, 2.0, slept.append)
    shown = capsys.readouterr().out
    assert slept == [0.0, 0.25]
    assert "\x1b[31mred" in shown
    assert "]52" not in shown
    assert shown.endswith(playback.RESTORE)
    assert not playback.play([], 1.0)
