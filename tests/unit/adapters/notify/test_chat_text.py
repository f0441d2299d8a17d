"""What somebody writes as a reason is shown in a chat as they wrote it, and does nothing there."""

import re
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from gateway.adapters.notify.chat_text import LONGEST_BODY, LONGEST_TITLE, chat_line, chat_lines
from gateway.adapters.notify.webhook import WebhookNotifier

LIVE = re.compile(r"[<>]|\]\(|\]\[|\]:|(?<![A-Za-z0-9])@|@(all|channel|everyone|here)", re.IGNORECASE)
ENTITY = re.compile(r"&(?!amp;|lt;|gt;)")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("<!channel> help", "&lt;!channel&gt; help"),
        ("<!subteam^S1|ops> <@U1> <#C1>", "&lt;!subteam^S1|ops&gt; &lt;\uff20U1&gt; &lt;#C1&gt;"),
        ("<https://evil.test|the runbook>", "&lt;https://evil.test|the runbook&gt;"),
        ("&lt;!channel&gt;", "&amp;lt;!channel&amp;gt;"),
        ("@everyone @here @ada", "\uff20everyone \uff20here \uff20ada"),
        ("x@all, a.@channel, mail@HERE", "x\uff20all, a.\uff20channel, mail\uff20HERE"),
        ("ada@example.org asks", "ada@example.org asks"),
        ("[the runbook](https://evil.test) ![](https://evil.test/x)", "[the runbook] (https://evil.test) ![] (https://evil.test/x)"),
        ("[the runbook][1]", "[the runbook] [1]"),
        ("[1]: https://evil.test", "[1] : https://evil.test"),
        ("see https://evil.test/a?b=1", "see https://evil.test/a?b=1"),
        ("a \u202egnihtyna\u202c z", "a \\u202egnihtyna\\u202c z"),
        ("\x1b[31m\x07 \u200b \u2028", "\\x1b[31m\\x07 \\u200b \\u2028"),
        ("<at>ada</at>", "&lt;at&gt;ada&lt;/at&gt;"),
        ("größer 東京 😀", "größer 東京 😀"),
    ],
)  # fmt: skip
def test_it_is_shown_as_it_was_written(written: str, shown: str) -> None:
    assert chat_line(written) == shown
    assert chat_lines(written) == shown


def test_one_line_stays_one_and_lines_of_the_gateways_own_stay_lines() -> None:
    assert chat_line("asked\nGranted: by lead") == "asked\\nGranted: by lead"
    assert chat_lines("one\ntwo\r") == "one\ntwo\\r"


def test_what_is_longer_is_cut_before_it_is_escaped() -> None:
    assert chat_line("&" * (LONGEST_TITLE + 1)) == "&amp;" * (LONGEST_TITLE - 1) + "…"
    assert chat_lines("<" * (LONGEST_BODY + 1)) == "&lt;" * (LONGEST_BODY - 1) + "…"


@given(st.text(alphabet=st.one_of(st.sampled_from("<>&@[]():!|`*_alhere \n\u202e"), st.characters())))
def test_nothing_that_is_written_does_anything(written: str) -> None:
    for shown in (chat_line(written), *chat_lines(written).split("\n")):
        assert shown.isprintable()
        assert LIVE.search(shown) is None
        assert ENTITY.search(shown) is None


def test_so_it_comes_to_the_receiver(httpserver: HTTPServer, tmp_path: Path) -> None:
    told: Queue[Any] = Queue()

    def take(request: Request) -> Response:
        told.put((request.get_json(), len(request.get_data())))
        return Response("ok")

    httpserver.expect_request("/hook").respond_with_handler(take)
    (tmp_path / "url").write_text(httpserver.url_for("/hook"))
    notifier = WebhookNotifier({"default": tmp_path / "url"}, 5.0, lambda _channel, _why: None)
    try:
        notifier.notify("default", "<!here> has read", "because <https://x|y>", {"incident": "<INC-7>"})
        assert told.get(timeout=15)[0] == {
            "text": "&lt;!here&gt; has read\nbecause &lt;https://x|y&gt;",
            "title": "&lt;!here&gt; has read",
            "body": "because <https://x|y>",
            "fields": {"incident": "<INC-7>"},
        }
        for worst in ("😀", "&", "\U000e0001", "\ud800", '"'):
            notifier.notify("default", worst * 10_000, worst * 10_000, dict.fromkeys("abcd", worst * 10_000))
            assert told.get(timeout=15)[1] < 28_000  # what Teams takes
    finally:
        notifier.close()
