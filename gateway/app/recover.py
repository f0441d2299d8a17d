"""After a crash: what was open is ended as interrupted, its recording sealed, its roles left to the reaper."""

from datetime import datetime

from gateway.app.context import Context
from gateway.app.end_session import store_end
from gateway.core.session import EndReason


def recover(ctx: Context) -> int:
    """End every session that this gateway held before it started; how many there were."""
    sealed = {session_id: (count, digest) for session_id, count, digest in ctx.recorder.recover()}
    with ctx.store.read() as uow:
        orphans = [view.session for view in uow.sessions.live_views(ctx.gateway)]
    for session in orphans:
        count, digest = sealed.get(session.id, (0, ""))
        store_end(ctx, session, EndReason.INTERRUPTED, "", count, digest)
    return len(orphans)


def end_sessions_of_the_silent(ctx: Context, at: datetime) -> int:
    """Another gateway that stopped beating holds nothing any more: end its sessions; how many there were."""
    with ctx.store.read() as uow:
        silent = [g for g in uow.gateways.silent_since(at - ctx.limits.gateway_silent_after) if g != ctx.gateway]
        orphans = [view.session for gateway in silent for view in uow.sessions.live_views(gateway)]
    for session in orphans:
        store_end(ctx, session, EndReason.INTERRUPTED, f"gateway {session.gateway} fell silent", 0, "")
    return len(orphans)
