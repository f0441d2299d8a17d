"""The file of the statement index. One that cannot be read is removed at a start, so that it is made anew.

Only while no other process has it open: SQLite loses what is written to a file that is taken away under it.
"""

import fcntl
import logging
import os
import sqlite3
from pathlib import Path
from typing import Final

from gateway.adapters.recordings import index_tables
from gateway.adapters.recordings.spool import private_directory

log = logging.getLogger(__name__)
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class IndexFile:
    """Opened and closed by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark = path.with_name(f"{path.name}.damaged")  # found to be, by a process that ran
        self._lock: int | None = None

    def open(self) -> sqlite3.Connection:
        """With its tables, 0600. sqlite3.Error, OSError."""
        private_directory(self._path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._lock = os.open(self._path.with_name(f"{self._path.name}.lock"), flags, 0o600)
        try:
            database = self._mended() if self._is_alone() else self._prepared()
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        except BaseException:
            self.close()
            raise
        return database

    def close(self) -> None:
        """Another process may mend it, once the connection is closed. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def note(self, error: BaseException) -> None:
        """What was told of it: damage is mended at the next start."""
        if _is_damage(error) and not self._mark.exists():
            log.error("the statement index is damaged (%s); it is made anew when the gateway starts again", error)
            self._mark.touch(mode=0o600)

    def _is_alone(self) -> bool:
        assert self._lock is not None, "opened before"
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._lock, fcntl.LOCK_SH)  # waits for whoever mends it
            return False
        return True

    def _mended(self) -> sqlite3.Connection:
        if self._mark.exists():
            self._remove()
        try:
            return self._prepared()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            log.error("the statement index cannot be read (%s); it is made anew", error)  # noqa: TRY400 - that says it all
            self._remove()
            return self._prepared()

    def _prepared(self) -> sqlite3.Connection:
        self._path.touch(mode=0o600)
        database = sqlite3.connect(self._path, check_same_thread=False, timeout=5)
        try:
            index_tables.prepare(database)
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _remove(self) -> None:
        for suffix in ("-wal", "-shm", "", ".damaged"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


def _is_damage(error: BaseException) -> bool:
    return isinstance(error, sqlite3.DatabaseError) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE
