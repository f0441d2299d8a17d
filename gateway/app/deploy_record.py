"""What a step leaves in its recording: the command, its streams up to a limit, its end (formats/ssh-recording.md)."""

import hashlib
import json
from collections.abc import Callable
from datetime import datetime

from gateway.app.recording_ports import Recording

_CHANNEL = 0
_PREFIX = _CHANNEL.to_bytes(4, "big")


class StepRecord:
    """Not thread-safe: one runner's thread writes it."""

    def __init__(self, recording: Recording, now: Callable[[], datetime], limit: int) -> None:
        self._recording = recording
        self._now = now
        self._left = limit
        self._seen: dict[str, tuple[int, int, hashlib._Hash]] = {}  # octets, kept, digest

    def begin(self, kind: str, command: str, **facts: object) -> int:
        """What is about to run; its number, to wait for."""
        return self._fact("channel", channel=_CHANNEL, type=kind, command=command, **facts)

    def output(self, stream: str, data: bytes) -> bytes:
        """A piece of output; the part of it that the limit lets through."""
        octets, kept, digest = self._seen.get(stream, (0, 0, hashlib.sha256()))
        digest.update(data)
        part = data[: self._left]
        self._left -= len(part)
        self._seen[stream] = (octets + len(data), kept + len(part), digest)
        if part:
            self._recording.append(stream, self._now(), _PREFIX + part)
        return part

    def end(self, status: int | None, detail: str) -> None:
        """Its end, and number and digest of each stream, kept or not."""
        told: dict[str, object] = {"status": status} if status is not None else {"error": detail}
        self._fact("exit", channel=_CHANNEL, **told)
        for stream, (octets, kept, digest) in self._seen.items():
            self._fact("stream", channel=_CHANNEL, stream=stream, octets=octets, kept=kept, sha256=digest.hexdigest())

    def _fact(self, kind: str, **fields: object) -> int:
        return self._recording.append(kind, self._now(), json.dumps(fields, separators=(",", ":")).encode())
