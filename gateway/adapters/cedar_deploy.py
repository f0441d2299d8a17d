"""Deploys in Cedar's terms: what a verb's question holds, and a no that says who, until when and what now."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from gateway.adapters.cedar_load import Rule
from gateway.core.decision import DeployFacts, Query
from gateway.core.errors import Refusal
from gateway.core.principal import Principal, Workload
from gateway.core.target import Kind, Target

_PIPELINE = "Deploys go through the pipeline: change the repository, and its job runs gw deploy."


class Ask(Protocol):
    def __call__(self, query: Query, extra_roles: frozenset[str] = frozenset()) -> tuple[Rule, ...]:
        """The policies that would permit this; empty for a no."""
        ...


def deploy_context(deploy: DeployFacts) -> dict[str, object]:
    """What the schema's `Rollout` has beside the facts on rota and incident."""
    return {
        "verb": deploy.verb,
        "frozen": bool(deploy.freezes),
        "override": deploy.override,
        "rollback": deploy.is_rollback,
        "to_previous": deploy.to_previous,
        "token_allows": deploy.token_allows,
    }


def workload_entity(workload: Workload) -> dict[str, object]:
    """The claims that a policy may ask about; each was verified at the exchange."""
    attrs = {
        "trust_policy": workload.trust_policy,
        "issuer": workload.issuer,
        "repository": workload.repository,
        "ref": workload.ref,
        "environment": workload.environment,
    }
    return {"uid": {"type": "Workload", "id": workload.id}, "attrs": attrs, "parents": []}


def deploy_told(principal: Principal, deploy: DeployFacts) -> dict[str, object]:
    """The evidence behind a decision as JSON values."""
    told: dict[str, object] = {**deploy_context(deploy), "freezes": [freeze.name for freeze in deploy.freezes]}
    if isinstance(principal, Workload):
        told["trust_policy"] = principal.trust_policy
    return told


def explain_deploy(query: Query, target: Target, deploy: DeployFacts, ask: Ask) -> Refusal:
    """A refusal that names what was missing."""
    if deploy.freezes and not deploy.override:
        message = f"{deploy.verb} on {target.name} is frozen. {deploy.freezes[0].sentence()}"
        return Refusal("frozen", message, ("no freeze",), tuple(_around_a_freeze(query, target, deploy, ask)))
    if isinstance(query.principal, Workload):
        return _no_workload(query.principal, target, deploy)
    if target.kind is Kind.POSTGRES:
        message = f"{deploy.verb} runs SQL on {target.name}, which is for pipelines, in an emergency, too."
        return Refusal("migrations-are-for-pipelines", message, ("a pipeline",), (_PIPELINE,))
    duty = query.facts.on_call
    if duty is None or not duty.is_on_call:
        others = " and ".join(duty.others) if duty and duty.others else "nobody that the rota knows"
        message = f"You are not on call for {target.service}; on call: {others}."
        return Refusal("not-on-call", message, ("on_call",), (_PIPELINE,))
    if deploy.override:
        message = f"An override takes an incident of {target.service}, and none was named."
        return Refusal("incident-missing", message, ("has_incident",), ("Name it with --incident.",))
    steps = [f"gw deploy rollback {target.name} --to previous", *_emergency(query, target, deploy, ask), _PIPELINE]
    return Refusal(
        "deploy-not-permitted",
        f"On call, you may roll {target.name} back to the version that ran before; {deploy.verb} is for pipelines.",
        ("to_previous",),
        tuple(steps),
    )


def _no_workload(workload: Workload, target: Target, deploy: DeployFacts) -> Refusal:
    if deploy.override:
        message = "Only a person who is on call overrides; a pipeline never does."
        return Refusal("override-not-for-pipelines", message, ("a person on call",))
    return Refusal(
        "deploy-not-permitted",
        f"No policy permits {deploy.verb} on {target.name} to {workload.name}.",
        ("a token for it",),
        (f"Let the trust policy {workload.trust_policy} allow {deploy.verb} on {target.name}.",),
    )


def _around_a_freeze(query: Query, target: Target, deploy: DeployFacts, ask: Ask) -> Iterator[str]:
    yield f"Wait, or ask {deploy.freezes[0].by}."
    yield from _emergency(query, target, deploy, ask)


def _emergency(query: Query, target: Target, deploy: DeployFacts, ask: Ask) -> Iterator[str]:
    overridden = replace(query, facts=replace(query.facts, deploy=replace(deploy, override=True)))
    if not isinstance(query.principal, Workload) and ask(overridden):
        yield f"In an emergency: gw deploy {deploy.verb} {target.name} --override --incident ID --reason …"
    elif isinstance(query.principal, Workload):
        yield f"In an emergency whoever is on call for {target.service} can override it."
