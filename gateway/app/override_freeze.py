"""An override is a break-glass: a grant for one verb, told to everybody, with a review that somebody else must sign.

The grant's level is `verb:NAME`, which is no level of any target, so that it opens no session.
"""

from dataclasses import replace

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.ports import UnitOfWork
from gateway.app.request_access import Outcome, announce, grant_in
from gateway.core.decision import Permit
from gateway.core.errors import Refusal
from gateway.core.obligation import Obligations, merge
from gateway.core.request import Request, RequestKind, RequestState, validate_ask
from gateway.core.rollout import Run


def wrong_reason(ctx: Context, run: Run) -> Refusal | None:
    """An override needs a reason, as any broken glass does."""
    return validate_ask(run.deadline - run.started_at, run.reason, ctx.limits.longest_grant)


def break_glass_in(ctx: Context, uow: UnitOfWork, run: Run, permit: Permit) -> tuple[Run, Outcome]:
    """The run with its grant; both are stored with it, or not at all. Tell of it once that is done: `announce`."""
    duties = merge((permit.obligations, Obligations(review=True)))
    request = Request(
        id=ctx.ids.new("req"),
        requester=run.principal,
        requester_name=run.principal_name,
        target=run.targets[0],
        level=f"verb:{run.verb}",
        duration=run.deadline - run.started_at,
        reason=run.reason,
        incident=run.incident,
        kind=RequestKind.BREAK_GLASS,
        created_at=run.started_at,
        obligations=duties,
        policies=permit.policies,
        policy_set=permit.policy_set,
        facts=permit.facts,
    )
    uow.requests.add(request)
    data = {"level": request.level, "incident": run.incident, "reason": run.reason, "kind": request.kind.value}
    told = {**data, "run": run.id, "targets": list(run.targets), "policies": list(permit.policies)}
    about: journal.About = {"principal": run.principal_name, "target": request.target, "request": request.id}
    journal.append(ctx, uow, "request:created", data=told, **about)
    grant, _events = grant_in(ctx, uow, request, run.started_at)
    granted = Outcome(replace(request, state=RequestState.GRANTED), grant, permit)
    return replace(run, grant=grant.id), granted


__all__ = ["announce", "break_glass_in", "wrong_reason"]
