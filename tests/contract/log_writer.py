"""A process to be killed: `python -m tests.contract.log_writer URL KEY_FILE PREFIX` appends, and prints what is sure."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

from gateway.adapters.event_log import EventLogReader, Sequencer
from gateway.adapters.signer import Signer
from gateway.adapters.store import SqlStore
from gateway.core.event import Event


def main(url: str, key: str, prefix: str) -> None:
    sequencer = Sequencer(url, Signer(Path(key)), "gw.test/audit", "writer")
    sequencer.start()
    log, store = EventLogReader(url, sequencer), SqlStore(url)

    def write(thread: int) -> None:
        for number in range(100_000):
            event = Event(f"evt_{prefix}_{thread}_{number}", datetime.now(UTC), "test:written", "writer")
            with store.begin() as uow:
                uow.events.append(event)
            if log.wait_included([event.id], timedelta(seconds=20)):
                sys.stdout.write(f"{event.id}\n")
                sys.stdout.flush()

    for thread in range(3):
        Thread(target=write, args=(thread,)).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
