"""`Store` and `UnitOfWork` of `app.ports` over SQLAlchemy."""

from types import TracebackType
from typing import Self

from sqlalchemy import Connection, Engine

from gateway.adapters.store.deploys import SqlDeploys
from gateway.adapters.store.engine import reading_engine, writing_engine
from gateway.adapters.store.events import SqlEvents
from gateway.adapters.store.failures import outages_as_unavailable
from gateway.adapters.store.held_commits import SqlHeldCommits
from gateway.adapters.store.passkeys import SqlPasskeys
from gateway.adapters.store.people import SqlApiTokens, SqlProviderSessions, SqlProvisioning
from gateway.adapters.store.repositories import SqlGrants, SqlRequests, SqlReviews, SqlSessions, SqlUsers
from gateway.adapters.store.short_lived import SqlCredentials, SqlGateways, SqlIncidents, SqlLeases, SqlShifts
from gateway.adapters.store.transaction import Transaction
from gateway.app.ports import UnitOfWork


class SqlUnitOfWork(UnitOfWork):
    """One transaction, begun on entry. Its repositories exist only inside the `with`."""

    def __init__(self, engine: Engine, *, read_only: bool) -> None:
        self._engine = engine
        self._read_only = read_only
        self._connection: Connection | None = None
        self._transaction: Transaction | None = None

    def __enter__(self) -> Self:
        if self._connection is not None:
            raise RuntimeError("a unit of work is entered once")
        with outages_as_unavailable():
            self._connection = self._engine.connect()
        try:
            with outages_as_unavailable():
                self._connection.begin()
        except BaseException:
            self._connection.close()
            raise
        self._bind(Transaction(self._connection, read_only=self._read_only))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection, transaction = self._connection, self._transaction
        if connection is None or transaction is None:
            raise RuntimeError("a unit of work that was not entered cannot end")
        with outages_as_unavailable(), connection:  # closing rolls back what was not committed
            if exc_type is not None:
                return
            if transaction.has_failed:
                raise RuntimeError("a statement of this unit of work failed, so nothing of it was stored")
            with outages_as_unavailable(committing=True):
                connection.commit()

    def _bind(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self.users = SqlUsers(transaction)
        self.requests = SqlRequests(transaction)
        self.grants = SqlGrants(transaction)
        self.reviews = SqlReviews(transaction)
        self.sessions = SqlSessions(transaction)
        self.held = SqlHeldCommits(transaction)
        self.leases = SqlLeases(transaction)
        self.credentials = SqlCredentials(transaction)
        self.shifts = SqlShifts(transaction)
        self.incidents = SqlIncidents(transaction)
        self.gateways = SqlGateways(transaction)
        self.provider_sessions = SqlProviderSessions(transaction)
        self.api_tokens = SqlApiTokens(transaction)
        self.provisioning = SqlProvisioning(transaction)
        self.deploys = SqlDeploys(transaction)
        self.passkeys = SqlPasskeys(transaction)
        self.events = SqlEvents(transaction)


class SqlStore:
    """The gateway's state in one database, migrated before. Thread-safe; `close` it at the end."""

    def __init__(self, url: str) -> None:
        """`sqlite:///path` or `postgresql://…`; ValueError otherwise. Nothing is connected yet."""
        self._writing = writing_engine(url)
        self._reading = reading_engine(url)

    @property
    def writing(self) -> Engine:
        """What writing transactions begin on, for whoever else writes to this database in this process."""
        return self._writing

    def begin(self) -> SqlUnitOfWork:
        """A writing transaction, alone among writers. Unavailable on entry when the others take too long."""
        return SqlUnitOfWork(self._writing, read_only=False)

    def read(self) -> SqlUnitOfWork:
        """A consistent view, on a connection that refuses to write."""
        return SqlUnitOfWork(self._reading, read_only=True)

    def close(self) -> None:
        """Close the pooled connections."""
        self._writing.dispose()
        self._reading.dispose()
