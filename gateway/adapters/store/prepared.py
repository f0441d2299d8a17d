"""Statements that are put together once, and run on the driver's own cursor.

SQLAlchemy compiles a statement once, too, but what it does around each run costs five times what SQLite needs for the
answer, and each connection through a door takes some twenty of them. The types' own conversions are kept.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Delete, Dialect, Insert, Select, Update
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

Values = Mapping[str, Any]
Found = Mapping[Any, Any]  # a row, by the columns themselves
_Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A statement in one dialect. `names` are its parameters in their places, empty where they go by name."""

    text: str
    names: tuple[str, ...]
    fixed: Values
    convert: Mapping[str, _Convert]
    columns: tuple[Any, ...]
    results: tuple[_Convert | None, ...]

    def bound(self, values: Values) -> Any:
        """Parameters as the driver takes them. KeyError when one is missing."""
        told = {**self.fixed, **values}
        for name, convert in self.convert.items():
            told[name] = convert(told[name])
        return tuple([told[name] for name in self.names]) if self.names else told

    def row(self, row: Sequence[Any]) -> Found:
        return {
            column: value if convert is None else convert(value)
            for column, value, convert in zip(self.columns, row, self.results, strict=True)
        }


class Prepared:
    """One statement with bind parameters, for as long as the process lives. No IN (…), and no defaults of SQLAlchemy's.

    `keys`: the columns that an insert is given, where these are not all.
    """

    def __init__(self, statement: Select[Any] | Insert | Update | Delete, keys: Sequence[str] | None = None) -> None:
        self._statement = statement.inline() if isinstance(statement, Insert) else statement
        self._keys = keys
        self._ready: dict[str, _Ready] = {}

    def find(self, connection: Connection, **values: object) -> Sequence[Found]:
        """All rows of a query, by column. A failure of the driver is raised as SQLAlchemy does."""
        ready = self._on(connection.dialect)
        return [ready.row(row) for row in _run(connection, ready.text, ready.bound(values), lambda c: c.fetchall())]

    def run(self, connection: Connection, *each: Values) -> int:
        """Insert, update or delete once for each; the number of rows that matched. Raises as `find`."""
        ready = self._on(connection.dialect)
        bound = [ready.bound(values) for values in each]
        return int(_run(connection, ready.text, bound if len(bound) > 1 else bound[0], lambda c: c.rowcount))

    def _on(self, dialect: Dialect) -> _Ready:
        return self._ready.get(dialect.name) or self._ready.setdefault(dialect.name, self._made(dialect))

    def _made(self, dialect: Dialect) -> _Ready:
        compiled = self._statement.compile(dialect=dialect, column_keys=self._keys)
        assert isinstance(compiled, SQLCompiler), "it is SQL"
        columns = tuple(self._statement.selected_columns) if isinstance(self._statement, Select) else ()
        binds = compiled.binds.items()
        converted = ((name, _in(bind.type, dialect)) for name, bind in binds)
        return _Ready(
            text=str(compiled),
            names=tuple(compiled.positiontup or ()),
            fixed={name: bind.value for name, bind in binds if not bind.required},
            convert={name: convert for name, convert in converted if convert is not None},
            columns=columns,
            results=tuple(_out(column.type, dialect) for column in columns),
        )


def _in(type_: TypeEngine[Any], dialect: Dialect) -> _Convert | None:
    return type_.dialect_impl(dialect).bind_processor(dialect)


def _out(type_: TypeEngine[Any], dialect: Dialect) -> _Convert | None:
    return type_.dialect_impl(dialect).result_processor(dialect, None)


def _run(connection: Connection, text: str, bound: Any, read: Callable[[DBAPICursor], Any]) -> Any:
    """Closes its cursor, whatever happens: see `engine._begin_immediate` for what garbage does to SQLite."""
    dialect, driver = connection.dialect, connection.connection
    try:
        with closing(driver.cursor()) as cursor:  # a connection that is known to be lost gives none
            (cursor.executemany if isinstance(bound, list) else cursor.execute)(text, bound)
            return read(cursor)
    except dialect.loaded_dbapi.Error as error:
        is_lost = dialect.is_disconnect(error, driver, None)
        if is_lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            text,
            None,
            error,
            dialect.loaded_dbapi.Error,
            hide_parameters=True,
            connection_invalidated=is_lost,
            dialect=dialect,
        ) from error
