"""End a grant early. Its sessions end within a second and its leases are dropped, by the supervisor."""

from gateway.app import journal
from gateway.app.authorise import authorise
from gateway.app.context import Context
from gateway.core.decision import Action, Facts
from gateway.core.errors import Conflict, NotFound, Refusal
from gateway.core.grant import Grant, revoke
from gateway.core.principal import User


def revoke_grant(ctx: Context, user: User, grant_id: str, reason: str = "") -> Grant:
    """The revoked grant. Raises NotFound, Denied (not yours, no right) or Conflict (over already)."""
    at = ctx.clock.now()
    with ctx.store.read() as uow:
        grant = uow.grants.get(grant_id)
    if grant is None:
        raise NotFound(Refusal("unknown-grant", "There is no such grant.", next_steps=("gw grants lists them.",)))
    target = ctx.catalogue.current().targets.get(grant.target)  # None: it has left the catalogue meanwhile
    authorise(ctx, user, Action.REVOKE, target, Facts(at, level=grant.level, requester=grant.holder))
    revoked = revoke(grant, at, user.id, reason.strip()[:500])
    if isinstance(revoked, Refusal):
        raise Conflict(revoked)
    with ctx.store.begin() as uow:
        if not uow.grants.save(revoked):
            raise Conflict(Refusal("grant-over", f"Grant {grant_id} is revoked already."))
        about: journal.About = {**journal.about_grant(grant), "principal": user.name}
        noted = journal.append(ctx, uow, "grant:revoked", **about, data={"reason": reason, "holder": grant.holder_name})
    ctx.wake()
    journal.confirm_logged(ctx, noted)
    return revoked
