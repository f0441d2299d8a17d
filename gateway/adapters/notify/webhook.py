"""Deliver notifications to webhooks in the background: bounded queues, retried, failure told to a callback.

Each channel has a queue and a thread of its own: one whose receiver is down, or stalls, holds up no other, and least of
all the one that tells of a broken glass.
"""

import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import httpx2
import stamina

from gateway.adapters.cut_off import CutOff
from gateway.adapters.notify.chat_text import LONGEST_BODY, LONGEST_TITLE, bounded, chat_line, chat_lines

LOG = logging.getLogger(__name__)
LONGEST_QUEUE = 1000
ATTEMPTS = 5
Failed = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class _Message:
    channel: str
    body: bytes


class WebhookNotifier:
    """Implements `Notifier`. `url_files` maps a channel to a file that holds its URL (a secret).

    A channel without a file falls back to `default`; with neither the message is told as undeliverable.
    `on_failure(channel, why)` is called from the delivering threads, or that of `notify`; what it raises is logged.
    """

    def __init__(self, url_files: Mapping[str, Path], timeout_seconds: float, on_failure: Failed) -> None:
        lanes: dict[str, Path | None] = {"default": None, **url_files}
        self._lanes = {name: _Lane(path, timeout_seconds, on_failure) for name, path in lanes.items()}

    def notify(self, channel: str, title: str, body: str, fields: dict[str, str]) -> None:
        """Queue a message; a full queue is a failure, told like any other."""
        shown = chat_line(title)
        told = {
            # What Slack, Mattermost and Teams show; the last one shows the title, too.
            "text": f"{shown}\n{chat_lines(body)}",
            "title": shown,
            # For machines, as it was written.
            "body": bounded(body, LONGEST_BODY),
            "fields": {name: bounded(value, LONGEST_TITLE) for name, value in fields.items()},
        }
        octets = json.dumps(told, ensure_ascii=False).encode("utf-8", "replace")  # half a surrogate pair is typed soon
        self._lanes.get(channel, self._lanes["default"]).put(_Message(channel, octets))

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Deliver what waits, for a while, and stop."""
        until = monotonic() + timeout_seconds
        for lane in self._lanes.values():
            lane.close()
        for lane in self._lanes.values():
            lane.join(max(0.0, until - monotonic()))


class _Lane:
    """What waits for one receiver, oldest first. `path` None is none."""

    def __init__(self, path: Path | None, timeout_seconds: float, on_failure: Failed) -> None:
        self._path = path
        self._timeout = timeout_seconds
        self._on_failure = on_failure
        self._queue: queue.Queue[_Message | None] = queue.Queue(LONGEST_QUEUE + 1)  # one place is for the end
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)
        self._thread.start()

    def put(self, message: _Message) -> None:
        if self._queue.qsize() >= LONGEST_QUEUE:
            self._tell(message.channel, "too many notifications are waiting")
        else:
            self._queue.put(message)

    def close(self) -> None:
        self._queue.put(None)

    def join(self, timeout_seconds: float) -> None:
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (message := self._queue.get()) is not None:
            why = self._deliver(message)
            if why:
                self._tell(message.channel, why)

    def _tell(self, channel: str, why: str) -> None:
        """The store may be away: that must end neither this thread nor what the notification is about."""
        try:
            self._on_failure(channel, why)
        except Exception:
            LOG.exception("a notification to %s failed (%s), which could not be stored", channel, why)

    def _deliver(self, message: _Message) -> str:
        if self._path is None:
            return "no webhook is configured for it"
        try:
            self._post(self._path.read_text().strip(), message.body)
        except (OSError, UnicodeDecodeError):
            return f"cannot read {self._path}"
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:  # the text may hold the URL, a secret
            return type(error).__name__
        return ""

    def _post(self, url: str, body: bytes) -> None:
        """Only the status is looked at: what a receiver says beyond it has no bound."""
        for attempt in stamina.retry_context(on=httpx2.HTTPError, attempts=ATTEMPTS, timeout=60.0):
            with (
                attempt,
                CutOff(self._timeout) as cut_off,
                httpx2.Client(timeout=self._timeout, follow_redirects=False) as client,
                client.stream(
                    "POST",
                    url,
                    content=body,
                    headers={"content-type": "application/json"},
                    extensions={"trace": cut_off.trace},
                ) as answer,
            ):
                answer.raise_for_status()
