"""A COMMIT at a dry-run level, seen from the door: is there a yes to what was written? If not it is held.

The answer is read from the store each time, so that it may have been given to any gateway.
"""

import json
from collections.abc import Mapping

from gateway.app import attempts, journal
from gateway.app.commit_ports import Asking, Told
from gateway.app.context import Context
from gateway.core.dry_run import Confirm
from gateway.core.errors import Refusal
from gateway.core.held_commit import HeldCommit, HeldState, held_again
from gateway.core.session import Session

MOST_HELD = 30  # states of transactions that are held for one grant within `attempts.WINDOW`
MOST_LEFT = 100  # that one step looks at
_TOO_OFTEN = Refusal(
    "held-too-often",
    f"More than {MOST_HELD} commits were held for this grant in ten minutes, so nobody is asked about this one yet",
)


def ask_commit(ctx: Context, session: Session, asking: Asking) -> Told:
    """Whether it may pass now. What is held is stored with its event, once for each state of a transaction, and those
    who are told of requests are told of it. Raises Unavailable: then it may not.
    """
    with ctx.store.read() as uow:
        known = uow.held.get(session.id)
    if known is not None and known == held_again(known, _held(ctx, session, asking, sealed="")):
        return _told(known)
    now = _held(ctx, session, asking, _sealed(ctx, session, asking))
    with ctx.store.begin() as uow:
        counts = held_again(uow.held.get(session.id), now)
        if counts is not now:
            return _told(counts)
        times = attempts.count(uow, f"held:{session.grant}", ctx.clock.now())
        if times > MOST_HELD:
            if times == MOST_HELD + 1:  # the others are as it is
                told = {**_about(now), "code": _TOO_OFTEN.code, "message": _TOO_OFTEN.message}
                journal.append(ctx, uow, "transaction:held", "denied", told, **journal.about_session(session))
            return Told(may_pass=False, waits=_TOO_OFTEN.message)
        uow.held.put(now)
        journal.append(ctx, uow, "transaction:held", data=_about(now), **journal.about_session(session))
    if now.confirm is Confirm.APPROVER:
        _announce(ctx, session, now)
    return _told(now)


def end_held(ctx: Context, session: Session, tx: int, outcome: str) -> None:
    """The transaction that was held is over: `committed`, `rolled-back` or, with its session, `lost`."""
    with ctx.store.begin() as uow:
        if uow.held.remove(session.id, tx):
            data = {"tx": tx, "outcome": outcome, "level": session.level}
            journal.append(ctx, uow, "transaction:ended", data=data, **journal.about_session(session))


def lose_held(ctx: Context, session: Session) -> None:
    """Nobody knows how it ended: what was confirmed may have been committed, all else the database rolls back."""
    with ctx.store.read() as uow:
        held = uow.held.get(session.id)
    if held is not None:
        end_held(ctx, session, held.tx, "unknown" if held.state is HeldState.CONFIRMED else "lost")


class LeftHeld:
    """What is still held of sessions that are over: its end could not be stored, and nobody is left who would.

    It must be there twice in a row, as a gateway may be about to tell how it ended, which it alone knows.
    """

    def __init__(self) -> None:
        self._seen: frozenset[tuple[str, int]] = frozenset()

    def step(self, ctx: Context) -> int:
        """End what was left at the last step and still is; how many. Call it every minute or so."""
        with ctx.store.read() as uow:
            left = {(held.session, held.tx): uow.sessions.get(held.session) for held in uow.held.of_ended(MOST_LEFT)}
        ended = self._seen & left.keys()
        self._seen = frozenset(left.keys() - ended)
        for of in ended:
            session = left[of]
            if session is not None:
                lose_held(ctx, session)
        return len(ended)


def bound(held: HeldCommit) -> str:
    """What the sealed statements belong to."""
    return f"held commit {held.mark} of {held.session}"


def _held(ctx: Context, session: Session, asking: Asking, sealed: str) -> HeldCommit:
    return HeldCommit(
        session.id, asking.tx, asking.mark, ctx.clock.now(), asking.confirm, asking.statements, asking.rows, sealed
    )


def _sealed(ctx: Context, session: Session, asking: Asking) -> str:
    told = {
        "writes": [[write.sql, write.tag] for write in asking.writes],
        "under": [[under.first, under.settings] for under in asking.under],
        "changes": asking.changes,
    }
    return ctx.sealer.seal(json.dumps(told, ensure_ascii=False), bound(_held(ctx, session, asking, "")))


def _told(held: HeldCommit) -> Told:
    return Told(held.state is HeldState.CONFIRMED, held.state is HeldState.REFUSED, held.decided_by, held.reason)


def _about(held: HeldCommit) -> Mapping[str, object]:
    return {
        "tx": held.tx,
        "mark": held.mark,
        "confirm": held.confirm.value,
        "statements": held.statements,
        "rows": held.rows,
    }


def _announce(ctx: Context, session: Session, held: HeldCommit) -> None:
    with ctx.store.read() as uow:
        grant = uow.grants.get(session.grant)
        request = uow.requests.get(grant.request) if grant else None
    if request is None:
        return
    title = f"{session.holder_name} wants to commit on {session.target} ({session.level})"
    body = f"{held.statements} statements, {held.rows} rows; reason of the access: {request.reason}"
    fields = {
        "session": session.id,
        "request": request.id,
        "incident": request.incident,
        "look": f"gw session commit {session.id}",
    }
    for channel in sorted(request.obligations.notify):
        ctx.notifier.notify(channel, title, body, fields)
