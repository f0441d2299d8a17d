import json

from gateway.audit.recording import Frame, unix_ns
from gateway.edges.cli.playback import play, transcript
from tests.unit.adapters.recordings.stage import AT


def shown(kind: str, **fields: object) -> str:
    (line,) = transcript([Frame(0, unix_ns(AT), kind, json.dumps(fields).encode())])
    return line[10:]


def test_a_file_is_one_harmless_line() -> None:
    line = shown(
        "file", op="transfer", direction="upload", bytes=7, outcome="ok", channel=0, via="sftp",
        path="/a\n\x1b[2J\udcff\u202e", ms=12, sha256="ed70",
    )  # fmt: skip
    assert line == r"sftp transfer upload /a\n\x1b[2J\udcff\u202e -> ok, 7 bytes, 12 ms, sha256 ed70"
    assert line.isascii()


def test_a_session_without_a_terminal_is_no_picture_but_lines() -> None:
    """Of one that only moved files a picture would show nothing."""
    begun = {"channel": 0, "type": "subsystem", "command": "sftp"}
    assert not play([Frame(0, unix_ns(AT), "channel", json.dumps(begun).encode())], 1.0)
    assert shown("channel", **begun) == "[0] subsystem sftp"
    assert shown("exit", channel=0, status=0) == "[0]   -> exit status 0"
    assert shown("exit", channel=0, signal="TERM") == "[0]   -> exit signal TERM"
    forced = {"channel": 1, "type": "shell", "command": "", "runs": "top", "term": "xterm", "columns": 80, "rows": 24}
    assert shown("channel", **forced) == "[1] shell  (runs top) on a terminal of 80x24"


def test_the_digest_of_a_stream_is_shown_under_its_algorithms_name() -> None:
    about = {"channel": 0, "stream": "out", "octets": 3, "kept": 3}
    shown_about = "stream: channel=0, stream=out, octets=3, kept=3, "
    assert shown("stream", **about, blake3="af13") == f"{shown_about}blake3=af13"
    assert shown("stream", **about, sha256="98ea") == f"{shown_about}sha256=98ea"  # recorded before BLAKE3


def test_a_refused_file_says_why() -> None:
    assert (
        shown("file-refused", channel=0, op="rename", path="/a", to="/b", why="no.") == "rename /a /b -> REFUSED: no."
    )


def test_the_rest_of_a_long_statement_is_shown() -> None:
    assert shown("statement-more", n=7, part=2, sql="*/ SELECT hidden") == "[7] (part 2) */ SELECT hidden"


def test_a_statement_is_shown_with_its_parameters() -> None:
    assert shown("statement", n=7, sql="SELECT $1", params=["é", None]) == '[7] SELECT $1  with ["é", null]'


def test_transactions_are_shown() -> None:
    ran = shown("result", n=7, tag="UPDATE 1", rows=1, bytes=0, ms=1, sqlstate="", tx=2)
    assert ran == "[7]   -> UPDATE 1, 1 rows, 0 bytes, 1 ms, transaction 2"
    assert shown("transaction", tx=2, outcome="rolled-back", n=8) == "transaction 2: rolled-back"
