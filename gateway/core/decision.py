"""The question put to policy, and its answer.

`Permit` is a type of its own: a function with an effect takes a `Permit` (or a `Grant`), so that forgetting to
ask does not type-check.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from gateway.core.errors import Refusal
from gateway.core.freeze import Freeze
from gateway.core.incident import Incident
from gateway.core.obligation import Obligations
from gateway.core.principal import Principal
from gateway.core.rota import OnCall
from gateway.core.target import Target


class Action(StrEnum):
    """Verbs in policy. CONNECT is asked when access is requested and again at every connection."""

    CONNECT = "Connect"
    APPROVE = "Approve"
    REVIEW = "Review"
    REVOKE = "Revoke"
    KILL = "Kill"
    REPLAY = "Replay"
    WATCH = "Watch"
    SHRED = "Shred"
    AUDIT = "Audit"
    ADMINISTER = "Administer"
    EXAMINE = "Examine"
    DEPLOY = "Deploy"


@dataclass(frozen=True, slots=True)
class DeployFacts:
    """What a deploy verb is about. `token_allows` is what a workload's token says, False for people.

    `to_previous`: the version is the one that ran before. `override`: the person says that this is an emergency.
    """

    verb: str
    freezes: tuple[Freeze, ...] = ()  # in force for the verb on the target
    override: bool = False
    is_rollback: bool = False
    to_previous: bool = False
    token_allows: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What was known at the instant of the question. Absent facts are stated as absent, never guessed."""

    at: datetime
    level: str = ""
    on_call: OnCall | None = None
    incident_named: str = ""  # what the person typed, known or not
    incident: Incident | None = None
    break_glass: bool = False
    approvals: int = 0
    deploy: DeployFacts | None = None
    requester: str = ""  # user id of whoever the request or grant belongs to (Approve, Review, Kill, …)

    def is_in_incident(self) -> bool:
        """True when the incident that was named is open, and about the service whose rota was asked."""
        incident, duty = self.incident, self.on_call
        if incident is None or duty is None:
            return False
        return incident.service == duty.service and incident.is_open(self.at)


@dataclass(frozen=True, slots=True)
class Query:
    """(principal, action, resource, context). `target` None stands for the gateway itself (audit, administration)."""

    principal: Principal
    action: Action
    target: Target | None
    facts: Facts


@dataclass(frozen=True, slots=True)
class Permit:
    """Yes: by which policies (their @id), from which set (digest), on which facts, under which duties."""

    policies: tuple[str, ...]
    policy_set: str
    obligations: Obligations
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Deny:
    """No: the refusal for the person; `policies` are the forbids that decided, empty when nothing permitted."""

    refusal: Refusal
    policies: tuple[str, ...]
    policy_set: str
    facts: Mapping[str, object] = field(default_factory=dict)


Decision = Permit | Deny
