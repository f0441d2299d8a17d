"""The key that signs checkpoints: an Ed25519 seed in a 0600 file of a 0700 directory, made on first use.

Beside it lies what it signed last (`<key>.signed`). A database that was put back to an earlier state would otherwise
make this key sign a second, different history; with the memory it refuses.
"""

import fcntl
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.checkpoint import MAX_NOTE, Checkpoint, VerifierKey, open_checkpoint, sign_checkpoint, verifier_of

_SEED: Final = 32
_SECTOR: Final = 512
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Signer:
    """Signs checkpoints of any origin with one key. Its repr shows no secret."""

    def __init__(self, path: Path) -> None:
        """Load the key, or make it. PermissionError when others may read it, ValueError when it is no key."""
        self._path = path
        self._memory = path.with_name(path.name + ".signed")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(path.parent)
        if not path.exists():
            _create(path)
        self._private = Ed25519PrivateKey.from_private_bytes(_read_seed(path))

    def verifier(self, origin: str) -> VerifierKey:
        """The public key under the log's name; `.text()` is the vkey that auditors pin."""
        return verifier_of(origin, self._private)

    def sign(self, checkpoint: Checkpoint) -> str:
        """The signed note."""
        return sign_checkpoint(checkpoint, self._private)

    def remember(self, note: str) -> None:
        """Keep the newest note that was signed and stored.

        In place where that is whole or not at all, which is nearly always: a new file for each batch of the log costs
        the file system more than the batch costs the database.
        """
        content = note.encode()
        if not _overwritten(self._memory, content):
            replace_private(self._memory, content)

    def remembered(self, origin: str) -> Checkpoint | None:
        """What this key signed last for that log; ValueError when the memory is damaged or of another log."""
        note = self.remembered_note()
        return None if note is None else open_checkpoint(note.decode(), self.verifier(origin))[0]

    def remembered_note(self) -> bytes | None:
        """The same unopened, as any process with this key file has left it."""
        try:
            with self._memory.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)  # never half of an old note and half of a new one
                return file.read(MAX_NOTE)
        except FileNotFoundError:
            return None


def _overwritten(path: Path, content: bytes) -> bool:
    """False, and nothing done, unless the file is as long and in the one sector that a disk writes at once."""
    try:
        with path.open("r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another worker may read it: see `remembered`
            fits = os.fstat(file.fileno()).st_size == len(content) <= _SECTOR
            return fits and file.write(content) == len(content)
    except FileNotFoundError:
        return False


def replace_private(path: Path, content: bytes) -> None:
    """Put a whole 0600 file in the place of the old one. OSError leaves that as it was, and no draft beside it."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mkstemp creates 0600
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except OSError:  # a disk that is full fails again and again: drafts must not pile up
        Path(name).unlink(missing_ok=True)
        raise


def _create(path: Path) -> None:
    """O_EXCL: of two processes that start at once, one makes the key and both use it."""
    try:
        number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    with os.fdopen(number, "wb") as file:
        file.write(Ed25519PrivateKey.generate().private_bytes_raw())
        file.flush()
        os.fsync(file.fileno())


def _read_seed(path: Path) -> bytes:
    _require_private(path)
    with path.open("rb") as file:
        seed = file.read(_SEED + 1)
    if len(seed) != _SEED:
        raise ValueError(f"{path} is not a signing key (32 bytes); restore it from a backup, a new key is a new log")
    return seed


def _require_private(path: Path) -> None:
    if path.stat().st_mode & _OTHERS:
        raise PermissionError(f"{path} may be used by others; run: chmod go= {path}")
