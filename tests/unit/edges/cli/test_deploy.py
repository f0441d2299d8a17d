import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.edges.cli.main import make_cli

RUN = {"type": "run", "run": "run_1", "verb": "deploy", "targets": ["web-1"]}
DONE = {"type": "step", "target": "web-1", "state": "succeeded", "place": 0, "of": 1, "session": "ses_1", "detail": ""}
END = {"type": "end", "run": "run_1", "state": "succeeded", "exit_status": 0, "detail": ""}


class Answers:
    """An API and a CI provider that answer as they are told, and remember what they were asked."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.status = 200
        self.by_path: dict[str, tuple[int, object]] = {}
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""


@contextmanager
def answering() -> Iterator[Answers]:
    answers = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            answers.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            path = self.path.partition("?")[0]
            status, told = answers.by_path.get(path, (answers.status, None))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode() if told is not None else b"".join(answers.lines))

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    answers.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.fixture
def api() -> Iterator[Answers]:
    with answering() as answers:
        yield answers


def said(*lines: dict[str, Any]) -> list[bytes]:
    return [json.dumps(line).encode() + b"\n" for line in lines]


def gw(api: Answers, home: Path, *words: str, stdin: bytes = b"", **env: str) -> Result:
    unset = ("GW_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GW_DEBUG", "GW_TOKEN")
    base: dict[str, str | None] = {
        **dict.fromkeys(unset), "GW_URL": api.url, "GW_HOME": str(home), "GW_KEYRING": "off", **env,
    }  # fmt: skip
    result = CliRunner().invoke(make_cli(), words, env=base, input=stdin, prog_name="gw")
    assert "Traceback" not in result.output
    return result


def deploy(api: Answers, home: Path, *words: str, **env: str) -> Result:
    return gw(api, home, "deploy", "deploy", "web-1", *words, **{"GW_TOKEN": "gwc_x", **env})


def test_every_line_of_a_target_begins_with_its_name_and_draws_nothing(api: Answers, tmp_path: Path) -> None:
    hostile = "::set-env name=PATH::/tmp\r\n\x1b]0;title\x07two\n##[command]x\nno end"
    api.lines = said(RUN, {"type": "output", "target": "web-1", "stream": "stdout", "text": hostile}, DONE, END)
    done = deploy(api, tmp_path)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("[web-1] ") for line in lines)
    assert "\x1b" not in done.output


def test_pieces_are_put_together_to_lines(api: Answers, tmp_path: Path) -> None:
    pieces = [{"type": "output", "target": "web-1", "stream": "stdout", "text": t} for t in ("a", "b\nc", "d\n")]
    api.lines = said(RUN, *pieces, DONE, END)
    assert deploy(api, tmp_path).stdout.splitlines() == ["[web-1] ab", "[web-1] cd"]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ({"state": "failed", "exit_status": 42}, 42),
        ({"state": "failed", "exit_status": None}, 1),
        ({"state": "failed", "exit_status": 4000}, 255),
        ({"state": "cancelled", "exit_status": None}, 1),
        ({"state": "failed", "exit_status": 0}, 1),
    ],
)
def test_the_exit_status_is_passed_on(api: Answers, tmp_path: Path, end: dict[str, Any], code: int) -> None:
    api.lines = said(RUN, {**END, **end, "detail": "it broke"})
    assert deploy(api, tmp_path).exit_code == code
    told = json.loads(deploy(api, tmp_path, "--json").stdout.splitlines()[-1])
    assert told["state"] == end["state"]


@pytest.mark.parametrize("lines", [said(RUN), [*said(RUN, DONE)[:-1], b'{"type": "st'], [b"<html>\n"], []])
def test_an_answer_that_breaks_off_is_no_success(api: Answers, tmp_path: Path, lines: list[bytes]) -> None:
    api.lines = lines
    done = deploy(api, tmp_path)
    assert done.exit_code == 1
    assert "broke off" in done.stderr


def test_a_no_is_told_with_its_steps(api: Answers, tmp_path: Path) -> None:
    problem = {"code": "frozen", "detail": "It is frozen.", "missing": ["no freeze"], "next_steps": ["Wait."]}
    api.by_path["/api/deploy"] = (403, problem)
    done = deploy(api, tmp_path)
    assert (done.exit_code, "It is frozen." in done.stderr, "next: Wait." in done.stderr) == (3, True, True)
    assert json.loads(deploy(api, tmp_path, "--json").stdout)["code"] == "frozen"


def test_a_job_s_token_is_exchanged_and_shown_nowhere(api: Answers, tmp_path: Path) -> None:
    api.by_path |= {"/ci": (200, {"value": "eyJ.job.token"}), "/oauth/token": (200, {"access_token": "gwd_secret"})}
    api.lines = said(RUN, END)
    job = {"ACTIONS_ID_TOKEN_REQUEST_URL": f"{api.url}/ci?api=2", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "hush"}
    done = gw(api, tmp_path, "deploy", "deploy", "web-1", "--param", "version=1", **job)
    assert done.exit_code == 0
    (ci, ci_headers, _), (_, _, form), (_, headers, body) = api.asked
    assert (ci.startswith("/ci?api=2&audience=http%3A%2F%2F127.0.0.1"), ci_headers["authorization"]) == (
        True,
        "Bearer hush",
    )
    assert b"subject_token=eyJ.job.token" in form
    assert headers["authorization"] == "Bearer gwd_secret"
    assert json.loads(body) == {"verb": "deploy", "targets": ["web-1"], "parameters": {"version": "1"}}
    assert not any(secret in done.output for secret in ("hush", "eyJ", "gwd_"))


def test_gitlab_s_token_is_taken_from_the_environment(api: Answers, tmp_path: Path) -> None:
    api.by_path["/oauth/token"] = (200, {"access_token": "gwd_secret"})
    api.lines = said(RUN, END)
    assert gw(api, tmp_path, "deploy", "deploy", "web-1", GW_ID_TOKEN="eyJ.lab").exit_code == 0
    assert b"subject_token=eyJ.lab" in api.asked[0][2]


@pytest.mark.parametrize(
    ("by_path", "env", "code", "told"),
    [
        (
            {"/oauth/token": (400, {"error": "invalid_grant", "error_description": "Another ref."})},
            {},
            3,
            "Another ref.",
        ),
        ({"/oauth/token": (503, {"error_description": "Down."})}, {}, 1, "Down."),
        ({"/oauth/token": (200, {"token": "x"})}, {}, 1, "200"),
        ({"/oauth/token": (200, [1])}, {}, 1, "200"),
        ({"/ci": (403, {})}, {"GW_ID_TOKEN": ""}, 1, "no identity"),
        ({"/ci": (200, {"value": 7})}, {"GW_ID_TOKEN": ""}, 1, "no identity"),
    ],
)
def test_an_exchange_that_fails_ends_in_a_sentence(
    api: Answers, tmp_path: Path, by_path: dict[str, tuple[int, object]], env: dict[str, str], code: int, told: str
) -> None:
    api.by_path |= by_path
    job = {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{api.url}/ci",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "hush",
        "GW_ID_TOKEN": "eyJ",
    }
    done = gw(api, tmp_path, "deploy", "deploy", "web-1", **{**job, **env})
    assert (done.exit_code, told in done.stderr) == (code, True), done.stderr
    assert "hush" not in done.output


def test_what_to_do_next_is_said_once(api: Answers, tmp_path: Path) -> None:
    told = {"error": "invalid_request", "error_description": "It was used. Ask again.", "next_steps": ["Ask again."]}
    api.by_path["/oauth/token"] = (400, told)
    done = gw(api, tmp_path, "deploy", "deploy", "web-1", GW_ID_TOKEN="eyJ.lab")
    assert (done.exit_code, done.stderr.count("Ask again."), "It was used." in done.stderr) == (3, 1, True)


def test_an_identity_is_asked_for_over_https_only(api: Answers, tmp_path: Path) -> None:
    job = {"ACTIONS_ID_TOKEN_REQUEST_URL": "http://ci.example/x", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "hush"}
    done = gw(api, tmp_path, "deploy", "deploy", "web-1", **job)
    assert (done.exit_code, "not https" in done.stderr) == (2, True)
    assert api.asked == []


@pytest.mark.parametrize("words", [("--param", "version"), ("--param", "=1"), ("--param", "a=1", "--param", "a=2")])
def test_parameters_are_name_and_value_once(api: Answers, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert deploy(api, tmp_path, *words).exit_code == 2
    assert api.asked == []


def test_input_is_bounded_and_sent_in_base64(api: Answers, tmp_path: Path) -> None:
    api.lines = said(RUN, END)
    script = tmp_path / "m.sql"
    script.write_bytes(b"SELECT '\xff'")
    assert deploy(api, tmp_path, "--file", str(script)).exit_code == 0
    assert json.loads(api.asked[0][2])["input"] == "U0VMRUNUICf/Jw=="
    script.write_bytes(b"x" * (1024 * 1024 + 1))
    assert deploy(api, tmp_path, "--file", str(script)).exit_code == 2
    assert deploy(api, tmp_path, "--file", str(tmp_path / "none")).exit_code == 2


def test_nobody_is_told_how_to_be_somebody(api: Answers, tmp_path: Path) -> None:
    done = gw(api, tmp_path, "deploy", "status")
    assert (done.exit_code, "gw login" in done.stderr) == (3, True)
