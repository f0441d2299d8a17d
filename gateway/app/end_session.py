"""The end of a session: its recording sealed, its reason and digest in the log."""

import logging

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.live import End
from gateway.app.recording_ports import Recording, RecordingFailed
from gateway.core.errors import Refusal, Unavailable
from gateway.core.session import EndReason, Session, end

LOG = logging.getLogger(__name__)


def end_session(ctx: Context, session: Session, recording: Recording, reason: EndReason, detail: str = "") -> None:
    """Seal the recording and store the end with its digest. Idempotent: the first reason stands."""
    ctx.live.discard(session.id)
    try:
        count, digest = recording.seal()
    except RecordingFailed:
        count, digest = recording.digest()  # what is durable is what can be proved
        reason = EndReason.RECORDING_FAILED
    try:
        store_end(ctx, session, reason, detail, count, digest)
    except Unavailable as why:
        LOG.warning("the end of %s is stored later: %s", session.id, why.refusal.message)
        ctx.live.keep_end(session.id, End(reason, detail, count, digest))


def store_end(ctx: Context, session: Session, reason: EndReason, detail: str, count: int, digest: str) -> None:
    """The end of a session and its event, in one transaction, unless it is over already."""
    over = end(session, reason, ctx.clock.now(), detail, f"{count}:{digest}")
    if isinstance(over, Refusal):
        return
    with ctx.store.begin() as uow:
        if uow.sessions.save(over):
            data = {"reason": reason.value, "detail": detail, "records": count, "digest": digest}
            journal.append(ctx, uow, "session:ended", **journal.about_session(session), data=data)
