"""Which failures of a database mean "not now", and the sentence for each. Neither URL nor values get into a text."""

from errno import ENOSPC
from typing import Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from gateway.core.errors import Refusal, Unavailable

_FULL: Final = "The gateway's database has no disk space left, so nothing was done. Free some space and try again."
_BUSY: Final = "The gateway's database is busy and nothing was done. Try again in a moment."
_BROKEN: Final = "The gateway's database is damaged, so nothing was done. Restore it from a backup."
_READ_ONLY: Final = "The gateway's database cannot be written to, so nothing was done. Look at its permissions."
_NO_FILE: Final = (
    "The gateway's database file cannot be opened, so nothing was done. Look at its directory and permissions."
)
_AWAY: Final = "The gateway's database cannot be reached, so nothing was done. Try again in a moment."
_UNKNOWN: Final = (
    "The gateway's database went away while it was saving, so this may or may not have been done. "
    "Look at the present state before you try again."
)
# https://www.sqlite.org/rescode.html, primary codes. 1 (SQLITE_ERROR) is not among them: wrong SQL is our bug.
_SQLITE = {
    5: _BUSY,
    6: _BUSY,
    7: _AWAY,
    8: _READ_ONLY,
    9: _BUSY,
    10: _AWAY,
    11: _BROKEN,
    13: _FULL,
    14: _NO_FILE,
    26: _BROKEN,
}
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRES = {
    "53100": _FULL,
    "55P03": _BUSY,
    "57014": _BUSY,
    "40001": _BUSY,
    "40P01": _BUSY,
    "XX001": _BROKEN,
    "XX002": _BROKEN,
}
_READ_ONLY_TRANSACTION = "25006"


class WroteWhileReadingError(RuntimeError):
    """A bug: something was written through `Store.read()`. Nothing was stored."""


class outages_as_unavailable:  # noqa: N801 - used like a function; as a class it costs a third, and each statement enters one
    """Turn failures of the database into `Unavailable`; bugs pass as they are."""

    __slots__ = ("_committing", "_read_only")

    def __init__(self, *, read_only: bool = False, committing: bool = False) -> None:
        self._read_only = read_only
        self._committing = committing

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: object) -> None:
        if isinstance(error, PoolTimeoutError):
            raise _unavailable(_BUSY) from error
        if isinstance(error, OSError):  # from making the SQLite file; PostgreSQL's driver has errors of its own
            raise _unavailable(_FULL if error.errno == ENOSPC else _NO_FILE) from error
        if isinstance(error, DBAPIError):
            self._translate(error)

    def _translate(self, error: DBAPIError) -> None:
        if self._read_only and _is_write_refused(error):
            raise WroteWhileReadingError("this unit of work is for reading") from error
        sentence = _sentence(error)
        if sentence is not None:
            lost_in_flight = self._committing and error.connection_invalidated
            raise _unavailable(_UNKNOWN if lost_in_flight else sentence) from error


def _unavailable(sentence: str) -> Unavailable:
    return Unavailable(Refusal("store-unavailable", sentence, ("the database",)))


def _is_write_refused(error: DBAPIError) -> bool:
    return _sqlite_code(error) == 8 or getattr(error.orig, "sqlstate", None) == _READ_ONLY_TRANSACTION


def _sentence(error: DBAPIError) -> str | None:
    code = _sqlite_code(error)
    if code is not None:
        return _SQLITE.get(code)
    sqlstate = getattr(error.orig, "sqlstate", None)
    if isinstance(sqlstate, str) and sqlstate in _POSTGRES:
        return _POSTGRES[sqlstate]
    is_outage = isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated
    return _AWAY if is_outage else None


def _sqlite_code(error: DBAPIError) -> int | None:
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None
