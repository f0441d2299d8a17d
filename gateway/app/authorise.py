"""Ask policy and turn a Deny into Denied, with its event, in one place."""

from gateway.app import journal
from gateway.app.context import Context
from gateway.core.decision import Action, Deny, Facts, Permit, Query
from gateway.core.errors import NotFound, Refusal
from gateway.core.principal import User
from gateway.core.target import Level, Target


def authorise(ctx: Context, user: User, action: Action, target: Target | None, facts: Facts) -> Permit:
    """The permit for an action, or Denied after a `policy:denied` event."""
    decision = ctx.policy.decide(Query(user, action, target, facts))
    if isinstance(decision, Deny):
        raise journal.refuse(
            ctx,
            "policy:denied",
            decision.refusal,
            principal=user.name,
            target=target.name if target else "",
            data={"action": action.value, "policies": list(decision.policies), "policy_set": decision.policy_set},
        )
    return decision


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
