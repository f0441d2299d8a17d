"""Cancel the statement that one live database session runs; the session goes on, and so does its grant.

The wish is stored, and the gateway that holds the connection acts on it: whoever asks may talk to another gateway.
"""

from gateway.app import journal
from gateway.app.authorise import authorise
from gateway.app.context import Context
from gateway.core.decision import Action, Facts
from gateway.core.errors import Conflict, NotFound, Refusal
from gateway.core.principal import User
from gateway.core.session import Cancel, Session, cancel


def cancel_statement(ctx: Context, user: User, session_id: str, *, n: int = 0, reason: str = "") -> Session:
    """Statement `n`, if it still runs then; 0 for what runs now. Whoever may end a session may do this.

    Raises NotFound, Denied, Conflict (over already, no database session).
    """
    with ctx.store.read() as uow:
        session = uow.sessions.get(session_id)
    if session is None:
        raise NotFound(Refusal("unknown-session", "There is no such session.", next_steps=("gw sessions lists them.",)))
    target = ctx.catalogue.current().targets.get(session.target)  # None: it has left the catalogue meanwhile
    authorise(ctx, user, Action.KILL, target, Facts(ctx.clock.now(), level=session.level, requester=session.holder))
    changed = cancel(session, Cancel(ctx.ids.secret(), user.name, n))
    if isinstance(changed, Refusal):
        raise Conflict(changed)
    wish = changed.cancel
    assert wish is not None
    with ctx.store.begin() as uow:
        if not uow.sessions.request_cancel(session_id, wish):
            raise Conflict(Refusal("session-over", "That session is over already."))
        about: journal.About = {**journal.about_session(session), "principal": user.name}
        data = {"statement": wish.n, "reason": reason.strip()[:500], "holder": session.holder_name}
        noted = journal.append(ctx, uow, "statement:cancel-requested", **about, data=data)
    ctx.wake()
    journal.confirm_logged(ctx, noted)
    return changed
