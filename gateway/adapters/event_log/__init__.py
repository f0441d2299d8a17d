"""The log over the store's database: `Sequencer` grows and signs the tree, `EventLogReader` is the port `EventLog`."""

from gateway.adapters.event_log.reader import EventLogReader, newest_event_at
from gateway.adapters.event_log.sequencer import Sequencer, TreeMismatchError

__all__ = ["EventLogReader", "Sequencer", "TreeMismatchError", "newest_event_at"]
