"""What an SSH session leaves in its recording; the format is docs/formats/ssh-recording.md.

Octets of a stream are prefixed by the channel's number (4 octets, big-endian); everything else is JSON.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock

from blake3 import blake3

from gateway.app.recording_ports import Recording
from gateway.edges.proxy.ssh_fields import u32
from gateway.wire.echo import EchoedLines
from gateway.wire.file_digest import FileDigest
from gateway.wire.scp import transfer_command

Octets = bytes | bytearray | memoryview
DURABLE_WITHIN = timedelta(seconds=5)


@dataclass(slots=True)
class FileTotals:
    """What a session moved: finished transfers and their octets by direction, and what was refused."""

    files: dict[str, int] = field(default_factory=lambda: {"upload": 0, "download": 0})
    octets: dict[str, int] = field(default_factory=lambda: {"upload": 0, "download": 0})
    failed: int = 0
    changes: int = 0
    refused: int = 0

    def add(self, op: str, direction: str, octets: int, outcome: str) -> None:
        """One record of kind `file`."""
        if op == "error":  # a sentence, which belongs to another record
            return
        if op == "rsync":  # each of its files has a record, and what belongs to none is counted by itself
            return
        if direction and op != "mkdir":
            self.octets[direction] += octets
        if outcome not in ("ok", "not-parsed"):
            self.failed += 1
        elif op == "transfer":
            self.files[direction] += 1
        elif op != "list" and (op, direction) != ("mkdir", "download"):  # that one is not made there
            self.changes += 1

    def fields(self) -> dict[str, object]:
        """For the record `files-summary`."""
        return {
            "uploads": self.files["upload"], "upload_bytes": self.octets["upload"],
            "downloads": self.files["download"], "download_bytes": self.octets["download"],
            "changes": self.changes, "failed": self.failed, "refused": self.refused,
        }  # fmt: skip


class SessionRecord:
    """The recording of one session, with a clock."""

    def __init__(self, recording: Recording, now: Callable[[], datetime], *, require: bool) -> None:
        self._recording = recording
        self._now = now
        self._require = require
        self._lock = Lock()
        self._files: FileTotals | None = None

    def octets(self, kind: str, channel: int, data: Octets) -> None:
        """A piece of a stream."""
        self._recording.append(kind, self._now(), b"".join((u32(channel), data)))

    def fact(self, kind: str, **fields: object) -> int:
        """A JSON record; its sequence number."""
        return self._recording.append(kind, self._now(), json.dumps(fields, separators=(",", ":")).encode())

    def file(self, op: str, direction: str, octets: int, outcome: str, **fields: object) -> None:
        """A file that was moved, or something that was done to one."""
        with self._lock:
            self._files = self._files or FileTotals()
            self._files.add(op, direction, octets, outcome)
        self.fact("file", op=op, direction=direction, bytes=octets, outcome=outcome, **fields)

    def moved(self, direction: str, octets: int) -> None:
        """Octets that belong to no file that has a record."""
        with self._lock:
            self._files = self._files or FileTotals()
            self._files.octets[direction] += octets

    def file_refused(self, **fields: object) -> None:
        """Something that the level's rules about files forbid; the target has not heard of it."""
        with self._lock:
            self._files = self._files or FileTotals()
            self._files.refused += 1
        self.fact("file-refused", **fields)

    def close(self) -> None:
        """The session is over: how many files it moved, if any were asked for."""
        with self._lock:
            files, self._files = self._files, None
        if files is not None:
            self.fact("files-summary", **files.fields())

    def begun(self, sequence: int) -> None:
        """Wait until the start of a command is on disk, where the grant says that nothing may happen before."""
        if self._require:
            self._recording.wait_durable(sequence, DURABLE_WITHIN)


class StreamRecord:
    """One stream of a channel without a terminal: its first octets, then only their number and digest (BLAKE3).

    Without `digest` for file transfers that are followed: each file has its own (SHA-256).
    """

    def __init__(self, record: SessionRecord, kind: str, channel: int, *, keep: int, digest: bool) -> None:
        self._record = record
        self._kind = kind
        self._channel = channel
        self._keep = self._left = keep
        self._digest = blake3() if digest else None
        self._octets = 0
        self._sealed = False

    def add(self, data: Octets) -> None:
        """More of it."""
        if self._digest is not None:
            self._digest.update(data)
        self._octets += len(data)
        if self._left:
            kept = data[: self._left]
            self._left -= len(kept)
            self._record.octets(self._kind, self._channel, kept)

    def seal(self) -> None:
        """Its number and digest; once."""
        if not self._sealed:
            self._sealed = True
            self._record.fact(
                "stream", channel=self._channel, stream=self._kind, octets=self._octets,
                kept=self._keep - self._left, blake3=self._digest and self._digest.hexdigest(),
            )  # fmt: skip


class ChannelRecord:
    """What one channel leaves: raw octets of a terminal, capped streams of a command, only digests of a transfer."""

    def __init__(self, record: SessionRecord, channel: int, output_limit: int) -> None:
        self._record = record
        self._channel = channel
        self._lock = Lock()
        self._term: dict[str, object] = {}
        self._streams: dict[str, StreamRecord] = {}
        self._keep = self._limit = output_limit
        self._digest = True
        self._echoed = EchoedLines()

    @property
    def is_terminal(self) -> bool:
        """True when the channel has a pty."""
        return bool(self._term)

    def terminal(self, term: str, columns: int, rows: int) -> None:
        """A pty was asked for; it is recorded with what is started on it."""
        self._term = {"term": term, "columns": columns, "rows": rows}

    def no_terminal(self) -> None:
        """The target has none to give."""
        self._term = {}

    def begin(self, type_: str, command: bytes, runs: tuple[str, bytes] | None = None) -> None:
        """A shell, command or subsystem is about to start. Returns when it may; RecordingFailed when it may not.

        `runs` is the same for what really starts, where the level forces a command.
        """
        kind, line = runs or (type_, command)
        transfer = transfer_command(line) if kind == "exec" else None
        if kind == "subsystem" or (transfer is not None and transfer.program != "rsync"):  # each file has its digest
            self._keep, self._digest = 0, False
        text, forced = (each.decode("utf-8", "backslashreplace") for each in (command, line))
        about = {"type": type_, "command": text, **({"runs": forced} if line != command else {}), **self._term}
        self._record.begun(self._record.fact("channel", channel=self._channel, **about))

    def stream(self, kind: str, data: Octets) -> None:
        """`out`, `err` or `in`. What is typed on a terminal is kept only once the terminal has shown it."""
        if not self._term:
            self._stream(kind).add(data)
            return
        data = bytes(data)
        with self._lock:
            lines = self._echoed.typed(data) if kind == "in" else self._echoed.shown(data)
        if kind == "in":
            self._record.fact("typed", channel=self._channel, octets=len(data))
        else:
            self._record.octets(kind, self._channel, data)
        for line in lines:
            self._record.fact("input", channel=self._channel, text=line.decode("utf-8", "backslashreplace"))

    def _stream(self, kind: str) -> StreamRecord:
        with self._lock:
            stream = self._streams.get(kind)
            if stream is None:
                is_error = kind == "err"  # a transfer's complaints are worth their room
                keep, digest = (self._limit, True) if is_error else (self._keep, self._digest)
                stream = StreamRecord(self._record, kind, self._channel, keep=keep, digest=digest)
                self._streams[kind] = stream
            return stream

    def file(
        self, *, via: str, op: str, path: str, direction: str, octets: int, seconds: float, outcome: str,
        digest: FileDigest | None, **fields: object,
    ) -> None:  # fmt: skip
        """A file that was moved (with its digest), or something that was done to one."""
        known = {"channel": self._channel, "via": via, "path": path, "ms": round(seconds * 1000)}
        self._record.file(op, direction, octets, outcome, **known, **fields, **(digest.fields() if digest else {}))

    def moved(self, direction: str, octets: int) -> None:
        """See `SessionRecord.moved`."""
        self._record.moved(direction, octets)

    def file_refused(self, **fields: object) -> None:
        """See `SessionRecord.file_refused`."""
        self._record.file_refused(channel=self._channel, **fields)

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
            stream.seal()
