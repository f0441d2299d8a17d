"""After a crash: what was open is ended as interrupted, its recording sealed, its roles left to the reaper."""

from collections.abc import Sequence
from datetime import datetime

from gateway.app.context import Context
from gateway.app.end_session import store_end
from gateway.app.hold_commit import lose_held
from gateway.core.session import EndReason


def recover(ctx: Context) -> int:
    """End every session that this gateway held before it started; how many there were."""
    sealed = _by_session(ctx.recorder.recover())
    with ctx.store.read() as uow:
        orphans = [view.session for view in uow.sessions.live_views(ctx.gateway)]
    for session in orphans:
        # It may have been sealed already when the process died, with only its end still to store.
        count, digest = sealed.get(session.id) or ctx.recorder.sealed_digest(session.id) or (0, "")
        lose_held(ctx, session)
        store_end(ctx, session, EndReason.INTERRUPTED, "", count, digest)
    return len(orphans)


def end_sessions_of_the_silent(ctx: Context, at: datetime) -> int:
    """Another gateway that stopped beating holds nothing any more: end its sessions; how many there were."""
    with ctx.store.read() as uow:
        silent = [g for g in uow.gateways.silent_since(at - ctx.limits.gateway_silent_after) if g != ctx.gateway]
        orphans = [view.session for gateway in silent for view in uow.sessions.live_views(gateway)]
    sealed = _by_session(ctx.recorder.recover_all()) if orphans else {}
    for session in orphans:
        count, digest = sealed.get(session.id) or ctx.recorder.sealed_digest(session.id) or (0, "")
        lose_held(ctx, session)
        store_end(ctx, session, EndReason.INTERRUPTED, f"gateway {session.gateway} fell silent", count, digest)
    return len(orphans)


def _by_session(recovered: Sequence[tuple[str, int, str]]) -> dict[str, tuple[int, str]]:
    return {session_id: (count, digest) for session_id, count, digest in recovered}
