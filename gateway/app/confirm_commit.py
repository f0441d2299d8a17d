"""Somebody looks at a COMMIT that is held, and says yes or no to it.

The engineer where the level says `self`, else whoever may approve such an access, and never the engineer. A no may come
from either.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from gateway.app import journal
from gateway.app.authorise import authorise
from gateway.app.context import Context
from gateway.app.hold_commit import bound
from gateway.core.decision import Action, Facts
from gateway.core.errors import Conflict, Denied, NotFound, Refusal, Unavailable
from gateway.core.held_commit import HeldCommit, HeldState, decide, may_decide
from gateway.core.principal import User
from gateway.core.session import Session
from gateway.core.written import Under, Write

_NOTHING = Refusal(
    "nothing-held",
    "No COMMIT of that session is held.",
    next_steps=("COMMIT in the session is held once something was written there.",),
)
_GONE = Refusal(
    "holder-silent",
    "The gateway that holds that session has fallen silent, so no COMMIT goes through there.",
    next_steps=("If it is gone, the database rolls back what was not committed, and the session ends as interrupted.",),
)
_EVENTS = {HeldState.CONFIRMED: "transaction:confirmed", HeldState.REFUSED: "transaction:refused"}


@dataclass(frozen=True, slots=True)
class HeldView:
    """What somebody sees who decides: `writes` are the first of the statements, as far as the gateway knows them,
    `under` the first settings under which they ran; those changed so many times. `silence`: for how long nothing was
    heard of the gateway that holds the session, None when it is this one.
    """

    session: Session
    held: HeldCommit
    writes: Sequence[Write]
    under: Sequence[Under]
    changes: int
    silence: timedelta | None


def show_held(ctx: Context, user: User, session_id: str) -> HeldView:
    """Raises NotFound (no such session, nothing held, its gateway silent), Denied, Unavailable. That others looked is
    in the log.
    """
    session, held, heard = _find(ctx, user, session_id, spends=False)
    if user.id != session.holder:
        data = {"tx": held.tx, "mark": held.mark, "holder": session.holder_name}
        about: journal.About = {**journal.about_session(session), "principal": user.name}
        journal.confirm_logged(ctx, journal.record(ctx, "transaction:shown", data=data, **about))
    return HeldView(session, held, *_shown(ctx, held), _silence(ctx, heard))


def answer_held(ctx: Context, user: User, session_id: str, mark: str, state: HeldState, reason: str = "") -> HeldView:
    """Say yes or no to what `mark` stands for. Raises as `show_held`, and Conflict (it has changed, or is decided).

    A COMMIT goes on as soon as a yes is stored, so the log has confirmed before that who says it, and to what. The
    gateway that holds the session carries it out; when it does not come back, `transaction:ended` says `unknown`.
    """
    session, held, heard = _find(ctx, user, session_id, spends=True)
    about: journal.About = {**journal.about_session(session), "principal": user.name}
    wrong = may_decide(held, state, session.holder, user.id)
    if wrong is not None:
        raise journal.refuse(ctx, _EVENTS[state], wrong, Denied, **about)
    shown = _shown(ctx, held)  # nobody answers what cannot be shown
    why = reason.strip()[:500]
    data = {
        "tx": held.tx, "mark": mark, "holder": session.holder_name, "reason": why,
        "statements": held.statements, "rows": held.rows,
    }  # fmt: skip
    answer = partial(decide, mark=mark, state=state, by=user.name, at=ctx.clock.now(), reason=why)
    decided = answer(held)
    if isinstance(decided, HeldCommit) and state is HeldState.CONFIRMED:
        _log_first(ctx, data, about)
    if isinstance(decided, HeldCommit):
        decided = _store(ctx, held, answer, data, about)
    if isinstance(decided, Refusal):
        raise journal.refuse(ctx, _EVENTS[state], decided, Conflict, data, **about)
    return HeldView(session, decided, *shown, _silence(ctx, heard))


def _log_first(ctx: Context, data: journal.Facts, about: journal.About) -> None:
    """A yes that the log does not confirm is none, and is told so; Unavailable."""
    event = _EVENTS[HeldState.CONFIRMED]
    try:
        journal.confirm_logged(ctx, journal.record(ctx, event, "attempt", data, **about))
    except Unavailable as no:
        failed = {**data, "code": no.refusal.code, "message": no.refusal.message}
        journal.record(ctx, event, "failed", failed, **about)
        raise


def _store(
    ctx: Context,
    held: HeldCommit,
    answer: Callable[[HeldCommit], HeldCommit | Refusal],
    data: journal.Facts,
    about: journal.About,
) -> HeldCommit | Refusal:
    """The answer, if what it is to is still held."""
    with ctx.store.begin() as uow:
        current, session = uow.held.get(held.session), uow.sessions.get(held.session)
        if current is None or current.tx != held.tx or session is None or not session.is_live():
            return _NOTHING
        decided = answer(current)
        if isinstance(decided, Refusal):
            return decided
        uow.held.put(decided)
        noted = journal.append(ctx, uow, _EVENTS[decided.state], data=data, **about)
    if decided.state is HeldState.REFUSED:  # of a yes the attempt is in the log
        journal.confirm_logged(ctx, noted)
    return decided


def _find(ctx: Context, user: User, session_id: str, *, spends: bool) -> tuple[Session, HeldCommit, datetime | None]:
    """Last, when another gateway that holds it was heard."""
    with ctx.store.read() as uow:
        session, held = uow.sessions.get(session_id), uow.held.get(session_id)
        elsewhere = session.gateway if session is not None and session.gateway != ctx.gateway else ""
        heard = uow.gateways.heard(elsewhere) if elsewhere else None
    if session is None:
        raise NotFound(Refusal("unknown-session", "There is no such session.", next_steps=("gw sessions lists them.",)))
    if user.id != session.holder:
        target = ctx.catalogue.current().targets.get(session.target)  # None: it has left the catalogue meanwhile
        facts = Facts(ctx.clock.now(), level=session.level, requester=session.holder)
        authorise(ctx, user, Action.APPROVE, target, facts, spends=spends)
    if held is None or not session.is_live():
        raise NotFound(_NOTHING)
    if heard is not None and heard < ctx.clock.now() - ctx.limits.gateway_silent_after:
        raise NotFound(_GONE)
    return session, held, heard


def _silence(ctx: Context, heard: datetime | None) -> timedelta | None:
    return None if heard is None else max(ctx.clock.now() - heard, timedelta())


def _shown(ctx: Context, held: HeldCommit) -> tuple[Sequence[Write], Sequence[Under], int]:
    try:
        told = json.loads(ctx.sealer.unseal(held.sealed, bound(held)))
        writes = [Write(sql, "", tag) for sql, tag in told["writes"]]
        under = [Under(first, tuple((name, value) for name, value in settings)) for first, settings in told["under"]]
        return writes, under, told["changes"]
    except (ValueError, TypeError, KeyError):
        raise Unavailable(
            Refusal(
                "held-sealed",
                "This gateway cannot show what is held, so nobody answers it here.",
                next_steps=("Ask the gateway that holds the session, or call the gateway's operators.",),
            )
        ) from None
