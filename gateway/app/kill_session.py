"""End one live session and leave its grant as it is."""

from gateway.app import journal
from gateway.app.authorise import authorise
from gateway.app.context import Context
from gateway.core.decision import Action, Facts
from gateway.core.errors import Conflict, NotFound, Refusal
from gateway.core.principal import User
from gateway.core.session import Session


def kill_session(ctx: Context, user: User, session_id: str, reason: str = "") -> Session:
    """Mark for ending by the gateway that holds it. Raises NotFound, Denied or Conflict (over already)."""
    with ctx.store.read() as uow:
        session = uow.sessions.get(session_id)
    if session is None:
        raise NotFound(Refusal("unknown-session", "There is no such session.", next_steps=("gw sessions lists them.",)))
    target = ctx.catalogue.current().targets.get(session.target)  # None: it has left the catalogue meanwhile
    authorise(ctx, user, Action.KILL, target, Facts(ctx.clock.now(), level=session.level, requester=session.holder))
    with ctx.store.begin() as uow:
        if not uow.sessions.request_kill(session_id, user.name):
            raise Conflict(Refusal("session-ending", "That session is over, or being ended already."))
        about: journal.About = {**journal.about_session(session), "principal": user.name}
        data = {"reason": reason.strip()[:500], "holder": session.holder_name}
        noted = journal.append(ctx, uow, "session:kill-requested", **about, data=data)
    ctx.wake()
    journal.confirm_logged(ctx, noted)
    return session
