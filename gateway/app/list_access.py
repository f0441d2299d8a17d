"""What there is to ask for, and what one has: the lists behind `gw targets`, `grants`, `requests` and `sessions`.

Others' are listed where one may watch, with the proof that policy demands for that. A list uses no proof up, so it
shows nothing of what one would watch where each look takes a proof of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.app.api_tokens import READ_ACCESS, demand_scope
from gateway.app.context import Context
from gateway.app.demand_proof import missing_proof
from gateway.app.facts import Question, gather
from gateway.core.decision import Action, Decision, Facts, Permit, Query
from gateway.core.grant import Grant
from gateway.core.obligation import StepUp
from gateway.core.principal import Machine, User
from gateway.core.request import Request
from gateway.core.session import Session
from gateway.core.target import Level, Target


@dataclass(frozen=True, slots=True)
class LevelView:
    """One level and what policy would say if it were asked for now."""

    level: Level
    decision: Decision


@dataclass(frozen=True, slots=True)
class TargetView:
    target: Target
    levels: tuple[LevelView, ...]


def targets(ctx: Context, user: User, incident: str = "") -> Sequence[TargetView]:
    """Every target with the decision per level, as of now, under an incident if one is named (else any open one)."""
    return [
        TargetView(
            target, tuple(LevelView(level, _would(ctx, user, target, level, incident)) for level in _ranked(target))
        )
        for _, target in sorted(ctx.catalogue.current().targets.items())
    ]


def grants(ctx: Context, user: User | Machine, *, all: bool = False) -> Sequence[Grant]:
    """One's own grants, or also others' where one may watch; to a machine, everybody's."""
    with ctx.store.read() as uow:
        found = uow.grants.list(holder="" if all or _is_reader(user) else user.id)
    watched = _watched(ctx, user, {(grant.target, grant.level) for grant in found if grant.holder != user.id})
    return [grant for grant in found if grant.holder == user.id or (grant.target, grant.level) in watched]


def requests(ctx: Context, user: User | Machine, *, all: bool = False) -> Sequence[Request]:
    """One's own requests, or also others' where one may watch; to a machine, everybody's."""
    with ctx.store.read() as uow:
        found = uow.requests.list(requester="" if all or _is_reader(user) else user.id)
    watched = _watched(
        ctx, user, {(request.target, request.level) for request in found if request.requester != user.id}
    )
    return [request for request in found if request.requester == user.id or (request.target, request.level) in watched]


def sessions(ctx: Context, user: User | Machine, *, all: bool = False, live: bool | None = None) -> Sequence[Session]:
    """One's own sessions, or also others' where one may watch; to a machine, everybody's."""
    with ctx.store.read() as uow:
        found = uow.sessions.list(holder="" if all or _is_reader(user) else user.id, live=live)
    watched = _watched(ctx, user, {(session.target, session.level) for session in found if session.holder != user.id})
    return [session for session in found if session.holder == user.id or (session.target, session.level) in watched]


def sees(ctx: Context, user: User, holder: str, target: str, level: str) -> bool:
    """True for one's own, and for whoever may watch sessions on that target at that level."""
    return holder == user.id or bool(_watched(ctx, user, {(target, level)}))


def is_a_look_each(ctx: Context, user: User, target: str, level: str) -> bool:
    """True where each look at others' sessions takes a proof of its own, which no list takes, or is not permitted."""
    known, at = ctx.catalogue.current().targets, ctx.clock.now()
    decision = ctx.policy.decide(Query(user, Action.WATCH, known.get(target), Facts(at, level=level)))
    return not isinstance(decision, Permit) or decision.obligations.step_up is StepUp.EACH


def _is_reader(user: User | Machine) -> bool:
    """True for a machine whose token is for that; Denied for another machine."""
    if isinstance(user, User):
        return False
    demand_scope(user, READ_ACCESS)
    return True


def _watched(ctx: Context, user: User | Machine, places: set[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Those targets and levels where one may watch others: policy hears the same of them as for a single session."""
    if isinstance(user, Machine):
        return frozenset(places)
    known, at = ctx.catalogue.current().targets, ctx.clock.now()
    return frozenset(of for of in places if _may_watch(ctx, user, known.get(of[0]), of[1], at))


def _may_watch(ctx: Context, user: User, target: Target | None, level: str, at: datetime) -> bool:
    decision = ctx.policy.decide(Query(user, Action.WATCH, target, Facts(at, level=level)))
    return isinstance(decision, Permit) and missing_proof(ctx, user, decision.obligations, at) is None


def _would(ctx: Context, user: User, target: Target, level: Level, incident: str) -> Decision:
    at = ctx.clock.now()
    if not incident:
        with ctx.store.read() as uow:
            incident = next((i.id for i in uow.incidents.list() if i.service == target.service and i.is_open(at)), "")
    facts = gather(ctx, Question(user, target, level.name, at, incident))
    return ctx.policy.decide(Query(user, Action.CONNECT, target, facts))


def _ranked(target: Target) -> list[Level]:
    return sorted(target.levels.values(), key=lambda level: level.rank)
