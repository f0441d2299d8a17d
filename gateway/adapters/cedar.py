"""The `Policy` port on Cedar. Whatever goes wrong while a question is evaluated, the answer is no.

Cedar skips a policy whose condition errors, so that a failing `forbid` forbids nothing; therefore the schema is given
with every question, and any entry in `diagnostics.errors`, as well as "no decision", is a Deny.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cedarpy

from gateway.adapters.cedar_deploy import deploy_context, deploy_told, workload_entity
from gateway.adapters.cedar_explain import explain
from gateway.adapters.cedar_load import LoadedPolicies, PolicyLoadError, Rule, digest_of, load, read_files
from gateway.core.decision import Decision, Deny, Facts, Permit, Query
from gateway.core.errors import Refusal
from gateway.core.obligation import merge
from gateway.core.principal import Principal, Workload
from gateway.core.rota import Freshness
from gateway.core.target import Target

__all__ = ["CedarPolicy", "PolicyLoadError"]

_MOST_ANSWERS = 1000  # kept, of a few hundred bytes to a few KiB each
_GATEWAY = {"type": "Gateway", "id": "gateway"}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What Cedar said: `error` set means that it did not really answer."""

    is_permit: bool = False
    rules: tuple[Rule, ...] = ()
    error: str = ""


class CedarPolicy:
    """A directory of policies in force. Thread-safe: the set is swapped as a whole, a question uses one set."""

    def __init__(self, directory: Path, role_groups: Mapping[str, frozenset[str]]) -> None:
        """Load; PolicyLoadError when the files hold no usable set. `role_groups`: group in the claims -> roles."""
        self._directory = directory
        self._role_groups = {group: frozenset(roles) for group, roles in role_groups.items()}
        self._set = load(read_files(directory))
        self._rejected: tuple[str, str] | None = None  # digest of the last bad set and why
        # Set, request and entities to answer: nothing else goes into one, not even the time. One dict operation each,
        # so without a lock.
        self._answers: dict[tuple[str, str, str], _Answer] = {}

    def digest(self) -> str:
        """SHA-256 (hex) of the policy set in force."""
        return self._set.digest

    def ids(self) -> frozenset[str]:
        """The @id of every policy in force."""
        return frozenset(rule.id for rule in self._set.rules.values())

    def reload(self) -> str | None:
        """Load anew; None when a new or the same set is in force, else why the old one stays."""
        digest = ""
        try:
            files = read_files(self._directory)
            digest = digest_of(files)
            if digest == self._set.digest:
                self._rejected = None
            elif self._rejected is None or self._rejected[0] != digest:
                self._set = load(files)
                self._rejected = None
        except PolicyLoadError as error:
            self._rejected = (digest, str(error))
        return self._rejected[1] if self._rejected else None

    def decide(self, query: Query) -> Decision:
        """Permit with merged obligations, or Deny with what would have made it a permit."""
        loaded = self._set
        answer = self._ask(loaded, query)
        facts = facts_used(query, self._roles(query.principal))
        ids = tuple(sorted(rule.id for rule in answer.rules))
        if answer.error:
            return Deny(_could_not_evaluate(), ids, loaded.digest, {**facts, "error": answer.error})
        if answer.is_permit:
            return Permit(ids, loaded.digest, merge(r.obligations for r in answer.rules), facts)
        refusal = explain(query, answer.rules, loaded.roles - self._roles(query.principal), self._asker(loaded))
        return Deny(refusal, ids, loaded.digest, facts)

    def _asker(self, loaded: LoadedPolicies) -> "_Asker":
        return _Asker(self, loaded)

    def _roles(self, user: Principal) -> frozenset[str]:
        if isinstance(user, Workload):
            return frozenset()
        return frozenset().union(*(self._role_groups.get(group, frozenset()) for group in user.groups))

    def _ask(self, loaded: LoadedPolicies, query: Query, extra: frozenset[str] = frozenset()) -> _Answer:
        request = _request(query)
        try:
            entities = json.dumps(_entities(query, self._roles(query.principal) | extra))
            asked = (loaded.digest, json.dumps(request), entities)
            if (known := self._answers.get(asked)) is not None:
                return known
            result = cedarpy.is_authorized(
                request, loaded.policies, loaded.base.with_added_json_str(entities, loaded.schema), schema=loaded.schema
            )
        except (ValueError, TypeError) as error:  # a value that Cedar cannot take: an entity that breaks the schema
            return _Answer(error=str(error)[:500])
        if result.diagnostics.errors or result.decision is cedarpy.Decision.NoDecision:
            return _Answer(error="; ".join(map(str, result.diagnostics.errors))[:500] or "no decision")
        rules = tuple(loaded.rules[reason] for reason in result.diagnostics.reasons)
        answer = _Answer(result.allowed and bool(rules), rules)
        if len(self._answers) >= _MOST_ANSWERS:
            self._answers = {}
        self._answers[asked] = answer
        return answer


@dataclass(frozen=True, slots=True)
class _Asker:
    """Asks what-if questions of the same policy set."""

    policy: CedarPolicy
    loaded: LoadedPolicies

    def __call__(self, query: Query, extra_roles: frozenset[str] = frozenset()) -> tuple[Rule, ...]:
        """The policies that would permit; empty when it would still be a no."""
        answer = self.policy._ask(self.loaded, query, extra_roles)  # noqa: SLF001  the two are one
        return answer.rules if answer.is_permit else ()


def _could_not_evaluate() -> Refusal:
    return Refusal(
        "policy-error",
        "The policies could not be evaluated for this question, and without an answer it is no.",
        next_steps=("Tell the gateway's operators: gw policy check names the fault.",),
    )


def _request(query: Query) -> dict[str, object]:
    return {
        "principal": {"type": type(query.principal).__name__, "id": query.principal.id},
        "action": {"type": "Action", "id": query.action.value},
        "resource": _resource(query.target),
        "context": _context(query),
    }


def _resource(target: Target | None) -> dict[str, str]:
    return _GATEWAY if target is None else {"type": "Target", "id": target.name}


def _context(query: Query) -> dict[str, object]:
    facts = query.facts
    duty = facts.on_call
    is_on_call = duty is not None and duty.is_on_call
    incident_is_ours = names_incident(query)
    known: dict[str, object] = {
        "on_call": is_on_call,
        "escalation": (duty.level or 0) if duty is not None and is_on_call else 0,
        "rota_fresh": (duty.freshness if duty is not None else Freshness.NONE).value,
        "incident_open": incident_is_ours and facts.incident is not None and facts.incident.is_open(facts.at),
        "has_incident": incident_is_ours,
    }
    if facts.deploy is not None:
        return {**known, **deploy_context(facts.deploy)}
    return {
        **known,
        "level": facts.level,
        "break_glass": facts.break_glass,
        "approvals": facts.approvals,
        "is_requester": facts.requester != "" and facts.requester == query.principal.id,
    }


def names_incident(query: Query) -> bool:
    """True when the incident that was named exists and is about the target's service."""
    incident, target = query.facts.incident, query.target
    return incident is not None and target is not None and incident.service == target.service


def _entities(query: Query, roles: frozenset[str]) -> list[dict[str, object]]:
    user = query.principal
    if isinstance(user, Workload):
        return [workload_entity(user), *(_target_entities(query.target) if query.target else ())]
    parents = [{"type": "Role", "id": role} for role in sorted(roles)]
    entities: list[dict[str, object]] = [{"uid": parent, "attrs": {}, "parents": []} for parent in parents]
    attrs: dict[str, object] = {"name": user.name, "groups": sorted(user.groups)}
    entities.append({"uid": {"type": "User", "id": user.id}, "attrs": attrs, "parents": parents})
    if query.target is not None:
        entities.extend(_target_entities(query.target))
    return entities


def _target_entities(target: Target) -> list[dict[str, object]]:
    service = {"type": "Service", "id": target.service}
    attrs = {
        "kind": target.kind.value,
        "service": target.service,
        "environment": target.environment,
        "labels": sorted(target.labels),
    }
    return [
        {"uid": service, "attrs": {}, "parents": []},
        {"uid": _resource(target), "attrs": attrs, "parents": [service]},
    ]


def facts_used(query: Query, roles: frozenset[str]) -> dict[str, object]:
    """The evidence behind a decision as JSON values, to be stored with it."""
    told: dict[str, object] = {
        "at": query.facts.at.isoformat(),
        "action": query.action.value,
        "level": query.facts.level,
        "roles": sorted(roles),
        "break_glass": query.facts.break_glass,
        "approvals": query.facts.approvals,
        "on_call": _duty_told(query.facts),
        "incident": _incident_told(query),
    }
    if query.target is not None:
        told["service"] = query.target.service
        told["environment"] = query.target.environment
    if query.facts.deploy is not None:
        told |= deploy_told(query.principal, query.facts.deploy)
    return told


def _duty_told(facts: Facts) -> dict[str, object] | None:
    duty = facts.on_call
    if duty is None:
        return None
    told: dict[str, object] = {
        "is_on_call": duty.is_on_call,
        "service": duty.service,
        "subject": duty.subject,
        "freshness": duty.freshness.value,
        "escalation": duty.level,
        "until": duty.until.isoformat() if duty.until else None,
        "others": list(duty.others),
    }
    if duty.shift is not None:
        told |= {
            "source": duty.shift.source,
            "fetched_at": duty.shift.fetched_at.isoformat(),
            "shift_hash": duty.shift.source_hash,
        }
    return told


def _incident_told(query: Query) -> dict[str, object] | None:
    incident = query.facts.incident
    if incident is None:
        return None
    return {
        "id": incident.id,
        "service": incident.service,
        "state": "open" if incident.is_open(query.facts.at) else "closed",
        "source": incident.source,
        "fetched_at": incident.fetched_at.isoformat(),
    }
