"""A handle that can only SELECT, for whoever looks at evidence.

The connection itself refuses to write. On PostgreSQL give it a URL whose role has nothing but SELECT as well: then
not even somebody who runs SQL through it can write.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from gateway.adapters.store.engine import reading_engine
from gateway.adapters.store.failures import outages_as_unavailable


class ReadOnlyDatabase:
    """Consistent views of one database. Thread-safe."""

    def __init__(self, url: str) -> None:
        self._engine = reading_engine(url)

    @contextmanager
    def view(self) -> Iterator[Connection]:
        """One reading transaction; Unavailable when the database does not answer."""
        with outages_as_unavailable(read_only=True), self._engine.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()
