"""Emergency access: at once for the engineer on call, loud, with a review that somebody else must sign."""

from gateway.app.context import Context
from gateway.app.request_access import Ask, Outcome, request_access
from gateway.core.principal import User
from gateway.core.request import RequestKind


def break_glass(ctx: Context, user: User, ask: Ask) -> Outcome:
    """As `request_access`, decided as break-glass; somebody is told in any case."""
    return request_access(ctx, user, ask, RequestKind.BREAK_GLASS)
