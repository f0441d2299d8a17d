"""The API's shapes. Unknown fields are refused on the way in, so nobody can set what is not theirs to set."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway.app.list_access import TargetView
from gateway.app.request_access import Ask, Outcome
from gateway.core.decision import Decision, Permit
from gateway.core.grant import Grant, Review
from gateway.core.obligation import Obligations, parse_duration
from gateway.core.principal import User
from gateway.core.request import Request

Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Sentence = Annotated[str, StringConstraints(max_length=500)]
Span = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,4}[smhd]$")]


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# ---------------------------------------------------------------- in


class AskIn(Schema):
    """What is asked for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "target": "orders-db",
                    "level": "read",
                    "duration": "1h",
                    "reason": "p99 of search 8 s",
                    "incident": "INC-1042",
                }
            ]
        }
    )

    target: Name
    level: Name
    duration: Span = "1h"
    reason: Sentence
    incident: Annotated[str, StringConstraints(max_length=128)] = ""

    def ask(self) -> Ask:
        """The same, as the use case knows it."""
        return Ask(self.target, self.level, parse_duration(self.duration), self.reason, self.incident)


class NoteIn(Schema):
    """A remark for the audit log."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"note": "Seen the incident channel."}]})

    note: Sentence = ""


class ReasonIn(Schema):
    """Why, for the audit log and the person concerned."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "The incident is over."}]})

    reason: Sentence = ""


class SpanIn(Schema):
    """How long from now."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"duration": "1h"}]})

    duration: Span = "1h"

    def span(self) -> timedelta:
        """The same, as the use case knows it."""
        return parse_duration(self.duration)


class VerdictIn(Schema):
    """A judgement on a break-glass grant: `justified` or `unjustified`, with a sentence."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"verdict": "justified", "note": "Read the recording: index created."}]}
    )

    verdict: Name
    note: Sentence


class TicketIn(Schema):
    """`level` "" takes the highest of one's active grants; a single-use ticket opens one connection."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"level": "read"}]})

    level: Annotated[str, StringConstraints(max_length=128)] = ""
    single_use: bool = False


class PublicKeyIn(Schema):
    """One OpenSSH public key line."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5…"}]})

    public_key: Annotated[str, StringConstraints(min_length=1, max_length=16384)]


# ---------------------------------------------------------------- out


class ObligationsOut(Schema):
    max_duration_seconds: int | None
    approvals: int
    review: bool
    record: str
    notify: list[str]
    step_up: str
    max_auth_age_seconds: int | None

    @classmethod
    def of(cls, duties: Obligations) -> "ObligationsOut":
        """Rendered."""
        return cls(
            max_duration_seconds=_seconds(duties.max_duration) if duties.max_duration else None,
            approvals=duties.approvals,
            review=duties.review,
            record=duties.record.value,
            notify=sorted(duties.notify),
            step_up=duties.step_up.value,
            max_auth_age_seconds=_seconds(duties.max_auth_age) if duties.max_auth_age else None,
        )


class DecisionOut(Schema):
    """Which policies decided, from which set, on which facts, under which duties; for a no, why and what next."""

    permitted: bool
    policies: list[str]
    policy_set: str
    facts: dict[str, Any] = Field(default_factory=dict)
    obligations: ObligationsOut | None = None
    code: str = ""
    detail: str = ""
    missing: list[str] = Field(default_factory=list)
    next_steps: list[str] = Field(default_factory=list)

    @classmethod
    def of(cls, decision: Decision) -> "DecisionOut":
        """Rendered."""
        no = None if isinstance(decision, Permit) else decision.refusal
        return cls(
            permitted=no is None,
            policies=list(decision.policies),
            policy_set=decision.policy_set,
            facts=dict(decision.facts),
            obligations=ObligationsOut.of(decision.obligations) if isinstance(decision, Permit) else None,
            code=no.code if no else "",
            detail=no.message if no else "",
            missing=list(no.missing) if no else [],
            next_steps=list(no.next_steps) if no else [],
        )


class ApprovalOut(Schema):
    approver: str
    verdict: str
    at: datetime
    note: str


class RequestOut(Schema):
    id: str
    requester: str
    target: str
    level: str
    duration_seconds: int
    reason: str
    incident: str
    kind: str
    state: str
    created_at: datetime
    approvals_needed: int
    approvals: list[ApprovalOut]

    @classmethod
    def of(cls, request: Request, names: dict[str, str]) -> "RequestOut":
        """Rendered; `names` are user names by id."""
        return cls(
            id=request.id,
            requester=request.requester_name,
            target=request.target,
            level=request.level,
            duration_seconds=_seconds(request.effective_duration()),
            reason=request.reason,
            incident=request.incident,
            kind=request.kind.value,
            state=request.state.value,
            created_at=request.created_at,
            approvals_needed=request.obligations.approvals,
            approvals=[
                ApprovalOut(approver=names.get(a.approver, a.approver), verdict=a.verdict.value, at=a.at, note=a.note)
                for a in request.approvals
            ],
        )


class GrantOut(Schema):
    id: str
    request: str
    holder: str
    target: str
    level: str
    kind: str
    state: str
    not_before: datetime
    not_after: datetime
    incident: str
    review: bool
    revoked_at: datetime | None
    revoke_reason: str

    @classmethod
    def of(cls, grant: Grant, at: datetime) -> "GrantOut":
        """Rendered; the state is the one at `at`."""
        return cls(
            id=grant.id,
            request=grant.request,
            holder=grant.holder_name,
            target=grant.target,
            level=grant.level,
            kind=grant.kind.value,
            state=grant.state(at).value,
            not_before=grant.window.not_before,
            not_after=grant.window.not_after,
            incident=grant.incident,
            review=grant.obligations.review,
            revoked_at=grant.revoked_at,
            revoke_reason=grant.revoke_reason,
        )


class OutcomeOut(Schema):
    """`state` is granted or pending; `grant` is null while the request waits for approval.

    `connect` is the command that uses the grant; "" when the target has left the catalogue.
    """

    state: str
    request: RequestOut
    grant: GrantOut | None
    decision: DecisionOut
    connect: str

    @classmethod
    def of(cls, outcome: Outcome, names: dict[str, str], at: datetime, connect: str) -> "OutcomeOut":
        """Rendered."""
        return cls(
            state="granted" if outcome.grant else outcome.request.state.value,
            request=RequestOut.of(outcome.request, names),
            grant=GrantOut.of(outcome.grant, at) if outcome.grant else None,
            decision=DecisionOut.of(outcome.decision),
            connect=connect,
        )


class ReviewOut(Schema):
    id: str
    grant: str
    holder: str
    due_at: datetime
    reviewer: str
    verdict: str
    note: str
    signed_at: datetime | None

    @classmethod
    def of(cls, review: Review, names: dict[str, str]) -> "ReviewOut":
        """Rendered; `names` are user names by id."""
        return cls(
            id=review.id,
            grant=review.grant,
            holder=names.get(review.holder, review.holder),
            due_at=review.due_at,
            reviewer=names.get(review.reviewer, review.reviewer),
            verdict=review.verdict,
            note=review.note,
            signed_at=review.signed_at,
        )


class LevelOut(Schema):
    name: str
    description: str
    decision: DecisionOut


class TargetOut(Schema):
    """A target and, for each level, what policy would say now."""

    name: str
    kind: str
    service: str
    environment: str
    description: str
    levels: list[LevelOut]

    @classmethod
    def of(cls, view: TargetView) -> "TargetOut":
        """Rendered; where the target is and how the gateway logs in there stays inside."""
        target = view.target
        return cls(
            name=target.name,
            kind=target.kind.value,
            service=target.service,
            environment=target.environment,
            description=target.description,
            levels=[
                LevelOut(name=lv.level.name, description=lv.level.description, decision=DecisionOut.of(lv.decision))
                for lv in view.levels
            ],
        )


class TicketOut(Schema):
    """`password` is shown once and is worth nothing without its grant; `kind` is the door that takes it."""

    kind: str
    user: str
    password: str
    target: str
    level: str
    grant: str
    expires_at: datetime


class CertificateOut(Schema):
    certificate: str
    expires_at: datetime


class DatabaseCertificateOut(Schema):
    """`certificate` is PEM; `user` is the name to sign in with."""

    certificate: str
    user: str
    expires_at: datetime


class UserOut(Schema):
    name: str
    email: str
    groups: list[str]
    enabled: bool
    only: str = ""  # what this sign-in is good for, "" for everything that policy allows

    @classmethod
    def of(cls, user: User) -> "UserOut":
        """Rendered."""
        return cls(name=user.name, email=user.email, groups=sorted(user.groups), enabled=user.is_enabled())


class SshDoorOut(Schema):
    host: str
    port: int
    host_key: str


class PostgresDoorOut(Schema):
    """`binds` is true where clients may insist on channel binding (libpq's `channel_binding=require`),
    `certificates` where they may come with a certificate instead of a ticket.
    """

    host: str
    port: int
    ca_pem: str
    binds: bool
    certificates: bool


class DoorOut(Schema):
    """Public facts. A door that is closed here is null."""

    ssh: SshDoorOut | None
    postgres: PostgresDoorOut | None
    audit_key: str


class ProblemOut(BaseModel):
    """RFC 9457, with what was missing and what to do next."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:gw:problem:not-on-call",
                    "title": "Forbidden",
                    "status": 403,
                    "code": "not-on-call",
                    "detail": "You are not on call for orders until 18:00 UTC; oncall is.",
                    "missing": ["on call for orders"],
                    "next_steps": ["Ask oncall.", "Deploys go through CI."],
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    code: str
    detail: str
    missing: list[str]
    next_steps: list[str]


def _seconds(span: timedelta) -> int:
    return int(span.total_seconds())


_PROBLEM: dict[str, Any] = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for a route's errors, next to the ones that every route has."""
    said = {
        401: "Not signed in.",
        403: "Policy or a rule says no.",
        404: "No such thing, or not yours to see.",
        409: "Its state does not allow this.",
        422: "The input is not valid.",
        429: "Too many attempts.",
        503: "Something that the gateway depends on failed; nothing was done.",
    }
    return {status: {"description": said[status], "content": _PROBLEM} for status in (401, *statuses, 503)}
