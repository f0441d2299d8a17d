"""Recordings as files: read what is sealed, or what still lies in a spool, of this process or another."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from gateway.adapters.recordings.keys import Keyring
from gateway.adapters.recordings.sealed import SealedFiles
from gateway.adapters.recordings.spool import Stretch, frames_of, require_session_id, segments
from gateway.audit.recording import Frame

POLL = 0.25  # seconds; another process's spool gives no sign when it grows
ATTEMPTS = 5


class RecordingFiles:
    """Reads below one directory. Needs no lock and writes nothing, so any process of the machine may use it."""

    def __init__(self, directory: Path, keys: Keyring) -> None:
        self.directory = directory
        self.spool_directory = directory / "spool"
        self.sealed = SealedFiles(directory / "sealed", directory / "keys", keys)
        self._keys = keys

    def read(self, session_id: str, from_seq: int = 0) -> Iterator[Frame]:
        """The frames as stored, unjudged: `audit.recording.verified` judges. LookupError when there is no recording.

        Malformed or BrokenRecordingError where the file is damaged, RecordingLocked when its key is not there.
        """
        require_session_id(session_id)
        following = from_seq
        for attempt in range(ATTEMPTS):
            try:
                for frame in self._once(session_id, following):
                    following = frame.seq + 1
                    yield frame
            except FileNotFoundError:  # sealed meanwhile: its segment is gone, its file is there
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                return

    def follow(
        self, session_id: str, from_seq: int = 0, silence: timedelta = timedelta(seconds=15)
    ) -> Iterator[Frame | None]:
        """Frames as they become durable, until the session is over; None after each `silence` without one.

        The None gives the caller its chance to stop. LookupError when there is no recording.
        """
        require_session_id(session_id)
        following = from_seq
        seen: dict[Path, int] = {}
        while True:
            is_over = self._is_over(session_id)
            before = following
            for frame in self._newer(session_id, following, seen):
                following = frame.seq + 1
                yield frame
            if is_over:
                return
            if following == before and not self._wait_beyond(session_id, following, silence):
                yield None

    def _once(self, session_id: str, from_seq: int) -> Iterator[Frame]:
        if self.sealed.find(session_id) is not None:
            yield from (frame for frame in self.sealed.read(session_id) if frame.seq >= from_seq)
            return
        stretches = self._stretches(session_id)
        found = False
        for frame in frames_of(session_id, stretches, self._keys):
            found = True
            if frame.seq >= from_seq:
                yield frame
        if not found:
            if self.sealed.find(session_id) is not None:
                raise FileNotFoundError(session_id)
            raise LookupError(f"there is no recording of {session_id}")

    def _newer(self, session_id: str, from_seq: int, seen: dict[Path, int]) -> Iterator[Frame]:
        """What the spool has beyond what was seen; from the sealed file once there is one."""
        if self.sealed.find(session_id) is not None:
            yield from self.read(session_id, from_seq)
            return
        stretches = [
            Stretch(s.path, max(s.start, seen.get(s.path, 0)), s.end) for s in self._stretches(session_id)
        ]  # fmt: skip
        if not stretches and not seen:
            raise LookupError(f"there is no recording of {session_id}")
        passed: Callable[[Path, int], None] = seen.__setitem__
        following = from_seq
        try:
            for frame in frames_of(session_id, stretches, self._keys, passed):
                if frame.seq >= following:
                    following = frame.seq + 1
                    yield frame
        except FileNotFoundError:
            yield from self.read(session_id, following)

    def _stretches(self, session_id: str) -> Sequence[Stretch]:
        """Where the session's frames may lie in spools; here: anywhere in any."""
        del session_id
        found = []
        for name in segments(self.spool_directory):
            try:
                found.append(Stretch(name.path, 0, name.path.stat().st_size))
            except FileNotFoundError:  # its sessions were sealed meanwhile
                continue
        return found

    def _is_over(self, session_id: str) -> bool:
        """Nothing more will come."""
        return self.sealed.find(session_id) is not None

    def _wait_beyond(self, session_id: str, count: int, silence: timedelta) -> bool:
        """Wait until there may be a frame number `count` or the end; False when it stayed silent."""
        del count
        until = time.monotonic() + silence.total_seconds()
        before = self._written(session_id)
        while time.monotonic() < until:
            time.sleep(POLL)
            if self._is_over(session_id) or self._written(session_id) != before:
                return True
        return False

    def _written(self, session_id: str) -> dict[Path, int]:
        """When each spool was written to. Its length does not tell: there are zeros ahead."""
        written = {}
        for stretch in self._stretches(session_id):
            with suppress(FileNotFoundError):
                written[stretch.path] = stretch.path.stat().st_mtime_ns
        return written
