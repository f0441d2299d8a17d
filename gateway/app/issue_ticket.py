"""A ticket ties connections to one grant: a short-lived password at a door that is worth nothing without it."""

from dataclasses import dataclass, field
from datetime import datetime

from gateway.app import journal
from gateway.app.authorise import find_target
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.open_session import grant_for
from gateway.app.people_ports import Credential
from gateway.app.ticket_proof import VERIFIER, verifier_for
from gateway.core.emergency import BreakGlassOnly
from gateway.core.principal import User
from gateway.core.request import RequestKind
from gateway.core.target import Kind

PREFIX = "gwt_"  # lets secret scanners find a leaked one


@dataclass(frozen=True, slots=True)
class Ticket:
    """`secret` is shown once. `expires_at` bounds new connections; the grant bounds all of them.

    `kind` says at which door it is worth something.
    """

    secret: str = field(repr=False)
    user_name: str
    target: str
    level: str
    grant: str
    expires_at: datetime
    kind: Kind


def issue_ticket(
    ctx: Context, who: User | BreakGlassOnly, target: str, level: str = "", *, single_use: bool = False
) -> Ticket:
    """A ticket for one of the person's active grants on a target. Raises Denied or NotFound.

    Whoever came in to break the glass gets one for what that gave, and for no other grant that the person may have.
    """
    user, kind = (who.user, RequestKind.BREAK_GLASS) if isinstance(who, BreakGlassOnly) else (who, None)
    found = find_target(ctx, user, target, "ticket:denied")
    grant = grant_for(ctx, user, target, level, kind)
    at = ctx.clock.now()
    expires_at = min(at + ctx.limits.ticket_lifetime, grant.window.not_after)
    secret = PREFIX + ctx.ids.secret()
    about = {"grant": grant.id, "target": target}
    if found.kind is Kind.POSTGRES:
        about[VERIFIER] = verifier_for(secret, user.name, target)
    credential = Credential(digest_of(secret), "ticket", user.id, at, expires_at, single_use, data=about)
    with ctx.store.begin() as uow:
        uow.credentials.add(credential)
        data = {"expires_at": expires_at.isoformat(), "single_use": single_use}
        noted = journal.append(ctx, uow, "ticket:issued", **journal.about_grant(grant), data=data)
    journal.confirm_logged(ctx, noted)  # and with it every earlier event, the grant's among them
    return Ticket(secret, user.name, target, grant.level, grant.id, expires_at, found.kind)
