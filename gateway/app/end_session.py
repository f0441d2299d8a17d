"""The end of a session: its recording sealed, its reason and digest in the log."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.live import End
from gateway.app.ports import UnitOfWork
from gateway.app.recording_ports import Recording, RecordingFailed
from gateway.core.errors import Refusal, Unavailable
from gateway.core.session import EndReason, Session, end

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A session that is over, and how its recording ended with it. The store does not know yet."""

    session: Session
    end: End


def end_session(ctx: Context, session: Session, recording: Recording, reason: EndReason, detail: str = "") -> None:
    """Seal the recording and store the end with its digest. Idempotent: the first reason stands."""
    store_ends(ctx, [seal_session(ctx, session, recording, reason, detail)])


def seal_session(ctx: Context, session: Session, recording: Recording, reason: EndReason, detail: str = "") -> Sealed:
    """The first half of `end_session`; the caller hands the result to `store_ends`, soon and once."""
    ctx.live.discard(session.id)
    try:
        count, digest = recording.seal()
    except RecordingFailed:
        count, digest = recording.digest()  # what is durable is what can be proved
        reason = EndReason.RECORDING_FAILED
    return Sealed(session, End(reason, detail, count, digest))


def store_ends(ctx: Context, ended: Sequence[Sealed]) -> None:
    """The second half, for several sessions in one transaction. While the store is away they are kept for later."""
    try:
        with ctx.store.begin() as uow:
            for each in ended:
                _store(ctx, uow, each)
    except Unavailable as why:
        for each in ended:
            LOG.warning("the end of %s is stored later: %s", each.session.id, why.refusal.message)
            ctx.live.keep_end(each.session.id, each.end)


def store_end(ctx: Context, session: Session, reason: EndReason, detail: str, count: int, digest: str) -> None:
    """The end of a session and its event, in one transaction, unless it is over already. Unavailable."""
    with ctx.store.begin() as uow:
        _store(ctx, uow, Sealed(session, End(reason, detail, count, digest)))


def _store(ctx: Context, uow: UnitOfWork, ended: Sealed) -> None:
    reason, detail, count, digest = ended.end.reason, ended.end.detail, ended.end.records, ended.end.digest
    over = end(ended.session, reason, ctx.clock.now(), detail, f"{count}:{digest}")
    if not isinstance(over, Refusal) and uow.sessions.save(over):
        data = {"reason": reason.value, "detail": detail, "records": count, "digest": digest}
        journal.append(ctx, uow, "session:ended", **journal.about_session(ended.session), data=data)
