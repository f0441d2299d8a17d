"""What an SSH session leaves in its recording; the format is docs/formats/ssh-recording.md.

Octets of a stream are prefixed by the channel's number (4 octets, big-endian); everything else is JSON.
"""

import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Lock

from gateway.app.ports import Recording
from gateway.edges.proxy.ssh_fields import u32

KEEP_PER_STREAM = 1024 * 1024
DURABLE_WITHIN = timedelta(seconds=5)
_TRANSFER_PROGRAMS = (b"scp", b"rsync", b"sftp-server")


class SessionRecord:
    """The recording of one session, with a clock."""

    def __init__(self, recording: Recording, now: Callable[[], datetime], *, require: bool) -> None:
        self._recording = recording
        self._now = now
        self._require = require

    def octets(self, kind: str, channel: int, data: bytes | bytearray) -> None:
        """A piece of a stream."""
        self._recording.append(kind, self._now(), u32(channel) + data)

    def fact(self, kind: str, **fields: object) -> int:
        """A JSON record; its sequence number."""
        return self._recording.append(kind, self._now(), json.dumps(fields, separators=(",", ":")).encode())

    def begun(self, sequence: int) -> None:
        """Wait until the start of a command is on disk, where the grant says that nothing may happen before."""
        if self._require:
            self._recording.wait_durable(sequence, DURABLE_WITHIN)


class StreamRecord:
    """One stream of a channel without a terminal: its first octets, then only their number and digest."""

    def __init__(self, record: SessionRecord, kind: str, channel: int, *, keep: int) -> None:
        self._record = record
        self._kind = kind
        self._channel = channel
        self._left = keep
        self._digest = hashlib.sha256()
        self._octets = 0
        self._sealed = False

    def add(self, data: bytes | bytearray) -> None:
        """More of it."""
        self._digest.update(data)
        self._octets += len(data)
        if self._left:
            kept = data[: self._left]
            self._left -= len(kept)
            self._record.octets(self._kind, self._channel, kept)

    def seal(self, kept_of: int) -> None:
        """Its number and digest; once."""
        if not self._sealed:
            self._sealed = True
            self._record.fact(
                "stream", channel=self._channel, stream=self._kind, octets=self._octets,
                kept=kept_of - self._left, sha256=self._digest.hexdigest(),
            )  # fmt: skip


class ChannelRecord:
    """What one channel leaves: raw octets of a terminal, capped streams of a command, only digests of a transfer."""

    def __init__(self, record: SessionRecord, channel: int) -> None:
        self._record = record
        self._channel = channel
        self._lock = Lock()
        self._term: dict[str, object] = {}
        self._streams: dict[str, StreamRecord] = {}
        self._keep = KEEP_PER_STREAM

    @property
    def is_terminal(self) -> bool:
        """True when the channel has a pty."""
        return bool(self._term)

    def terminal(self, term: str, columns: int, rows: int) -> None:
        """A pty was asked for; it is recorded with what is started on it."""
        self._term = {"term": term, "columns": columns, "rows": rows}

    def begin(self, type_: str, command: bytes) -> None:
        """A shell, command or subsystem is about to start. Returns when it may; RecordingFailed when it may not."""
        if type_ == "subsystem" or _is_transfer(command):
            self._keep = 0
        text = command.decode("utf-8", "backslashreplace")
        sequence = self._record.fact("channel", channel=self._channel, type=type_, command=text, **self._term)
        self._record.begun(sequence)

    def stream(self, kind: str, data: bytes | bytearray) -> None:
        """`out`, `err` or `in`. What is typed on a terminal may be a password: only its size is kept."""
        if not self._term:
            with self._lock:
                stream = self._streams.get(kind)
                if stream is None:
                    stream = StreamRecord(self._record, kind, self._channel, keep=self._keep)
                    self._streams[kind] = stream
            stream.add(data)
        elif kind == "in":
            self._record.fact("typed", channel=self._channel, octets=len(data))
        else:
            self._record.octets(kind, self._channel, data)

    def resized(self, columns: int, rows: int) -> None:
        """The window changed."""
        self._record.fact("resize", channel=self._channel, columns=columns, rows=rows)

    def fact(self, kind: str, **fields: object) -> None:
        """Anything else about the channel."""
        self._record.fact(kind, channel=self._channel, **fields)

    def end(self) -> None:
        """No more will come of its streams."""
        with self._lock:
            streams = list(self._streams.values())
        for stream in streams:
            stream.seal(self._keep)


def _is_transfer(command: bytes) -> bool:
    """True for a command that only carries files: their octets belong to a digest, not to a recording."""
    words = command.split()
    if not words or words[0].rpartition(b"/")[2] not in _TRANSFER_PROGRAMS:
        return False
    flags = {b"-t", b"-f", b"--server"}
    return bool(flags & set(words[1:])) or words[0].endswith(b"sftp-server")
