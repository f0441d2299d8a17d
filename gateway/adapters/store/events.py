"""The outbox of the log: an event is stored in the transaction of the state that it tells about."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Table, insert
from sqlmodel import SQLModel

from gateway.adapters.store.log_tables import EventRow, event_columns
from gateway.adapters.store.prepared import Prepared
from gateway.adapters.store.transaction import Transaction
from gateway.core.event import Event

EVENTS: Final[Table] = SQLModel.metadata.tables[str(EventRow.__tablename__)]

_KEYS: Final = tuple(c.name for c in EVENTS.columns if c.name not in ("ordinal", "position"))
_APPEND: Final = Prepared(insert(EVENTS), _KEYS)  # made once: putting a statement together costs more than running it


class SqlEvents:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def append(self, event: Event) -> None:
        """ValueError when the event does not fit into a leaf. Its place in the tree comes later, from the sequencer."""
        self.append_each([event])

    def append_each(self, events: Sequence[Event]) -> None:
        """As `append`, in one go."""
        self._tx.insert(_APPEND, [event_columns(event) for event in events])
