"""Hold the input of one live session back, or let it through again; its output goes on, its grant stays as it is.

The mark is stored, and the gateway that holds the connection acts on it: whoever asks may talk to another gateway.
"""

from gateway.app import journal
from gateway.app.authorise import authorise
from gateway.app.context import Context
from gateway.core.decision import Action, Facts
from gateway.core.errors import Conflict, NotFound, Refusal
from gateway.core.principal import User
from gateway.core.session import Session, lock


def lock_session(ctx: Context, user: User, session_id: str, *, locked: bool, reason: str = "") -> Session:
    """Whoever may end a session may lock it. Raises NotFound, Denied, Conflict (over, so already, not possible)."""
    with ctx.store.read() as uow:
        session = uow.sessions.get(session_id)
    if session is None:
        raise NotFound(Refusal("unknown-session", "There is no such session.", next_steps=("gw sessions lists them.",)))
    target = ctx.catalogue.current().targets.get(session.target)  # None: it has left the catalogue meanwhile
    authorise(ctx, user, Action.KILL, target, Facts(ctx.clock.now(), level=session.level, requester=session.holder))
    about: journal.About = {**journal.about_session(session), "principal": user.name}
    changed = lock(session, user.id, user.name, locked=locked)
    if isinstance(changed, Refusal) and changed.code == "own-session":
        raise journal.refuse(ctx, "session:unlock-denied", changed, **about)
    if isinstance(changed, Refusal):
        raise Conflict(changed)
    data = {"reason": reason.strip()[:500], "holder": session.holder_name}
    with ctx.store.begin() as uow:
        if not uow.sessions.lock(session_id, changed.locked_by):
            raise Conflict(Refusal("lock-unchanged", "Somebody else was faster; gw session show says how it is now."))
        type_ = "session:locked" if locked else "session:unlocked"
        noted = journal.append(ctx, uow, type_, data=data, **about)
    ctx.wake()
    journal.confirm_logged(ctx, noted)
    return changed
