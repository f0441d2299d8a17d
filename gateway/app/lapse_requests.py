"""A request that nobody answered in time is over; whoever still wants access asks again, on today's facts."""

from datetime import datetime

from gateway.app import journal
from gateway.app.context import Context
from gateway.core.errors import Refusal
from gateway.core.request import PENDING_FOR, RequestState, settle


def lapse_requests(ctx: Context, at: datetime) -> int:
    """Move waiting requests past their time to `lapsed`, each with its event; how many."""
    with ctx.store.read() as uow:
        waiting = [r for r in uow.requests.list(state=RequestState.PENDING) if at >= r.created_at + PENDING_FOR]
    lapsed = 0
    for request in waiting:
        over = settle(request, RequestState.LAPSED)
        if isinstance(over, Refusal):
            continue
        with ctx.store.begin() as uow:
            if uow.requests.save(over, RequestState.PENDING):
                about: journal.About = {
                    "principal": request.requester_name,
                    "target": request.target,
                    "request": request.id,
                }
                journal.append(ctx, uow, "request:lapsed", data={"level": request.level}, **about)
                lapsed += 1
    return lapsed
