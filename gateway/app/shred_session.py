"""Destroy a recording on purpose: its key, and what the index has of its statements. Its digest stays in the log.

The order stands in the signed log before anything is destroyed, and once it does it is carried out: at once, or after
a crash or a failing disk as soon as that is possible. Nobody takes it back.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.log_ports import EventFilter, StoredEvent
from gateway.app.replay_session import authorised_session
from gateway.app.shreds import is_done, require_not_shredded
from gateway.audit.sealed_digests import DONE, ORDERED, SHREDDED
from gateway.core.decision import Action
from gateway.core.errors import Conflict, GatewayError, Refusal, Unavailable
from gateway.core.event import Event
from gateway.core.principal import User
from gateway.core.session import Session

LOG = logging.getLogger(__name__)
AGAIN_AFTER = timedelta(minutes=1)  # an order as old is not being carried out by whoever took it
AT_ONCE = 1000
_OVERLAP = timedelta(hours=1)  # clocks of other gateways, and orders that are stored late
_NO_REASON = Refusal("reason-missing", "Say why: it is all that will be left.", next_steps=("Add --reason …",))
_LIVE = Refusal(
    "session-live", "That session still runs.", next_steps=("Shred it once it is over; gw session kill ends it.",)
)


class ShredFailed(Exception):
    """Not everything could be destroyed; trying again is harmless."""


@runtime_checkable
class Shredder(Protocol):
    """The recordings on this machine."""

    def can_shred(self, session_id: str) -> bool:
        """True when that session's key is here (or what was left of it), and it is put away."""
        ...

    def shred(self, session_id: str) -> None:
        """Destroy key and indexed statements, durably. Harmless when that was done; ShredFailed when it was not."""
        ...


def shred_session(ctx: Context, user: User, session_id: str, reason: str) -> str:
    """The id of the order's event. Raises NotFound, Denied, Conflict, and Unavailable when it is done later."""
    session = authorised_session(ctx, user, session_id, Action.SHRED)
    if not reason.strip():
        raise Conflict(_NO_REASON)
    if session.is_live():
        raise Conflict(_LIVE)
    require_not_shredded(ctx, session)
    shredder = ctx.recorder
    if not isinstance(shredder, Shredder) or not shredder.can_shred(session_id):
        raise Conflict(_not_here(session))
    about: journal.About = {**journal.about_session(session), "principal": user.name}
    data = {"reason": reason.strip()[:500], "holder": session.holder_name, "recording": session.recording_digest}
    order = journal.event(ctx, SHREDDED, ORDERED, data, **about)
    with ctx.store.begin() as uow:
        uow.events.append(order)
    _carry_out(ctx, shredder, order, tells_failure=True)
    return order.id


def _not_here(session: Session) -> Refusal:
    return Refusal(
        "recording-not-here",
        f"There is no key of {session.id} on this machine, or its recording is still being put away.",
        next_steps=(f"Try again in a moment, or at the gateway {session.gateway}, which recorded it.",),
    )


def _carry_out(ctx: Context, shredder: Shredder, order: Event, *, tells_failure: bool) -> None:
    """INVARIANT: nothing is destroyed before the order is a leaf under a signed checkpoint."""
    about: journal.About = {
        "principal": order.principal, "target": order.target, "grant": order.grant, "session": order.session,
    }  # fmt: skip
    data = {**order.data, "order": order.id}
    try:
        journal.confirm_logged(ctx, order.id)
        shredder.shred(order.session)
    except (ShredFailed, Unavailable) as why:
        if tells_failure:
            journal.record(ctx, SHREDDED, "failed", {**data, "why": str(why)}, **about)
        text = f"The order to shred {order.session} is stored, but it is not carried out yet: {why}"
        steps = ("The gateway tries again every minute until it is.",)
        raise Unavailable(Refusal("shred-unfinished", text, next_steps=steps)) from why
    journal.confirm_logged(ctx, journal.record(ctx, SHREDDED, DONE, data, **about))


class Shreds:
    """Carries out what a crash or a failing disk has left. Made before anybody can give an order to this process."""

    def __init__(self, ctx: Context) -> None:
        self._born = ctx.clock.now()
        self._since: datetime | None = None  # nothing older is unfinished

    def step(self, ctx: Context) -> int:
        """How many were carried out. Call it at the start, and once a minute."""
        now = ctx.clock.now()
        unfinished = list(_unfinished(ctx, self._since))
        done = sum([self._finish(ctx, order, now) for order in unfinished])
        self._since = min([now - _OVERLAP, *(order.at for order in unfinished)])
        return done

    def _finish(self, ctx: Context, order: Event, now: datetime) -> bool:
        is_orphan = order.source == f"gateway/{ctx.gateway}" and order.at < self._born
        shredder = ctx.recorder
        if not (is_orphan or order.at <= now - AGAIN_AFTER):
            return False  # somebody is at it
        if not isinstance(shredder, Shredder) or not shredder.can_shred(order.session):
            return False  # it lies on another machine
        try:
            _carry_out(ctx, shredder, order, tells_failure=False)
        except GatewayError as no:
            LOG.warning("%s", no.refusal.message)
            return False
        return True


def _unfinished(ctx: Context, since: datetime | None) -> Iterator[Event]:
    """The first order of each session of which no event says that it is done."""
    by_session: dict[str, list[StoredEvent]] = {}
    for told in _told(ctx, since):
        by_session.setdefault(told.event.session, []).append(told)
    for told_of_one in by_session.values():
        orders = [told.event for told in told_of_one if told.event.outcome == ORDERED]
        if orders and not is_done(told_of_one):
            yield orders[-1]


def _told(ctx: Context, since: datetime | None) -> Iterator[StoredEvent]:
    wanted = EventFilter(type=SHREDDED, since=since, limit=AT_ONCE)
    while True:
        found = ctx.log.search(wanted)
        yield from found
        indices = [each.index for each in found if each.index is not None]
        if len(found) < AT_ONCE or not indices:
            return
        wanted = replace(wanted, before=min(indices))
