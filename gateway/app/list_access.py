"""What there is to ask for, and what one has: the lists behind `gw targets`, `grants`, `requests` and `sessions`."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.app.context import Context
from gateway.app.facts import gather
from gateway.core.decision import Action, Decision, Facts, Permit, Query
from gateway.core.grant import Grant
from gateway.core.principal import User
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


def grants(ctx: Context, user: User, *, all: bool = False) -> Sequence[Grant]:
    """One's own grants, or everybody's for those who may see the log."""
    with ctx.store.read() as uow:
        return uow.grants.list(holder="" if all and may_see_all(ctx, user) else user.id)


def requests(ctx: Context, user: User, *, all: bool = False) -> Sequence[Request]:
    """One's own requests, or everybody's for those who may see the log."""
    with ctx.store.read() as uow:
        return uow.requests.list(requester="" if all and may_see_all(ctx, user) else user.id)


def sessions(ctx: Context, user: User, *, all: bool = False, live: bool | None = None) -> Sequence[Session]:
    """One's own sessions, or everybody's for those who may see the log."""
    with ctx.store.read() as uow:
        return uow.sessions.list(holder="" if all and may_see_all(ctx, user) else user.id, live=live)


def may_see_all(ctx: Context, user: User) -> bool:
    """True for whoever may read the audit log."""
    decision = ctx.policy.decide(Query(user, Action.AUDIT, None, Facts(ctx.clock.now())))
    return isinstance(decision, Permit)


def _would(ctx: Context, user: User, target: Target, level: Level, incident: str) -> Decision:
    at = ctx.clock.now()
    if not incident:
        with ctx.store.read() as uow:
            incident = next((i.id for i in uow.incidents.list() if i.service == target.service and i.is_open(at)), "")
    facts = gather(ctx, user, target, level.name, incident, False, 0, at)
    return ctx.policy.decide(Query(user, Action.CONNECT, target, facts))


def _ranked(target: Target) -> list[Level]:
    return sorted(target.levels.values(), key=lambda level: level.rank)
