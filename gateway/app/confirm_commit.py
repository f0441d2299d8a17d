"""Somebody looks at a COMMIT that is held, and says yes or no to it.

The engineer where the level says `self`, else whoever may approve such an access, and never the engineer. A no may come
from either.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.app import journal
from gateway.app.authorise import authorise
from gateway.app.context import Context
from gateway.app.hold_commit import bound
from gateway.core.decision import Action, Facts
from gateway.core.dry_run import Write
from gateway.core.errors import Conflict, Denied, NotFound, Refusal, Unavailable
from gateway.core.held_commit import HeldCommit, HeldState, decide, may_decide
from gateway.core.principal import User
from gateway.core.session import Session

_NOTHING = Refusal(
    "nothing-held",
    "No COMMIT of that session is held.",
    next_steps=("COMMIT in the session is held once something was written there.",),
)
_EVENTS = {HeldState.CONFIRMED: "transaction:confirmed", HeldState.REFUSED: "transaction:refused"}


@dataclass(frozen=True, slots=True)
class HeldView:
    """What somebody sees who decides: `writes` are the first of the statements, as far as the gateway knows them."""

    session: Session
    held: HeldCommit
    writes: Sequence[Write]


def show_held(ctx: Context, user: User, session_id: str) -> HeldView:
    """Raises NotFound (no such session, nothing held), Denied, Unavailable. That others looked is in the log."""
    session, held = _find(ctx, user, session_id, spends=False)
    if user.id != session.holder:
        data = {"tx": held.tx, "mark": held.mark, "holder": session.holder_name}
        about: journal.About = {**journal.about_session(session), "principal": user.name}
        journal.confirm_logged(ctx, journal.record(ctx, "transaction:shown", data=data, **about))
    return HeldView(session, held, _writes(ctx, held))


def answer_held(ctx: Context, user: User, session_id: str, mark: str, state: HeldState, reason: str = "") -> HeldView:
    """Say yes or no to what `mark` stands for. Raises as `show_held`, and Conflict (it has changed, or is decided)."""
    session, held = _find(ctx, user, session_id, spends=True)
    about: journal.About = {**journal.about_session(session), "principal": user.name}
    wrong = may_decide(held, state, session.holder, user.id)
    if wrong is not None:
        raise journal.refuse(ctx, _EVENTS[state], wrong, Denied, **about)
    writes = _writes(ctx, held)  # nobody answers what cannot be shown
    at, why = ctx.clock.now(), reason.strip()[:500]
    with ctx.store.begin() as uow:
        current, fresh = uow.held.get(session_id), uow.sessions.get(session_id)
        if current is None or current.tx != held.tx or fresh is None or not fresh.is_live():
            raise Conflict(_NOTHING)
        decided = decide(current, mark, state, user.name, at, why)
        if isinstance(decided, Refusal):
            raise Conflict(decided)
        uow.held.put(decided)
        data = {
            "tx": held.tx, "mark": mark, "holder": session.holder_name, "reason": why,
            "statements": decided.statements, "rows": decided.rows,
        }  # fmt: skip
        noted = journal.append(ctx, uow, _EVENTS[state], data=data, **about)
    try:
        journal.confirm_logged(ctx, noted)
    except Unavailable:
        _take_back(ctx, decided)
        raise
    return HeldView(session, decided, writes)


def _take_back(ctx: Context, decided: HeldCommit) -> None:
    """A yes that the log does not confirm is none; a no stays."""
    if decided.state is not HeldState.CONFIRMED:
        return
    with ctx.store.begin() as uow:
        if uow.held.get(decided.session) == decided:
            uow.held.put(replace(decided, state=HeldState.WAITING, decided_by="", decided_at=None, reason=""))


def _find(ctx: Context, user: User, session_id: str, *, spends: bool) -> tuple[Session, HeldCommit]:
    with ctx.store.read() as uow:
        session, held = uow.sessions.get(session_id), uow.held.get(session_id)
    if session is None:
        raise NotFound(Refusal("unknown-session", "There is no such session.", next_steps=("gw sessions lists them.",)))
    if user.id != session.holder:
        target = ctx.catalogue.current().targets.get(session.target)  # None: it has left the catalogue meanwhile
        facts = Facts(ctx.clock.now(), level=session.level, requester=session.holder)
        authorise(ctx, user, Action.APPROVE, target, facts, spends=spends)
    if held is None or not session.is_live():
        raise NotFound(_NOTHING)
    return session, held


def _writes(ctx: Context, held: HeldCommit) -> Sequence[Write]:
    try:
        told = json.loads(ctx.sealer.unseal(held.sealed, bound(held)))
        return [Write(sql, "", tag) for sql, tag in told]
    except ValueError:
        raise Unavailable(
            Refusal(
                "held-sealed",
                "This gateway cannot show what is held, so nobody answers it here.",
                next_steps=("Ask the gateway that holds the session, or call the gateway's operators.",),
            )
        ) from None
