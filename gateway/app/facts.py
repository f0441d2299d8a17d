"""What policy is told: the rota and the incident as stored, never asked of a provider inside a request."""

from datetime import datetime

from gateway.app.context import Context
from gateway.app.ports import UnitOfWork
from gateway.core.decision import Facts
from gateway.core.incident import Incident
from gateway.core.principal import User
from gateway.core.rota import Freshness, RotaRules, freshness, on_call
from gateway.core.target import Target


def gather(
    ctx: Context,
    user: User,
    target: Target,
    level: str,
    incident_id: str,
    break_glass: bool,
    approvals: int,
    at: datetime,
) -> Facts:
    """The facts for one question about one person and one target, in one read of the store."""
    with ctx.store.read() as uow:
        return gather_in(uow, ctx, user, target, level, incident_id, break_glass, approvals, at)


def gather_in(
    uow: UnitOfWork,
    ctx: Context,
    user: User,
    target: Target,
    level: str,
    incident_id: str,
    break_glass: bool,
    approvals: int,
    at: datetime,
) -> Facts:
    """The same within a read that has begun."""
    slack = max(ctx.rota.grace_before, ctx.rota.grace_after)
    shifts = uow.shifts.covering(target.service, at, slack)
    incident = uow.incidents.get(incident_id) if incident_id else None
    return Facts(
        at=at,
        level=level,
        on_call=on_call(shifts, target.service, user.name, at, ctx.rota),
        incident_named=incident_id,
        incident=_believed(incident, at, ctx.rota),
        break_glass=break_glass,
        approvals=approvals,
    )


def _believed(incident: Incident | None, at: datetime, rules: RotaRules) -> Incident | None:
    """An incident is as perishable as a shift: what nobody has confirmed for a day is not known."""
    if incident is None:
        return None
    is_recent = freshness(incident.fetched_at, at, rules) in (Freshness.FRESH, Freshness.STALE)
    return incident if is_recent else None
