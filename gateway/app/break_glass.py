"""Emergency access: at once for the engineer on call, loud, with a review that somebody else must sign."""

from gateway.app.context import Context
from gateway.app.request_access import Ask, Outcome, request_access
from gateway.core.emergency import DUTIES, BreakGlassOnly
from gateway.core.principal import User
from gateway.core.request import RequestKind


def break_glass(ctx: Context, who: User | BreakGlassOnly, ask: Ask) -> Outcome:
    """As `request_access`, decided as break-glass; somebody is told in any case."""
    if isinstance(who, BreakGlassOnly):
        return request_access(ctx, who.user, ask, RequestKind.BREAK_GLASS, (DUTIES,))
    return request_access(ctx, who, ask, RequestKind.BREAK_GLASS)
