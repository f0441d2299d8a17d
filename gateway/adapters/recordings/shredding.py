"""The end of a recording's key: zeros wherever it stands below the recordings directory.

It is overwritten in place and not removed, so that the disk is told to write over it, and so that what was done on
purpose does not look like a loss. Copies elsewhere (backups, snapshots, what a disk keeps by itself) are not reached.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.adapters.recordings.drafts import Drafts
from gateway.adapters.recordings.spool import require_session_id

log = logging.getLogger(__name__)
CHUNK: Final = 1024 * 1024
_DAMAGED: Final = ".damaged"
_SUFFIX: Final = ".order"


class Orders:
    """See `shred_session.ShredOrders`: `<session id>.order` beside the keys, which holds the event's id."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def note(self, session_id: str, order: str) -> None:
        """See the port."""
        with Drafts() as drafts:
            drafts.write(0, self._directory, require_session_id(session_id) + _SUFFIX, [order.encode()])
            for error in drafts.name_all().values():
                raise error

    def all(self) -> dict[str, str]:
        """See the port."""
        found = {}
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            try:
                found[path.name.removesuffix(_SUFFIX)] = path.read_text(errors="replace")
            except FileNotFoundError:  # carried out meanwhile
                continue
            except OSError:  # it must not hold up the others
                log.exception("the order %s cannot be read", path.name)
        return found

    def forget(self, session_id: str) -> None:
        """See the port."""
        (self._directory / (require_session_id(session_id) + _SUFFIX)).unlink(missing_ok=True)


def overwrite_key(key: Path, spool: Path) -> None:
    """In every spool first: as long as it stands in its own file, one can look for it again after a crash. OSError."""
    with key.open("r+b", buffering=0) as file:
        wrapped = file.read()
        if any(wrapped):
            for path in _spools(spool):
                with suppress(FileNotFoundError):  # all that was in it is sealed
                    _overwrite(path, wrapped)
                if path.suffix != _DAMAGED:  # recovery may have just called it so
                    with suppress(FileNotFoundError):
                        _overwrite(path.with_suffix(_DAMAGED), wrapped)
        file.seek(0)
        file.write(bytes(len(wrapped)))
        os.fsync(file.fileno())


def is_in_spool(key: Path, spool: Path) -> bool:
    """True while its session's records lie in a spool: it may not be sealed yet."""
    wrapped = key.read_bytes()
    if not any(wrapped):
        return False  # zeros are in every spool
    for path in _spools(spool):
        with suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
            if next(_places(file.fileno(), wrapped), None) is not None:
                return True
    return False


def _spools(directory: Path) -> list[Path]:
    """Those that are being written, those that wait for recovery, and damaged ones that are kept for examination."""
    return sorted(path for path in directory.glob("spool-*") if path.suffix in (".gwspool", _DAMAGED))


def _overwrite(path: Path, wrapped: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        places = list(_places(file.fileno(), wrapped))
        for place in places:
            os.pwrite(file.fileno(), bytes(len(wrapped)), place)
        if places:
            os.fsync(file.fileno())


def _places(descriptor: int, wrapped: bytes) -> Iterator[int]:
    """Where it stands in a file, which may be growing: whole blocks of the session, each with its key, do not."""
    start = 0
    while len(part := os.pread(descriptor, CHUNK + len(wrapped) - 1, start)) >= len(wrapped) > 0:
        at = part.find(wrapped)
        while at >= 0:
            yield start + at
            at = part.find(wrapped, at + len(wrapped))
        start += CHUNK
