"""A principal's ask for a level on a target, and how approvals turn it into a grant.

Rules: the requester never counts towards the quorum; one person counts once; one rejection ends the request;
nothing is decided after its end. The clock of the grant starts at the approval, not at the request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from gateway.core.errors import Refusal
from gateway.core.obligation import Obligations

MAX_REASON = 500
PENDING_FOR = timedelta(hours=8)
LAPSED = Refusal("request-lapsed", "This request waited too long and has lapsed; ask again.")


class RequestKind(StrEnum):
    STANDARD = "standard"
    BREAK_GLASS = "break-glass"


class RequestState(StrEnum):
    PENDING = "pending"
    GRANTED = "granted"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    LAPSED = "lapsed"


class Verdict(StrEnum):
    APPROVE = "approve"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Approval:
    """Another principal's signed-off answer to a request. `approver` is a user id."""

    id: str
    request: str
    approver: str
    verdict: Verdict
    at: datetime
    note: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """`requester` is a user id, `requester_name` for people; `duration` is asked for, obligations may shorten it."""

    id: str
    requester: str
    requester_name: str
    target: str
    level: str
    duration: timedelta
    reason: str
    incident: str
    kind: RequestKind
    created_at: datetime
    obligations: Obligations
    policies: tuple[str, ...]
    policy_set: str
    facts: Mapping[str, object] = field(default_factory=dict)
    state: RequestState = RequestState.PENDING
    approvals: tuple[Approval, ...] = ()

    def approved_by(self) -> frozenset[str]:
        """Distinct people, other than the requester, who said yes."""
        return frozenset(
            a.approver for a in self.approvals if a.verdict is Verdict.APPROVE and a.approver != self.requester
        )

    def is_quorate(self) -> bool:
        """True when enough others have said yes."""
        return len(self.approved_by()) >= self.obligations.approvals

    def has_lapsed(self, at: datetime) -> bool:
        """True when nobody may decide on it any more."""
        return at >= self.created_at + PENDING_FOR

    def effective_duration(self) -> timedelta:
        """What was asked for, cut to what policy allows."""
        limit = self.obligations.max_duration
        return self.duration if limit is None else min(self.duration, limit)


def validate_ask(duration: timedelta, reason: str, longest: timedelta) -> Refusal | None:
    """Bounds on what a person may type, before any policy is asked."""
    if not reason.strip():
        return Refusal("reason-missing", "A reason is required: one sentence an auditor will read.", ("reason",))
    if not reason.isprintable():
        return Refusal("reason-unprintable", "The reason must be one line of plain text, without control characters.")
    if len(reason) > MAX_REASON:
        return Refusal("reason-too-long", f"The reason is longer than {MAX_REASON} characters.")
    if duration <= timedelta(0):
        return Refusal("duration-invalid", "The duration must be longer than zero, for example --for 1h.")
    if duration > longest:
        hours = longest.total_seconds() / 3600
        return Refusal(
            "duration-too-long",
            f"No grant is longer than {hours:g} h here.",
            next_steps=(f"Ask for --for {hours:g}h or less.",),
        )
    return None


def add_approval(request: Request, approval: Approval) -> "Request | Refusal":
    """The request with one more answer, or why it may not be given; ValueError for an answer to another request."""
    if approval.request != request.id:
        raise ValueError(f"an answer to {approval.request} does not count for {request.id}")
    if approval.approver == request.requester:
        return Refusal(
            "own-request",
            "You asked for this access, so somebody else must approve it.",
            next_steps=("Send the request id to an approver of the service.",),
        )
    if request.state is not RequestState.PENDING:
        return Refusal("already-decided", f"This request is {request.state.value} already.")
    if request.has_lapsed(approval.at):
        return LAPSED
    if any(a.approver == approval.approver for a in request.approvals):
        return Refusal("answered-already", "You have answered this request already; one person counts once.")
    answered = replace(request, approvals=(*request.approvals, approval))
    if approval.verdict is Verdict.REJECT:
        return replace(answered, state=RequestState.REJECTED)
    return answered


def settle(request: Request, state: RequestState) -> "Request | Refusal":
    """Move a pending request to its end state, once."""
    if request.state is not RequestState.PENDING:
        return Refusal("already-decided", f"This request is {request.state.value} already.")
    return replace(request, state=state)
