"""Ask policy and turn a Deny into Denied, with its event, in one place."""

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.demand_proof import missing_proof, spend_proof
from gateway.core.decision import Action, Decision, Deny, Facts, Permit, Query
from gateway.core.errors import GatewayError, NotFound, Refusal
from gateway.core.obligation import StepUp
from gateway.core.principal import User
from gateway.core.target import Level, Target


def authorise(
    ctx: Context, user: User, action: Action, target: Target | None, facts: Facts, *, spends: bool = True
) -> Permit:
    """The permit for an action, or Denied after a `policy:denied` event. What it demands as proof was given.

    `spends`: a proof that is good for one action is used up; not by a look at what the action is about.
    """
    decision = still_permitted(ctx, user, action, target, facts)
    unproven = missing_proof(ctx, user, decision.obligations, facts.at)
    if unproven is not None:
        raise _denied(ctx, user, action, target, decision, unproven)
    if spends and decision.obligations.step_up is StepUp.EACH:
        with ctx.store.begin() as uow:
            spend_proof(uow, user, decision.obligations, facts.at)
    return decision


def still_permitted(ctx: Context, user: User, action: Action, target: Target | None, facts: Facts) -> Permit:
    """As `authorise`, for an action under way: what policy demands as proof was given when it began."""
    decision = ctx.policy.decide(Query(user, action, target, facts))
    if isinstance(decision, Deny):
        raise _denied(ctx, user, action, target, decision, decision.refusal)
    return decision


def _denied(
    ctx: Context, user: User, action: Action, target: Target | None, decision: Decision, refusal: Refusal
) -> GatewayError:
    data = {"action": action.value, "policies": list(decision.policies), "policy_set": decision.policy_set}
    about: journal.About = {"principal": user.name, "target": target.name if target else ""}
    return journal.refuse(ctx, "policy:denied", refusal, data=data, **about)


def find_target(ctx: Context, user: User, name: str, attempted: str) -> Target:
    """The catalogue's target; NotFound (with an event of type `attempted`) when there is none."""
    target = ctx.catalogue.current().targets.get(name)
    if target is None:
        refusal = Refusal(
            "unknown-target",
            f"There is no target called {name[:60]!r}.",
            next_steps=("gw targets lists what you can ask for.",),
        )
        raise journal.refuse(ctx, attempted, refusal, NotFound, principal=user.name, target=name)
    return target


def find_level(ctx: Context, user: User, target: Target, name: str, attempted: str) -> Level:
    """The level on a target; NotFound (with an event) when there is none."""
    level = target.level(name)
    if level is None:
        known = ", ".join(sorted(target.levels, key=lambda n: target.levels[n].rank))
        refusal = Refusal(
            "unknown-level", f"{target.name} has no level {name[:60]!r}.", next_steps=(f"Its levels: {known}.",)
        )
        raise journal.refuse(ctx, attempted, refusal, NotFound, principal=user.name, target=target.name)
    return level
