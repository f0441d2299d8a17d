"""After a crash: what a dead process left in its spool becomes sealed files, as far as the chains hold."""

import fcntl
import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.adapters.recordings.keys import Keyring, SessionKey
from gateway.adapters.recordings.sealed import SealedFiles
from gateway.adapters.recordings.spool import (
    MAX_BLOCK,
    SEGMENT_MAGIC,
    SegmentName,
    Stretch,
    frames_of,
    private_directory,
    require_gateway,
    runs,
    segments,
)
from gateway.app.recording_ports import RecordingFailed
from gateway.app.replay_session import RecordingLocked
from gateway.audit.recording import Chain, Frame, MalformedRecordingError

log = logging.getLogger(__name__)


class SpoolLock:
    """Held by the one process that writes spools under a gateway's name; the system lets go of it when that dies."""

    def __init__(self, directory: Path, gateway: str) -> None:
        path = private_directory(directory) / f"{require_gateway(gateway)}.lock"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise RecordingFailed(f"another process records under the name {gateway}") from error

    def release(self) -> None:
        """Let others recover what is left."""
        os.close(self._descriptor)


@dataclass(slots=True)
class _Left:
    """What one pass over a dead process's segments found."""

    stretches: dict[str, list[Stretch]] = field(default_factory=dict)
    wrapped: dict[str, set[bytes]] = field(default_factory=dict)  # one key per session unless there is damage
    damaged: set[Path] = field(default_factory=set)

    def add(self, session: str, wrapped: bytes, path: Path, start: int, end: int) -> None:
        self.wrapped.setdefault(session, set()).add(wrapped)
        known = self.stretches.setdefault(session, [])
        if known and known[-1].path == path:
            known[-1].end = end
        else:
            known.append(Stretch(path, start, end))


Note = Callable[[Collection[str]], None]


def recover(sealed: SealedFiles, keys: Keyring, left: Sequence[SegmentName], note: Note) -> list[tuple[str, int, str]]:
    """Seal every session found in these segments of one gateway (whose lock the caller holds), then remove them.

    (session id, count, hex digest) of each; `note` is told of them before. A torn tail is what a crash leaves and is
    dropped: nobody was told that it was durable. Damage anywhere else is kept for examination as `*.damaged`, loudly.
    """
    found = _survey(left)
    note(found.stretches)
    results = [_sealed_or_seal(session, sealed, keys, found) for session in found.stretches]
    for name in left:
        if name.path in found.damaged:
            log.error("%s is damaged; it is kept for examination", name.path.name)
            name.path.rename(name.path.with_suffix(".damaged"))
        else:
            name.path.unlink()
    return results


def recover_all(directory: Path, sealed: SealedFiles, keys: Keyring, note: Note) -> list[tuple[str, int, str]]:
    """The same for every gateway of which no process lives."""
    results: list[tuple[str, int, str]] = []
    for gateway in sorted({name.gateway for name in segments(directory)}):
        try:
            lock = SpoolLock(directory, gateway)
        except RecordingFailed:
            continue  # alive
        try:
            results += recover(sealed, keys, segments(directory, gateway), note)
        finally:
            lock.release()
    return results


def _survey(left: Sequence[SegmentName]) -> _Left:
    found = _Left()
    for name in left:
        size = name.path.stat().st_size
        good = 0
        with name.path.open("rb") as file:
            start = 0
            for run in runs(file, 0, size):
                found.add(run.session, run.wrapped, name.path, start, run.end)
                start = good = run.end
            file.seek(good)
            is_blank = not file.read().strip(b"\0")
        is_last = name.path == left[-1].path
        if not is_blank and size - good > (MAX_BLOCK if is_last else len(SEGMENT_MAGIC) if not good else 0):
            found.damaged.add(name.path)
    return found


def _sealed_or_seal(session: str, sealed: SealedFiles, keys: Keyring, found: _Left) -> tuple[str, int, str]:
    if sealed.find(session) is None:
        try:
            key = _key_of(session, keys, found)
        except RecordingLocked as error:
            log.error("the recording of %s cannot be sealed: %s", session, error)  # noqa: TRY400 the text says it all
            found.damaged.update(stretch.path for stretch in found.stretches[session])
            return session, 0, ""
        return session, *sealed.write(key, _sound(session, keys, found))
    known = sealed.digest(session)
    if known is None and not sealed.is_shredded(session):  # never written over: it may hold more than what is left here
        log.error("the sealed recording of %s is damaged", session)
        found.damaged.update(stretch.path for stretch in found.stretches[session])
    return session, *(known or (0, ""))


def _key_of(session: str, keys: Keyring, found: _Left) -> SessionKey:
    """The session's key, from whichever block has it undamaged; a new one when none has, for then none is readable."""
    locked: RecordingLocked | None = None
    for wrapped in found.wrapped[session]:
        try:
            return keys.unwrapped(session, wrapped)
        except RecordingLocked as error:
            locked = error
        except MalformedRecordingError as error:
            log.debug("a key of %s: %s", session, error)
    if locked is not None:
        raise locked
    return keys.fresh(session)


def _sound(session: str, keys: Keyring, found: _Left) -> Iterator[Frame]:
    """The frames as far as the chain holds."""
    chain = Chain(session)
    stretches = found.stretches[session]
    why = "a record does not fit the chain"
    try:
        for frame in frames_of(session, stretches, keys):
            if frame.seq != chain.count or chain.extend(frame.encoded()) != frame.link:
                break
            yield frame
        else:
            return
    except (MalformedRecordingError, RecordingLocked) as error:
        why = str(error)
    log.error("the recording of %s does not hold to its end: %s", session, why)
    found.damaged.update(stretch.path for stretch in stretches)
