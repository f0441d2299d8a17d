"""The gateway's state on SQLite or PostgreSQL. `migrations.upgrade(url)` first, then `SqlStore(url)`."""

from gateway.adapters.store.migrations import upgrade
from gateway.adapters.store.readonly import ReadOnlyDatabase
from gateway.adapters.store.unit_of_work import SqlStore

__all__ = ["ReadOnlyDatabase", "SqlStore", "upgrade"]
