"""Sealed recordings: one file per session, packed and encrypted, complete or absent; its key lies apart from it."""

import gzip
import itertools
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

from gateway.adapters.recordings.chunks import Decrypted, encrypted
from gateway.adapters.recordings.drafts import CHUNK, Drafts
from gateway.adapters.recordings.keys import WRAPPED, Keyring, SessionKey
from gateway.adapters.recordings.spool import require_session_id
from gateway.app.replay_session import RecordingLocked, RecordingShredded
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

SUFFIX = ".gwrec"
MAGIC = b"GWREC\x00\x02\n"
SALT = 16
# What keeps one from being sealed. A damaged block may well name a key that nobody has.
UNSEALED = (OSError, MalformedRecordingError, BrokenRecordingError, RecordingLocked)
Made = tuple[int, str] | Exception  # count and hex digest, or which of these
_GZIP = 31  # window bits that make zlib write a gzip wrapping (zlib manual, deflateInit2)


class SealedFiles:
    """`<yyyy>/<mm>/<session id>.gwrec` below one directory, and the wrapped keys in another.

    The month is that of the first record. A session whose key was taken away can be read by nobody any more.
    """

    def __init__(self, directory: Path, key_directory: Path, keys: Keyring) -> None:
        self._directory = directory
        self._key_directory = key_directory
        self._keys = keys

    def find(self, session_id: str) -> Path | None:
        """The file of a session, if it is sealed."""
        name = require_session_id(session_id) + SUFFIX
        return next(iter(self._directory.glob(f"[0-9][0-9][0-9][0-9]/[0-9][0-9]/{name}")), None)

    def key_path(self, session_id: str) -> Path:
        """Where the wrapped key of a sealed session lies, if it is there."""
        return self._key_directory / _key_name(session_id)

    def is_shredded(self, session_id: str) -> bool:
        """True when its key was overwritten."""
        try:
            self._key(session_id)
        except RecordingShredded:
            return True
        except (OSError, RecordingLocked, MalformedRecordingError):
            pass
        return False

    def sessions(self) -> Iterator[str]:
        """Every sealed session, oldest month first."""
        for path in sorted(self._directory.glob(f"[0-9][0-9][0-9][0-9]/[0-9][0-9]/*{SUFFIX}")):
            yield path.name.removesuffix(SUFFIX)

    def read(self, session_id: str) -> Iterator[Frame]:
        """The frames; LookupError when it is not sealed, Malformed or BrokenRecordingError where it is damaged.

        RecordingLocked when its key is not there.
        """
        path = self.find(session_id)
        if path is None:
            raise LookupError(f"{session_id} is not sealed")
        try:
            with path.open("rb") as file, gzip.open(self._decrypted(session_id, file)) as stream:
                found, frames = read_sealed(stream)
                if found != session_id:
                    raise MalformedRecordingError(f"the file holds {found}, another session")
                yield from frames
        except EOFError as error:
            raise TruncatedRecordingError("the file is cut short") from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise MalformedRecordingError("the file is damaged") from error

    def digest(self, session_id: str) -> tuple[int, str] | None:
        """(count, hex digest) of a sealed session, from its records; None when it is not there or unreadable."""
        chain = Chain(session_id)
        try:
            for frame in self.read(session_id):
                chain.extend(frame.encoded())
        except (LookupError, MalformedRecordingError, BrokenRecordingError, RecordingLocked):
            return None
        return chain.count, chain.digest.hex()

    def write(self, key: SessionKey, frames: Iterable[Frame]) -> tuple[int, str]:
        """Make the file, durable before it has its name; (count, hex digest). OSError leaves no half file behind."""
        (made,) = self.write_all([(key, frames)])
        if isinstance(made, Exception):
            raise made
        return made

    def write_all(self, recordings: Sequence[tuple[SessionKey, Iterable[Frame]]]) -> list[Made]:
        """The same for several, each with what came of it: together they keep the disk less busy."""
        failed: dict[int, Exception] = {}
        made: dict[int, tuple[int, str]] = {}
        with Drafts() as drafts:
            for n, (key, _) in enumerate(recordings):
                try:
                    drafts.write(n, self._key_directory, _key_name(key.session_id), [key.wrapped])
                except OSError as error:
                    failed[n] = error
            failed |= drafts.name_all()
        with Drafts() as drafts:  # keys are durable before there is a file that needs one
            for n, (key, frames) in enumerate(recordings):
                try:
                    if n not in failed:
                        made[n] = self._write(drafts, n, key, frames)
                except UNSEALED as error:
                    failed[n] = error
            failed |= drafts.name_all()
        return [failed.get(n) or made[n] for n in range(len(recordings))]

    def _write(self, drafts: Drafts, number: int, key: SessionKey, frames: Iterable[Frame]) -> tuple[int, str]:
        session_id = require_session_id(key.session_id)
        chain = Chain(session_id)
        iterator = iter(frames)
        first = next(iterator, None)
        again = itertools.chain([first] if first else [], iterator)
        month = first.at() if first else datetime.fromtimestamp(0, UTC)
        directory = self._directory / f"{month.year:04d}" / f"{month.month:02d}"
        content = _encrypted_bytes(key, _sealed_bytes(session_id, chain, again))
        drafts.write(number, directory, session_id + SUFFIX, content)
        return chain.count, chain.digest.hex()

    def _decrypted(self, session_id: str, file: BinaryIO) -> BinaryIO:
        head = MAGIC + bytes([len(session_id)]) + session_id.encode("ascii")
        if file.read(len(head)) != head:
            raise MalformedRecordingError(f"the file is no sealed recording of {session_id}")
        cipher = self._key(session_id).for_file(file.read(SALT))
        return cast("BinaryIO", Decrypted(cipher, file))  # gzip only reads

    def _key(self, session_id: str) -> SessionKey:
        try:
            with self.key_path(session_id).open("rb") as file:
                wrapped = file.read(WRAPPED + 1)
        except FileNotFoundError as error:
            raise RecordingLocked("its key is not there") from error
        return self._keys.unwrapped(session_id, wrapped)


def _key_name(session_id: str) -> str:
    return f"{require_session_id(session_id)}.key"


def _encrypted_bytes(key: SessionKey, content: Iterable[bytes]) -> Iterator[bytes]:
    salt = os.urandom(SALT)
    yield MAGIC + bytes([len(key.session_id)]) + key.session_id.encode("ascii") + salt
    yield from encrypted(key.for_file(salt), _packed(content))


def _packed(content: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(level=4, wbits=_GZIP)
    for part in content:
        yield packer.compress(part)
    yield packer.flush()


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
