"""One transaction on one connection, as the repositories see it."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, CursorResult, Delete, Executable, Insert, Row, Update
from sqlalchemy.exc import IntegrityError

from gateway.adapters.store.failures import outages_as_unavailable
from gateway.adapters.store.prepared import Prepared

T = TypeVar("T")
_MOST_VALUES = 500  # in one IN (…): every database takes that many


def in_parts(values: Collection[str]) -> Iterator[Sequence[str]]:
    """Values for a few questions with IN (…)."""
    every = sorted(values)
    return (every[start : start + _MOST_VALUES] for start in range(0, len(every), _MOST_VALUES))


class InconsistentError(RuntimeError):
    """A bug: the database refused a row that contradicts what it holds (the constraint is named in the text)."""

    @classmethod
    def without_values(cls, error: IntegrityError) -> Self:
        """PostgreSQL's details quote the row, and with it what nobody may read in a log."""
        diagnosis = getattr(error.orig, "diag", None)
        return cls(str(error.orig if diagnosis is None else diagnosis.message_primary))


class Transaction:
    """Runs statements. Once one has failed nothing of the transaction may be kept, whoever catches the exception:
    PostgreSQL would answer the COMMIT of a failed transaction with a rollback, and without an error.
    """

    def __init__(self, connection: Connection, *, read_only: bool) -> None:
        self._connection = connection
        self._read_only = read_only
        self.has_failed = False

    def rows(self, statement: Executable | Prepared, **values: object) -> Sequence[Mapping[Any, Any]]:
        """All rows, keyed by column; `values` as of `first`."""
        if isinstance(statement, Prepared):
            return self._guarded(partial(statement.find, self._connection, **values))
        return self._run(statement, values).mappings().all()

    def tuples(self, statement: Executable) -> Sequence[Row[Any]]:
        """All rows, as they come: the fastest."""
        return self._run(statement).all()

    def first(self, statement: Executable | Prepared, **values: object) -> Mapping[Any, Any] | None:
        """The first row, or None; `values` are those of bind parameters in a statement that is made once."""
        if isinstance(statement, Prepared):
            return next(iter(self.rows(statement, **values)), None)
        return self._run(statement, values).mappings().first()

    def change(self, statement: Update | Delete | Prepared, **values: object) -> int:
        """Run an update or a delete; the number of rows that it matched. `values` as of `first`."""
        if isinstance(statement, Prepared):
            return self._guarded(partial(statement.run, self._connection, values))
        return self._run(statement, values).rowcount

    def change_each(self, statement: Update, rows: Sequence[dict[str, Any]]) -> None:
        """Run an update with bind parameters for each of the rows."""
        if rows:
            self._run(statement, rows)

    def insert(self, statement: Insert | Prepared, rows: Sequence[dict[str, Any]]) -> None:
        """Insert any number of rows."""
        if rows and isinstance(statement, Prepared):
            self._guarded(partial(statement.run, self._connection, *rows))
        elif rows and not isinstance(statement, Prepared):
            self._run(statement, rows)

    def _run(
        self, statement: Executable, parameters: Sequence[dict[str, Any]] | dict[str, Any] | None = None
    ) -> CursorResult[Any]:
        return self._guarded(partial(self._connection.execute, statement, parameters))

    def _guarded(self, run: Callable[[], T]) -> T:
        try:
            return run()
        except BaseException as error:
            self.has_failed = True
            if isinstance(error, IntegrityError):
                raise InconsistentError.without_values(error) from None
            with outages_as_unavailable(read_only=self._read_only):
                raise
