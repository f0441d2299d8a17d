"""Close the books on sessions that the store calls live and nobody holds: their end could not be stored at the time."""

from gateway.app.context import Context
from gateway.app.end_session import store_end
from gateway.app.live import End
from gateway.core.session import EndReason


class Reconciliation:
    """A session must be missing twice in a row: one that is being opened or sealed right now is left alone."""

    def __init__(self) -> None:
        self._missing: frozenset[str] = frozenset()

    def step(self, ctx: Context) -> int:
        """End what was missing at the last step and still is; how many. Call it every 10 s or so."""
        with ctx.store.read() as uow:
            stored = {view.session.id: view.session for view in uow.sessions.live_views(ctx.gateway)}
        missing = frozenset(stored) - ctx.live.ids()
        ended = missing & self._missing
        self._missing = missing - ended
        for session_id in ended:
            end = ctx.live.take_end(session_id) or _unknown_end(ctx, session_id)
            store_end(ctx, stored[session_id], end.reason, end.detail, end.records, end.digest)
        return len(ended)


def _unknown_end(ctx: Context, session_id: str) -> End:
    count, digest = ctx.recorder.sealed_digest(session_id) or (0, "")
    return End(EndReason.INTERRUPTED, "its end could not be stored when it happened", count, digest)
