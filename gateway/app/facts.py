"""What policy is told: the rota and the incident as stored, never asked of a provider inside a request."""

from dataclasses import dataclass
from datetime import datetime

from gateway.app.context import Context
from gateway.app.ports import UnitOfWork
from gateway.core.decision import Facts
from gateway.core.incident import Incident
from gateway.core.principal import User
from gateway.core.rota import Freshness, RotaRules, freshness, on_call
from gateway.core.target import Target


@dataclass(frozen=True, slots=True)
class Question:
    """What facts are gathered for: one person, one target, a level of it ("" where there is none), an instant."""

    user: User
    target: Target
    level: str
    at: datetime
    incident: str = ""
    break_glass: bool = False
    approvals: int = 0


def gather(ctx: Context, asked: Question) -> Facts:
    """The facts for one question, in one read of the store."""
    with ctx.store.read() as uow:
        return gather_in(uow, ctx, asked)


def gather_in(uow: UnitOfWork, ctx: Context, asked: Question) -> Facts:
    """The same within a read that has begun."""
    target, at = asked.target, asked.at
    slack = max(ctx.rota.grace_before, ctx.rota.grace_after)
    shifts = uow.shifts.covering(target.service, at, slack)
    incident = uow.incidents.get(asked.incident) if asked.incident else None
    return Facts(
        at=at,
        level=asked.level,
        on_call=on_call(shifts, target.service, asked.user.name, at, ctx.rota),
        incident_named=asked.incident,
        incident=_believed(incident, at, ctx.rota),
        break_glass=asked.break_glass,
        approvals=asked.approvals,
    )


def _believed(incident: Incident | None, at: datetime, rules: RotaRules) -> Incident | None:
    """An incident is as perishable as a shift: what nobody has confirmed for a day is not known."""
    if incident is None:
        return None
    is_recent = freshness(incident.fetched_at, at, rules) in (Freshness.FRESH, Freshness.STALE)
    return incident if is_recent else None
