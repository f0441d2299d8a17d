"""Deliver notifications to webhooks in the background: bounded queue, retried, failure told to a callback."""

import json
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
import stamina

LONGEST_QUEUE = 1000
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class _Message:
    channel: str
    body: bytes


class WebhookNotifier:
    """Implements `Notifier`. `url_files` maps a channel to a file that holds its URL (a secret).

    A channel without a file falls back to `default`; with neither the message is told as undeliverable.
    `on_failure(channel, why)` is called from the delivering thread.
    """

    def __init__(
        self, url_files: Mapping[str, Path], timeout_seconds: float, on_failure: Callable[[str, str], None]
    ) -> None:
        self._url_files = url_files
        self._timeout = timeout_seconds
        self._on_failure = on_failure
        self._queue: queue.Queue[_Message | None] = queue.Queue(LONGEST_QUEUE)
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)
        self._thread.start()

    def notify(self, channel: str, title: str, body: str, fields: dict[str, str]) -> None:
        """Queue a message; a full queue is a failure, told like any other."""
        # `text` is what Slack, Mattermost and Teams show; the rest is for machines.
        text = json.dumps({"text": f"{title}\n{body}", "title": title, "body": body, "fields": fields})
        try:
            self._queue.put_nowait(_Message(channel, text.encode()))
        except queue.Full:
            self._on_failure(channel, "too many notifications are waiting")

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Deliver what waits, for a while, and stop."""
        try:
            self._queue.put(None, timeout=timeout_seconds)
        except queue.Full:
            return
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (message := self._queue.get()) is not None:
            why = self._deliver(message)
            if why:
                self._on_failure(message.channel, why)

    def _deliver(self, message: _Message) -> str:
        path = self._url_files.get(message.channel) or self._url_files.get("default")
        if path is None:
            return "no webhook is configured for it"
        try:
            self._post(path.read_text().strip(), message.body)
        except OSError:
            return f"cannot read {path}"
        except httpx2.HTTPError as error:  # its text may hold the URL, a secret: name the kind only
            return type(error).__name__
        return ""

    def _post(self, url: str, body: bytes) -> None:
        for attempt in stamina.retry_context(on=httpx2.HTTPError, attempts=ATTEMPTS, timeout=60.0):
            with attempt, httpx2.Client(timeout=self._timeout, follow_redirects=False) as client:
                client.post(url, content=body, headers={"content-type": "application/json"}).raise_for_status()
