"""A "no" to somebody who has proved nothing: an event, as for every other "no", but not without bound.

The log only grows, so whoever can write to it by knocking could fill it. Of one kind of event an address (a /64 of
IPv6) may cause so many within a window, and the last of them says that those after it are left out.
"""

from collections.abc import Callable

from gateway.app import attempts, journal
from gateway.app.context import Context
from gateway.app.place import origin_of
from gateway.core.errors import Denied, GatewayError, Refusal

MOST_TOLD = 100  # within `attempts.WINDOW`
_LONGEST_CLIENT = 200


def refuse_stranger(
    ctx: Context,
    client: str,
    type: str,
    refusal: Refusal,
    kind: Callable[[Refusal], GatewayError] = Denied,
    data: journal.Facts = journal.NOTHING,
    *,
    outcome: str = "denied",
    about: journal.About | None = None,
) -> GatewayError:
    """Store a "no" to whoever is at `client` (address, with a port or without), unless too many were stored already.

    The exception that carries it, for the caller to raise. `journal.refuse` is for people who are known.
    """
    said = {"client": client[:_LONGEST_CLIENT], **data, "code": refusal.code, "message": refusal.message}
    with ctx.store.begin() as uow:
        times = attempts.count(uow, f"told:{type}:{origin_of(client)}", ctx.clock.now())
        if times <= MOST_TOLD:
            said["is_last_told"] = times == MOST_TOLD
            journal.append(ctx, uow, type, outcome, said, **(about or {}))
    return kind(refusal)
