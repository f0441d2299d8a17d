"""Emergency access: at once for the engineer on call, loud, with a review that somebody else must sign."""

from gateway.app.context import Context
from gateway.app.request_access import Ask, Outcome, request_access
from gateway.core.principal import User
from gateway.core.request import RequestKind


def break_glass(ctx: Context, user: User, ask: Ask) -> Outcome:
    """As `request_access`, decided as break-glass; everybody named by policy is told."""
    outcome = request_access(ctx, user, ask, RequestKind.BREAK_GLASS)
    obligations = outcome.request.obligations
    for channel in sorted(obligations.notify or {"default"}):
        ctx.notifier.notify(
            channel,
            f"Break-glass: {user.name} has {ask.level} on {ask.target}",
            ask.reason,
            {
                "grant": outcome.grant.id if outcome.grant else "",
                "request": outcome.request.id,
                "incident": ask.incident,
                "until": outcome.grant.window.not_after.isoformat() if outcome.grant else "",
                "review": f"gw review {outcome.grant.id}" if outcome.grant else "",
            },
        )
    return outcome
