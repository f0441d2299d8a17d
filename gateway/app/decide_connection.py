"""The decision behind every connection, and behind every live session when a fact changes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.app import journal
from gateway.app.access_ports import GrantInUse
from gateway.app.context import Context
from gateway.app.facts import Question, gather_in
from gateway.app.level_change import is_changed, level_changed
from gateway.app.ports import UnitOfWork
from gateway.core.authentication import proof_of, unmet
from gateway.core.decision import Action, Decision, Deny, Facts, Permit, Query
from gateway.core.errors import Refusal
from gateway.core.grant import Grant
from gateway.core.request import RequestKind
from gateway.core.target import Target


@dataclass(frozen=True, slots=True)
class Judged:
    """A grant, a target as the catalogue had it, and what policy said of a connection, all of one read of the store."""

    grant: Grant
    target: Target
    decision: Decision


def judge_in(uow: UnitOfWork, ctx: Context, in_use: GrantInUse, target: Target) -> Judged:
    """For who is about to connect: good for `decide_connection` at once, and for nothing later."""
    return Judged(in_use.grant, target, _decide(uow, ctx, in_use, target))


def decide_connection(ctx: Context, grant: Grant, target: Target, judged: Judged | None = None) -> tuple[Grant, Permit]:
    """The grant as it is now and the permit for a connection under it; Denied with a `session:denied` event.

    `judged` is what was said of this very connection a moment ago, in the read that let the person in.
    """
    if judged is not None and judged.grant.id == grant.id and judged.target is target:
        grant, decision = judged.grant, judged.decision
    else:
        with ctx.store.read() as uow:
            in_use = uow.grants.in_use(grant.id)
            grant = in_use.grant if in_use else grant  # it may have been revoked since it was looked up
            decision = _decide(uow, ctx, in_use, target)
    if isinstance(decision, Deny):
        data = {"policies": list(decision.policies), "policy_set": decision.policy_set}
        raise journal.refuse(ctx, "session:denied", decision.refusal, **journal.about_grant(grant), data=data)
    return grant, decision


def decide_grant(ctx: Context, grant: Grant, target: Target) -> Decision:
    """What policy says of a grant's use now, with fresh facts. No event: the caller knows what it means."""
    with ctx.store.read() as uow:
        return _decide(uow, ctx, uow.grants.in_use(grant.id), target)


def _decide(uow: UnitOfWork, ctx: Context, in_use: GrantInUse | None, target: Target) -> Decision:
    if in_use is None or not in_use.holder.is_enabled():
        return _no(ctx, "user-disabled", "Your account is disabled here.")
    grant, holder = in_use.grant, in_use.holder
    if grant.level not in target.levels:
        return _no(ctx, "unknown-level", f"{target.name} no longer has a level {grant.level!r}.")
    if is_changed(target, grant.level, in_use.facts):
        return Deny(level_changed(grant.level, target.name, in_use.facts), (), ctx.policy.digest())
    decision = ctx.policy.decide(Query(holder, Action.CONNECT, target, _facts(uow, ctx, in_use, target)))
    if isinstance(decision, Permit) and decision.obligations.approvals > grant.approvals:
        return _no(ctx, "approval-missing", "Policy now asks for more approvals than this grant has; request again.")
    if isinstance(decision, Permit) and not _was_proven(decision, in_use):
        return _no(
            ctx, "proof-missing", "Policy now asks for a proof of who you are; run gw step-up and request again."
        )
    return decision


def _was_proven(permit: Permit, in_use: GrantInUse) -> bool:
    """A proof is demanded when access is asked for, and kept; a connection never asks again, so it never surprises.

    It is judged anew, as of then, so that a policy that became stricter ends what was given on less.
    """
    return unmet(permit.obligations, proof_of(in_use.facts.get("authentication")), in_use.requested_at) is None


def _facts(uow: UnitOfWork, ctx: Context, in_use: GrantInUse, target: Target) -> Facts:
    grant, at = in_use.grant, ctx.clock.now()
    glass = grant.kind is RequestKind.BREAK_GLASS
    facts = gather_in(
        uow, ctx, Question(in_use.holder, target, grant.level, at, grant.incident, glass, grant.approvals)
    )
    if facts.on_call and not facts.on_call.is_on_call and _was_on_call(in_use.facts) and facts.is_in_incident():
        # Nobody is thrown out in the middle of an incident because a shift ended: the grant's own end holds.
        return replace(facts, on_call=replace(facts.on_call, is_on_call=True, level=1))
    return facts


def _was_on_call(facts: Mapping[str, object]) -> bool:
    told = facts.get("on_call")
    return isinstance(told, Mapping) and told.get("is_on_call") is True


def _no(ctx: Context, code: str, message: str) -> Deny:
    return Deny(Refusal(code, message), (), ctx.policy.digest())
