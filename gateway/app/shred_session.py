"""Destroy a recording on purpose: its key, and what the index has of its statements. Its digest stays in the log.

The order stands in the signed log before anything is destroyed, and once it does it is carried out: at once, or after
a crash or a failing disk as soon as that is possible. Nobody takes it back. It is noted beside the recording, too, so
that an event alone, which somebody with the database can make up, destroys nothing.
"""

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol, runtime_checkable

from gateway.app import journal
from gateway.app.authenticate import NOT_SIGNED_IN
from gateway.app.context import Context
from gateway.app.replay_session import authorised_session
from gateway.app.shreds import require_not_shredded, shredding_of
from gateway.app.sign_ins import is_over
from gateway.audit.sealed_digests import DONE, ORDERED, SHREDDED
from gateway.core.decision import Action
from gateway.core.errors import Conflict, GatewayError, Refusal, Unavailable
from gateway.core.event import Event
from gateway.core.principal import User
from gateway.core.session import Session

LOG = logging.getLogger(__name__)
AGAIN_AFTER = timedelta(minutes=1)  # an order as old is not being carried out by whoever took it
_NO_REASON = Refusal("reason-missing", "Say why: it is all that will be left.", next_steps=("Add --reason …",))
_LIVE = Refusal(
    "session-live", "That session still runs.", next_steps=("Shred it once it is over; gw session kill ends it.",)
)
_NO_NOTE = Refusal(
    "disk-unwritable",
    "The order cannot be noted beside the recording, so nothing was destroyed.",
    next_steps=("The gateway's operators look after its recordings directory; then give the order again.",),
)


class ShredFailed(Exception):
    """Not everything could be destroyed; trying again is harmless."""


class ShredOrders(Protocol):
    """Orders that are not carried out yet, beside the recordings. All of them: OSError."""

    def note(self, session_id: str, order: str) -> None:
        """Durably, in the place of an earlier one: the id of the event."""
        ...

    def all(self) -> Mapping[str, str]:
        """Session to event."""
        ...

    def forget(self, session_id: str) -> None: ...


@runtime_checkable
class Shredder(Protocol):
    """The recordings on this machine."""

    orders: ShredOrders

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
    with ctx.store.read() as uow:
        if is_over(uow, user):  # since policy was asked
            raise journal.refuse(ctx, "policy:denied", NOT_SIGNED_IN, **about)
    data = {"reason": reason.strip()[:500], "holder": session.holder_name, "recording": session.recording_digest}
    order = journal.event(ctx, SHREDDED, ORDERED, data, **about)
    try:
        shredder.orders.note(session_id, order.id)
    except OSError as error:
        raise Unavailable(_NO_NOTE) from error
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
    _forget(shredder, order.session)


def _forget(shredder: Shredder, session_id: str) -> None:
    try:
        shredder.orders.forget(session_id)
    except OSError:  # it is forgotten at the next step
        LOG.warning("the order to shred %s is carried out; its note cannot be removed", session_id)


class Shreds:
    """Carries out what a crash or a failing disk has left. Made before anybody can give an order to this process."""

    def __init__(self, ctx: Context) -> None:
        self._born = ctx.clock.now()

    def step(self, ctx: Context) -> int:
        """How many were carried out. Call it at the start, and once a minute."""
        shredder = ctx.recorder
        if not isinstance(shredder, Shredder):
            return 0
        return sum([self._finish(ctx, shredder, *noted) for noted in shredder.orders.all().items()])

    def _finish(self, ctx: Context, shredder: Shredder, session_id: str, order_id: str) -> bool:
        stored = ctx.log.get(order_id)
        if stored is None or _about(stored.event) != (SHREDDED, ORDERED, session_id):
            return False  # the process died before it was stored, or it is about to be
        order, now = stored.event, ctx.clock.now()
        is_orphan = order.source == f"gateway/{ctx.gateway}" and order.at < self._born
        if not (is_orphan or order.at <= now - AGAIN_AFTER):
            return False  # somebody is at it
        found = shredding_of(ctx, session_id)
        if found is not None and found.is_done:
            _forget(shredder, session_id)
            return False
        try:
            _carry_out(ctx, shredder, order, tells_failure=False)
        except GatewayError as no:
            LOG.warning("%s", no.refusal.message)
            return False
        return True


def _about(event: Event) -> tuple[str, str, str]:
    return event.type, event.outcome, event.session
