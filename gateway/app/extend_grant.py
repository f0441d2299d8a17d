"""Let a grant last longer without a reconnect: policy decides anew, as it does of a request."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from gateway.app import journal
from gateway.app.authorise import find_level, find_target
from gateway.app.context import Context
from gateway.app.demand_proof import missing_proof, spend_proof
from gateway.app.facts import Question, gather
from gateway.app.level_change import is_changed, level_changed
from gateway.app.request_access import within_duty
from gateway.app.target_ports import Lease
from gateway.core.decision import Action, Deny, Facts, Permit, Query
from gateway.core.errors import Conflict, Denied, GatewayError, NotFound, Refusal
from gateway.core.grant import Grant, extend
from gateway.core.principal import User
from gateway.core.target import Kind, Target

_UNKNOWN = Refusal("unknown-grant", "There is no such grant.", next_steps=("gw grants lists yours.",))
_FASTER = Refusal("grant-changed", "This grant was revoked or extended meanwhile.", next_steps=("gw grants",))


def extend_grant(ctx: Context, user: User, grant_id: str, duration: timedelta) -> Grant:
    """The holder's own grant, ending `duration` from now at most; its live sessions go on under the new deadline.

    Raises NotFound (also for somebody else's), Denied with its event, Conflict (changed meanwhile) or Unavailable.
    """
    with ctx.store.read() as uow:
        in_use = uow.grants.in_use(grant_id)
    if in_use is None or in_use.grant.holder != user.id:
        raise NotFound(_UNKNOWN)
    grant = in_use.grant
    target = find_target(ctx, user, grant.target, "grant:extension-denied")
    find_level(ctx, user, target, grant.level, "grant:extension-denied")
    if is_changed(target, grant.level, in_use.facts):  # a longer yes would be to something else
        other = level_changed(grant.level, target.name, in_use.facts)
        raise journal.refuse(ctx, "grant:extension-denied", other, Denied, **journal.about_grant(grant))
    at = ctx.clock.now()
    permit, facts = _decide(ctx, user, grant, target, at)
    wanted = within_duty(duration, facts, at)
    extended = extend(grant, permit.obligations, wanted, at, ctx.limits.longest_grant)
    if isinstance(extended, Refusal):
        raise _refuse(ctx, grant, extended, permit)
    unproven = missing_proof(ctx, user, permit.obligations, at)
    if unproven is not None:
        raise _refuse(ctx, grant, unproven, permit)
    with ctx.store.begin() as uow:
        spend_proof(uow, user, permit.obligations, at)
    with ctx.logins.turn(grant.id, target.name):  # a role that is being made now is extended, too
        if target.kind is Kind.POSTGRES:
            _extend_roles(ctx, extended, target)
        noted = _store(ctx, extended, grant.window.not_after, permit)
    ctx.wake()
    journal.confirm_logged(ctx, noted)
    return extended


def _decide(ctx: Context, user: User, grant: Grant, target: Target, at: datetime) -> tuple[Permit, Facts]:
    facts = gather(ctx, Question(user, target, grant.level, at, grant.incident))
    decision = ctx.policy.decide(Query(user, Action.CONNECT, target, facts))
    if isinstance(decision, Deny):
        raise _refuse(ctx, grant, decision.refusal, decision)
    return decision, facts


def _refuse(ctx: Context, grant: Grant, refusal: Refusal, decision: Permit | Deny) -> GatewayError:
    data = {"policies": list(decision.policies), "policy_set": decision.policy_set, "facts": dict(decision.facts)}
    return journal.refuse(ctx, "grant:extension-denied", refusal, Denied, data, **journal.about_grant(grant))


def _extend_roles(ctx: Context, grant: Grant, target: Target) -> None:
    """First the roles, then the grant: if the second fails, a role is dropped with its grant all the same."""
    with ctx.store.read() as uow:
        leases = [lease for lease in uow.leases.by_grant(grant.id) if lease.state == "active"]
    for lease in leases:
        data = {"lease": lease.id, "role": lease.name, "not_after": grant.window.not_after.isoformat()}
        journal.act(ctx, "lease:extended", _extension(ctx, lease, grant, target), data, **journal.about_grant(grant))


def _extension(ctx: Context, lease: Lease, grant: Grant, target: Target) -> Callable[[], None]:
    def effect() -> None:
        ctx.roles.extend(target, lease.name, grant.window.not_after)
        with ctx.store.begin() as uow:
            uow.leases.save(replace(lease, expires_at=grant.window.not_after))

    return effect


def _store(ctx: Context, grant: Grant, was: datetime, permit: Permit) -> str:
    data = {
        "was": was.isoformat(),
        "not_after": grant.window.not_after.isoformat(),
        "policies": list(permit.policies),
        "policy_set": permit.policy_set,
        "facts": dict(permit.facts),
    }
    with ctx.store.begin() as uow:
        if not uow.grants.extend(grant, was):
            raise Conflict(_FASTER)
        return journal.append(ctx, uow, "grant:extended", data=data, **journal.about_grant(grant))
