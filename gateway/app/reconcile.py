"""Close the books on sessions that the store calls live and nobody holds: their end could not be stored at the time."""

from gateway.app.context import Context
from gateway.app.end_session import store_end
from gateway.core.session import EndReason


class Reconciliation:
    """A session must be missing twice in a row: one that is being opened or sealed right now is left alone."""

    def __init__(self) -> None:
        self._missing: frozenset[str] = frozenset()

    def step(self, ctx: Context) -> int:
        """End what was missing at the last step and still is; how many. Call it once a minute."""
        with ctx.store.read() as uow:
            stored = {view.session.id: view.session for view in uow.sessions.live_views(ctx.gateway)}
        missing = frozenset(stored) - ctx.live.ids()
        ended = missing & self._missing
        self._missing = missing - ended
        for session_id in ended:
            detail = "its end could not be stored when it happened"
            store_end(ctx, stored[session_id], EndReason.INTERRUPTED, detail, 0, "")
        return len(ended)
