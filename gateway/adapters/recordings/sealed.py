"""Sealed recordings: one gzip file per session, complete or absent."""

import gzip
import itertools
import os
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from gateway.adapters.recordings.spool import private_directory, require_session_id, sync_directory
from gateway.audit.recording import (
    BrokenRecordingError,
    Chain,
    Frame,
    MalformedRecordingError,
    TruncatedRecordingError,
    read_sealed,
    sealed_header,
    sealed_trailer,
)

CHUNK = 256 * 1024
_GZIP = 31  # window bits that make zlib write a gzip wrapping (zlib manual, deflateInit2)


class SealedFiles:
    """`sealed/<yyyy>/<mm>/<session id>.gwrec.gz` below a directory; the month is that of the first record."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, session_id: str) -> Path | None:
        """The file of a session, if it is sealed."""
        name = f"{require_session_id(session_id)}.gwrec.gz"
        return next(iter(self._directory.glob(f"[0-9][0-9][0-9][0-9]/[0-9][0-9]/{name}")), None)

    def sessions(self) -> Iterator[str]:
        """Every sealed session, oldest month first."""
        for path in sorted(self._directory.glob("[0-9][0-9][0-9][0-9]/[0-9][0-9]/*.gwrec.gz")):
            yield path.name.removesuffix(".gwrec.gz")

    def read(self, session_id: str) -> Iterator[Frame]:
        """The frames; LookupError when it is not sealed, Malformed or BrokenRecordingError where it is damaged."""
        path = self.find(session_id)
        if path is None:
            raise LookupError(f"{session_id} is not sealed")
        try:
            with gzip.open(path) as stream:
                found, frames = read_sealed(stream)
                if found != session_id:
                    raise MalformedRecordingError(f"the file holds {found}, another session")
                yield from frames
        except EOFError as error:
            raise TruncatedRecordingError("the file is cut short") from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise MalformedRecordingError("the file is damaged") from error

    def digest(self, session_id: str) -> tuple[int, str] | None:
        """(count, hex digest) of a sealed session, computed from its records; None when it is not sealed or damaged."""
        chain = Chain(session_id)
        try:
            for frame in self.read(session_id):
                chain.extend(frame.encoded())
        except (LookupError, MalformedRecordingError, BrokenRecordingError):
            return None
        return chain.count, chain.digest.hex()

    def write(self, session_id: str, frames: Iterable[Frame]) -> tuple[int, str]:
        """Make the file, durable before it has its name; (count, hex digest). OSError leaves nothing behind."""
        chain = Chain(require_session_id(session_id))
        iterator = iter(frames)
        first = next(iterator, None)
        again = itertools.chain([first] if first else [], iterator)
        month = first.at() if first else datetime.fromtimestamp(0, UTC)
        directory = private_directory(self._directory / f"{month.year:04d}" / f"{month.month:02d}")
        path = directory / f"{session_id}.gwrec.gz"
        draft = directory / f".{session_id}.draft"
        try:
            self._write(draft, _sealed_bytes(session_id, chain, again))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        sync_directory(directory)
        return chain.count, chain.digest.hex()

    @staticmethod
    def _write(path: Path, content: Iterable[bytes]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=CHUNK) as file:
            packer = zlib.compressobj(level=4, wbits=_GZIP)
            for part in content:
                file.write(packer.compress(part))
            file.write(packer.flush())
            file.flush()
            os.fsync(file.fileno())


def _sealed_bytes(session_id: str, chain: Chain, frames: Iterable[Frame]) -> Iterator[bytes]:
    """Header, frames and trailer in chunks; `chain` has run over all frames at the end."""
    chunk = bytearray(sealed_header(session_id))
    for frame in frames:
        encoded = frame.encoded()
        chunk += encoded
        chunk += chain.extend(encoded)
        if len(chunk) >= CHUNK:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk) + sealed_trailer(chain.count, chain.digest)
