"""Whoever breaks the glass is heard of, whatever a receiver of other notifications does."""

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Event

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from gateway.adapters.notify.webhook import WebhookNotifier
from gateway.core.errors import Refusal, Unavailable

WITHIN = 15.0
TAKEN = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n"


@pytest.fixture
def heard(httpserver: HTTPServer, tmp_path: Path) -> Queue[str]:
    told: Queue[str] = Queue()

    def take(request: Request) -> Response:
        told.put(str(request.get_json()["title"]))
        return Response("ok")

    httpserver.expect_request("/hook").respond_with_handler(take)
    (tmp_path / "good").write_text(httpserver.url_for("/hook") + "\n")
    return told


@pytest.mark.parametrize("head", ["", TAKEN])
def test_a_receiver_that_stalls_is_cut_off_and_holds_up_no_other(heard: Queue[str], tmp_path: Path, head: str) -> None:
    failures: Queue[tuple[str, str]] = Queue()
    over = Event()

    def drip(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            peer.sendall(head.encode())
            while not over.wait(0.05):
                peer.sendall(b"H")

    def serve(listener: socket.socket, pool: ThreadPoolExecutor) -> None:
        with contextlib.suppress(OSError):
            while not over.is_set():
                pool.submit(drip, listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(20) as pool:
        pool.submit(serve, listener, pool)
        (tmp_path / "bad").write_text(f"http://127.0.0.1:{listener.getsockname()[1]}/secret")
        files = {"chat": tmp_path / "bad", "break-glass": tmp_path / "good"}
        notifier = WebhookNotifier(files, 0.3, lambda channel, why: failures.put((channel, why)))
        try:
            for _ in range(3):
                notifier.notify("chat", "asks", "", {})
            notifier.notify("break-glass", "broken", "", {})
            assert heard.get(timeout=WITHIN) == "broken"
            if not head:  # a status says that it was taken, whatever comes behind it
                channel, why = failures.get(timeout=WITHIN)
                assert (channel, "secret" in why) == ("chat", False)
            else:
                notifier.close(WITHIN)
                assert failures.empty()
        finally:
            over.set()
            notifier.close(WITHIN)
            listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "url", [b"http://127.0.0.1:99999/x", b"nonsense", b"http://[", b"\xff\xfe", b"http://a b\x00/"]
)
def test_what_fails_ends_no_later_one(heard: Queue[str], tmp_path: Path, url: bytes) -> None:
    """Nor does a store that is away just when a failure is to be told."""
    told = Event()

    def away(channel: str, why: str) -> None:
        told.set()
        raise Unavailable(Refusal("store-away", "The database is away."))

    path = tmp_path / "hook"
    path.write_bytes(url)
    notifier = WebhookNotifier({"break-glass": path}, 1.0, away)
    try:
        notifier.notify("break-glass", "first", "", {})
        assert told.wait(WITHIN)
        path.write_bytes((tmp_path / "good").read_bytes())
        notifier.notify("break-glass", "second", "", {})
        assert heard.get(timeout=WITHIN) == "second"
    finally:
        notifier.close(WITHIN)


def test_where_there_is_no_receiver_that_is_said_and_default_takes_the_rest(heard: Queue[str], tmp_path: Path) -> None:
    failures: Queue[tuple[str, str]] = Queue()
    none = WebhookNotifier({}, 1.0, lambda channel, why: failures.put((channel, why)))
    none.notify("break-glass", "unheard", "", {})
    assert failures.get(timeout=WITHIN) == ("break-glass", "no webhook is configured for it")
    none.close()
    some = WebhookNotifier({"default": tmp_path / "good"}, 1.0, lambda *_: None)
    some.notify("break-glass", "heard", "", {})
    assert heard.get(timeout=WITHIN) == "heard"
    some.close()
