"""The decision behind every step of a run: when it is asked for, and again when its turn comes."""

from dataclasses import dataclass, replace

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.facts import Question, gather
from gateway.core.decision import Action, Deny, DeployFacts, Facts, Permit, Query
from gateway.core.deploy_token import VerifiedDeployToken
from gateway.core.emergency import DUTIES, BreakGlassOnly
from gateway.core.freeze import in_force
from gateway.core.obligation import Obligations
from gateway.core.principal import Principal, User
from gateway.core.rollout import Run, WayBack, way_back
from gateway.core.target import Target


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a person, or a workload with the token that says what it may."""

    principal: Principal
    token: VerifiedDeployToken | None = None
    is_emergency: bool = False  # came in by passkey while the provider was down: only to override

    @classmethod
    def of(cls, who: User | VerifiedDeployToken | BreakGlassOnly) -> "Caller":
        """The caller behind each kind of credential."""
        if isinstance(who, BreakGlassOnly):
            return cls(who.user, is_emergency=True)
        return cls(who) if isinstance(who, User) else cls(who.workload, who)

    def duties(self) -> Obligations:
        """What this caller owes, whatever policy says besides."""
        return DUTIES if self.is_emergency else Obligations()

    def kind(self) -> str:
        """`user` or `workload`."""
        return "workload" if self.token else "user"

    def pipeline(self) -> dict[str, str]:
        """The facts of a job, for the log and for people; empty for a person."""
        if self.token is None:
            return {}
        workload = self.token.workload
        names = ("repository", "ref", "commit", "run", "environment", "actor", "trust_policy", "issuer")
        return {name: getattr(workload, name) for name in names} | {"token": self.token.id}


def decide_deploy(
    ctx: Context, principal: Principal, run: Run, target: Target, denied: str, *, override: bool
) -> Permit:
    """The permit for one target, now; Denied with an event of type `denied`."""
    at = ctx.clock.now()
    freezes = in_force(ctx.catalogue.current().freezes, target.service, target.environment, run.verb, at)
    deploy = DeployFacts(
        verb=run.verb,
        freezes=freezes,
        override=override,
        is_rollback=run.is_rollback,
        to_previous=run.is_rollback and target.name in run.goes_back_on,
        token_allows=not isinstance(principal, User),  # looked at before: see `_require_token`
    )
    facts = (
        replace(gather(ctx, Question(principal, target, "", at, run.incident)), deploy=deploy)
        if isinstance(principal, User)
        else Facts(at, deploy=deploy)
    )
    decision = ctx.policy.decide(Query(principal, Action.DEPLOY, target, facts))
    if isinstance(decision, Deny):
        data = {**told(run), "policies": list(decision.policies), "facts": dict(decision.facts)}
        about: journal.About = {"principal": run.principal_name, "target": target.name}
        raise journal.refuse(ctx, denied, decision.refusal, data=data, **about)
    return decision


def goes_back_on(ctx: Context, run: Run) -> tuple[str, ...]:
    """The targets where the version of a run that is asked for is the one that a rollback leads to, as known now."""
    with ctx.store.read() as uow:
        placements = uow.deploys.placements()
    groups = ctx.catalogue.current().groups.values()

    def is_previous(name: str) -> bool:
        ways = (way_back(names, placements) for names in (run.targets, (name,), *(g for g in groups if name in g)))
        return any(isinstance(way, WayBack) and way.version == run.version for way in ways)

    return tuple(name for name in run.targets if run.is_rollback and is_previous(name))


def told(run: Run) -> dict[str, object]:
    """A run in an event. Parameters hold no secrets: they are words of a command line."""
    data: dict[str, object] = {
        "run": run.id,
        "verb": run.verb,
        "targets": list(run.targets),
        "parameters": dict(run.parameters),
        "principal_kind": run.principal_kind,
        "deadline": run.deadline.isoformat(),
        "gateway": run.gateway,
    }
    optional = {
        "pipeline": dict(run.pipeline),
        "incident": run.incident,
        "reason": run.reason,
        "input_sha256": run.input_digest,
        "client": run.client,
    }
    return data | {name: value for name, value in optional.items() if value}


def about(run: Run) -> journal.About:
    """The fields that tie an event to a run: its first target, where it has one only, and an override's grant."""
    target = run.targets[0] if len(run.targets) == 1 else ", ".join(run.targets)
    return {"principal": run.principal_name, "target": target, "grant": run.grant}
