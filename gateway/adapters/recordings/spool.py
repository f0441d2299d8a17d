"""The spool: one growing file per process for the frames of all its sessions, in segments.

A batch of the writer is a row of blocks, one per session, so that a reader of one session skips whole blocks of the
others, and one call encrypts all that a session has in a batch. Layout: docs/formats/recording.md.
"""

import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cryptography.exceptions import InvalidTag

from gateway.adapters.recordings.keys import NONCE, TAG, WRAPPED, Keyring, SessionKey
from gateway.audit.recording import MAX_SESSION_ID, Frame, MalformedRecordingError, decode

SEGMENT_MAGIC = b"GWSPOOL2"
MAX_BATCH = 4 * 1024 * 1024  # bytes gathered for one write and one sync
MAX_BLOCK = 8 * 1024 * 1024  # a batch and its last frame are well below
BLANK = 1024 * 1024  # bytes of zeros written ahead
# Magic, length of session id, number of the block in its session, number of frames, bytes of ciphertext.
_BLOCK = struct.Struct(">4sBQII")
_BLOCK_MAGIC = b"GWB2"
_NAME = re.compile(r"spool-(?P<gateway>[A-Za-z0-9._-]{1,64})-(?P<number>[0-9]{8})\.gwspool")
_GATEWAY = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SESSION = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_SESSION_ID}}}")


class Disk:
    """The call that can fail. Replaced in tests by one that is full, slow or broken."""

    def write(self, descriptor: int, content: bytes) -> None:
        """All of it on stable storage (and the length it needs), or OSError. The descriptor is one of O_DSYNC: one call
        lets go of the interpreter once, and each time it may have to wait until it gets it back.
        """
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def require_session_id(session_id: str) -> str:
    """The id, which becomes part of a path; ValueError when it does not look like one."""
    if _SESSION.fullmatch(session_id) is None:
        raise ValueError("that is no session id")
    return session_id


def require_gateway(gateway: str) -> str:
    """The gateway's name, which becomes part of a path; ValueError when it cannot."""
    if _GATEWAY.fullmatch(gateway) is None:
        raise ValueError("a gateway's name is 1 to 64 letters, digits, dots, dashes and underscores")
    return gateway


def private_directory(path: Path) -> Path:
    """The directory and what is missing above it, made 0700."""
    if not path.parent.exists():  # mkdir's own `parents` would ignore the mode
        private_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- writing


class Segment:
    """One file being written. `size` is what is durable; whatever stands behind it never counts.

    Zeros are written ahead: to sync bytes in the middle of a file takes ext4 a tenth of the time that it takes when the
    file has grown, for which its journal is written, too.
    """

    def __init__(self, directory: Path, gateway: str, number: int, disk: Disk) -> None:
        self.number = number
        self.path = directory / f"spool-{gateway}-{number:08d}.gwspool"
        self.size = 0
        self._blank = 0  # where the zeros end
        self._disk = disk
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_DSYNC
        self._descriptor = os.open(self.path, flags, 0o600)
        try:
            self.append(SEGMENT_MAGIC)
            sync_directory(directory)
        except OSError:
            self.retire()
            self.path.unlink(missing_ok=True)
            raise

    def append(self, content: bytes) -> int:
        """On disk when this returns; where it begins. After an OSError the segment is good for nothing more."""
        start = self.size
        if start + len(content) > self._blank:
            self._blank = start + len(content) + self._blank_from(start + len(content))
        self._disk.write(self._descriptor, content)
        self.size += len(content)
        return start

    def _blank_from(self, start: int) -> int:
        try:
            return os.pwrite(self._descriptor, bytes(BLANK), start)
        except OSError:  # what has to be kept will find out
            return 0

    def retire(self) -> None:
        """Close, and cut off what a failed write left behind, and the zeros."""
        with suppress(OSError):  # then recovery finds the rest unacknowledged, which it tolerates
            os.ftruncate(self._descriptor, self.size)
        os.close(self._descriptor)


def block(key: SessionKey, number: int, frames: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """Frames of one session, each with its link, encrypted for the spool: head and ciphertext, to be joined once.

    INVARIANT: a key never sees a number twice, also when the write of the first block failed: it is the nonce.
    """
    body = b"".join(part for pair in frames for part in pair)
    name = key.session_id.encode("ascii")
    head = _BLOCK.pack(_BLOCK_MAGIC, len(name), number, len(frames), len(body) + TAG) + name
    return head + key.wrapped, key.blocks.encrypt(_nonce(number), body, head)


def _nonce(number: int) -> bytes:
    return number.to_bytes(NONCE, "big")


# ---------------------------------------------------------------- reading


class SegmentName(NamedTuple):
    gateway: str
    number: int
    path: Path


class Run(NamedTuple):
    """One block in a segment: encrypted frames of one session in bytes `body` to `end`. `head` is authenticated."""

    session: str
    number: int
    frames: int
    head: bytes
    wrapped: bytes
    body: int
    end: int


@dataclass(slots=True)
class Stretch:
    """Where frames of a session lie in one segment, possibly among those of others."""

    path: Path
    start: int
    end: int


def segments(directory: Path, gateway: str = "") -> list[SegmentName]:
    """All segments (of one gateway), oldest first."""
    found = []
    for path in directory.glob("spool-*.gwspool"):
        match = _NAME.fullmatch(path.name)
        if match is not None and gateway in ("", match["gateway"]):
            found.append(SegmentName(match["gateway"], int(match["number"]), path))
    return sorted(found)


def runs(file: BinaryIO, start: int, end: int) -> Iterator[Run]:
    """The whole blocks between two offsets; stops in front of the first one that is torn, or where none begins."""
    offset = max(start, len(SEGMENT_MAGIC))
    while offset + _BLOCK.size <= end:
        file.seek(offset)
        head = file.read(_BLOCK.size + MAX_SESSION_ID + WRAPPED)
        if len(head) < _BLOCK.size:
            return
        magic, name_length, number, count, length = _BLOCK.unpack_from(head)
        named = _BLOCK.size + name_length
        session = head[_BLOCK.size : named].decode("ascii", errors="replace")
        is_sound = magic == _BLOCK_MAGIC and TAG <= length <= MAX_BLOCK and _SESSION.fullmatch(session) is not None
        body = offset + named + WRAPPED
        if not is_sound or body + length > end:
            return
        offset = body + length
        file.seek(offset - TAG)
        if not any(file.read(TAG)):  # what was written ahead: the block's own end never reached the disk
            return
        yield Run(session, number, count, head[:named], head[named : named + WRAPPED], body, offset)


def frames_in(file: BinaryIO, run: Run, key: SessionKey) -> Iterator[Frame]:
    """The frames of a block; MalformedRecordingError names one that was changed."""
    file.seek(run.body)
    try:
        content = key.blocks.decrypt(_nonce(run.number), file.read(run.end - run.body), run.head)
    except InvalidTag as error:
        raise MalformedRecordingError(f"block {run.number} of {run.session} was changed") from error
    offset = 0
    for _ in range(run.frames):
        frame, offset = decode(content, offset)
        yield frame
    if offset != len(content):
        raise MalformedRecordingError("a block is longer than its frames")


def _unheeded(path: Path, offset: int) -> None:
    del path, offset


def frames_of(
    session_id: str,
    stretches: Sequence[Stretch],
    keys: Keyring,
    passed: Callable[[Path, int], None] = _unheeded,
    key: SessionKey | None = None,
) -> Iterator[Frame]:
    """One session's frames in the given stretches; `passed(path, offset)` after each block, of whichever session.

    `key` is the session's, where it is known.
    """
    for stretch in stretches:
        with stretch.path.open("rb") as file:
            for run in runs(file, stretch.start, stretch.end):
                if run.session == session_id:
                    if key is None or key.wrapped != run.wrapped:
                        key = keys.unwrapped(session_id, run.wrapped)
                    yield from frames_in(file, run, key)
                passed(stretch.path, run.end)
