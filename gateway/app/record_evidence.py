"""Running digests of live recordings become leaves, all sessions of a second in one transaction."""

from collections.abc import Mapping
from threading import Lock

from gateway.app import journal
from gateway.app.context import Context


class Evidence:
    """Holds the newest digest of each recording until it is stored. What could not be stored is tried again."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._newest: dict[str, dict[str, object]] = {}

    def note(self, session_id: str, count: int, digest: str, counters: Mapping[str, int]) -> None:
        """The recorder's news: `count` records are durable and chain to `digest`. Returns at once."""
        with self._lock:
            self._newest[session_id] = {"records": count, "digest": digest, **counters}

    def store(self, ctx: Context) -> int:
        """Append a `session:evidence` event per session with news; how many."""
        with self._lock:
            batch, self._newest = self._newest, {}
        if not batch:
            return 0
        try:
            events = [journal.event(ctx, "session:evidence", data=data, session=of) for of, data in batch.items()]
            with ctx.store.begin() as uow:  # in one go each: everybody who opens a session waits meanwhile
                uow.events.append_each(events)
                uow.sessions.touch(batch.keys(), ctx.clock.now())
        except Exception:
            with self._lock:
                self._newest = {**batch, **self._newest}
            raise
        return len(batch)
