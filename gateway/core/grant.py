"""The time-limited right that results from a request, and the review owed on a break-glass one.

A grant has one absolute deadline, the same on every channel; only an extension, decided anew, moves it. Grants are
independent: ending one never ends another, even for the same person, target and level.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from gateway.core.errors import Refusal
from gateway.core.obligation import Obligations
from gateway.core.request import LAPSED, Request, RequestKind, RequestState
from gateway.core.window import Window


class GrantState(StrEnum):
    ACTIVE = "active"
    PENDING = "pending"  # its window has not begun
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Grant:
    """`holder` is a user id. `revoked_at` and the window are stored; the state is computed, so it cannot be stale."""

    id: str
    request: str
    holder: str
    holder_name: str
    target: str
    level: str
    window: Window
    kind: RequestKind
    obligations: Obligations
    incident: str = ""
    approvals: int = 0
    revoked_at: datetime | None = None
    revoked_by: str = ""
    revoke_reason: str = ""

    def state(self, at: datetime) -> GrantState:
        """What the grant is worth at `at`. Revoked is revoked, even when a clock was set back since."""
        if self.revoked_at is not None:
            return GrantState.REVOKED
        if at < self.window.not_before:
            return GrantState.PENDING
        return GrantState.ACTIVE if self.window.contains(at) else GrantState.EXPIRED

    def is_active(self, at: datetime) -> bool:
        """True when a session may be open under it at `at`."""
        return self.state(at) is GrantState.ACTIVE


@dataclass(frozen=True, slots=True)
class Review:
    """The judgement owed on a break-glass grant, by somebody other than its holder."""

    id: str
    grant: str
    holder: str
    due_at: datetime
    reviewer: str = ""
    verdict: str = ""
    note: str = ""
    signed_at: datetime | None = None

    def is_open(self) -> bool:
        """True until somebody has signed it."""
        return self.signed_at is None


def issue(request: Request, grant_id: str, at: datetime) -> Grant | Refusal:
    """The grant that a request has earned: quorate, not yet decided, not lapsed. The window starts now."""
    if request.state is not RequestState.PENDING:
        return Refusal("already-decided", f"This request is {request.state.value} already.")
    if request.has_lapsed(at):
        return LAPSED
    if not request.is_quorate():
        short = request.obligations.approvals - len(request.approved_by())
        return Refusal("approval-missing", f"{short} more approval(s) needed.", ("approval",))
    return Grant(
        id=grant_id,
        request=request.id,
        holder=request.requester,
        holder_name=request.requester_name,
        target=request.target,
        level=request.level,
        window=Window(at, at + request.effective_duration()),
        kind=request.kind,
        obligations=request.obligations,
        incident=request.incident,
        approvals=len(request.approved_by()),
    )


def revoke(grant: Grant, at: datetime, by: str, reason: str) -> Grant | Refusal:
    """The grant, ended early. A grant that is over cannot be revoked again."""
    if grant.state(at) in (GrantState.REVOKED, GrantState.EXPIRED):
        return Refusal("grant-over", f"Grant {grant.id} is {grant.state(at).value} already.")
    return replace(grant, revoked_at=at, revoked_by=by, revoke_reason=reason)


def extend(grant: Grant, duties: Obligations, duration: timedelta, at: datetime, longest: timedelta) -> Grant | Refusal:
    """The grant, ending `duration` from now at most: cut to what the `duties` of a new permit and `longest` allow.

    `longest` bounds the whole grant, so that asking again and again does not make a standing right. What a permit
    would demand beyond what the grant was given for (an answer of others, a review) needs a new request.
    """
    if not grant.is_active(at):
        return Refusal(f"grant-{grant.state(at).value}", f"Grant {grant.id} is {grant.state(at).value}.", (), _ANEW)
    if grant.kind is RequestKind.BREAK_GLASS:
        return Refusal("break-glass-not-extended", "Emergency access is not extended; its review is due.", (), _ANEW)
    if duration <= timedelta(0):
        return Refusal("duration-invalid", "The duration must be longer than zero, for example --for 1h.")
    if duties.approvals:
        return Refusal("approval-missing", f"{duties.approvals} approval(s) are needed.", ("approval",), _ANEW)
    if duties.review and not grant.obligations.review:
        return Refusal("review-needed", "Policy now asks for a review, which this grant does not owe.", (), _ANEW)
    limits = [limit for limit in (duration, duties.max_duration) if limit is not None]
    until = min(at + min(limits), grant.window.not_before + longest)
    if until <= grant.window.not_after:
        return Refusal("not-longer", "That would not be longer than it lasts already, or than policy allows.")
    return replace(grant, window=Window(grant.window.not_before, until))


def review_owed(grant: Grant, review_id: str) -> Review | None:
    """The review that a grant brings with it, due a while after it began; None when none is owed."""
    if not grant.obligations.review:
        return None
    return Review(review_id, grant.id, grant.holder, grant.window.not_before + grant.obligations.review_within)


def sign_review(review: Review, reviewer: str, verdict: str, note: str, at: datetime) -> Review | Refusal:
    """The review, judged `justified` or `unjustified` by another person, with a sentence."""
    if reviewer == review.holder:
        return Refusal("own-review", "You used this access, so somebody else must review it.")
    if not review.is_open():
        return Refusal("reviewed-already", "This review is signed already.")
    if verdict not in ("justified", "unjustified"):
        return Refusal("verdict-unknown", "The verdict is either justified or unjustified.")
    if not note.strip():
        return Refusal("note-missing", "A review needs a sentence on what you looked at.", ("note",))
    return replace(review, reviewer=reviewer, verdict=verdict, note=note, signed_at=at)


_ANEW = ("Ask anew: gw request.",)
WARNINGS = (timedelta(minutes=5), timedelta(minutes=1))


def due_warning(deadline: datetime, at: datetime, already: frozenset[timedelta]) -> timedelta | None:
    """The nearest warning that is due now, unless it or a later one was given; an earlier one is not made up for."""
    left = deadline - at
    due = [w for w in WARNINGS if left <= w]
    if not due or left <= timedelta(0) or any(w <= min(due) for w in already):
        return None
    return min(due)
