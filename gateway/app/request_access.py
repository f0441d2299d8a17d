"""Ask for access: policy decides on fresh facts; the answer is a grant, a request that waits, or a kind no."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gateway.app import journal
from gateway.app.authenticate import demand_signed_in
from gateway.app.authorise import find_level, find_target
from gateway.app.context import Context
from gateway.app.demand_proof import missing_proof, spend_proof
from gateway.app.facts import Question, gather
from gateway.app.ports import UnitOfWork
from gateway.core.decision import Action, Deny, Facts, Permit, Query
from gateway.core.errors import Conflict, Denied, Refusal, Unavailable
from gateway.core.grant import Grant, issue, review_owed, revoke
from gateway.core.level_terms import LEVEL_TERMS
from gateway.core.obligation import Obligations, merge
from gateway.core.principal import User
from gateway.core.request import Request, RequestKind, RequestState, settle, validate_ask

MOST_WAITING = 20


@dataclass(frozen=True, slots=True)
class Ask:
    """What a person types. `incident` "" when there is none."""

    target: str
    level: str
    duration: timedelta
    reason: str
    incident: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`grant` is None while the request waits for approval."""

    request: Request
    grant: Grant | None
    decision: Permit


def request_access(
    ctx: Context,
    user: User,
    ask: Ask,
    kind: RequestKind = RequestKind.STANDARD,
    duties: tuple[Obligations, ...] = (),
) -> Outcome:
    """Decide and store. Raises Denied, NotFound (each with its event) or Unavailable.

    `duties` come on top of what policy demands; the strictest wins.
    """
    at = ctx.clock.now()
    target = find_target(ctx, user, ask.target, "request:denied")
    level = find_level(ctx, user, target, ask.level, "request:denied")
    about: journal.About = {"principal": user.name, "target": target.name}
    wrong = validate_ask(ask.duration, ask.reason, ctx.limits.longest_grant)
    if wrong is not None:
        raise journal.refuse(ctx, "request:denied", wrong, **about)
    facts = gather(ctx, Question(user, target, level.name, at, ask.incident, kind is RequestKind.BREAK_GLASS))
    decision = ctx.policy.decide(Query(user, Action.CONNECT, target, facts))
    told = {"level": level.name, "incident": ask.incident, "reason": ask.reason, "kind": kind.value}
    if isinstance(decision, Deny):
        data = {**told, "policies": list(decision.policies), "facts": dict(decision.facts)}
        raise journal.refuse(ctx, "request:denied", decision.refusal, **about, data=data)
    decision = replace(
        decision,
        obligations=merge((decision.obligations, *duties)),
        facts={**decision.facts, "authentication": user.proof.told(), LEVEL_TERMS: level.terms},
    )
    unproven = missing_proof(ctx, user, decision.obligations, at)
    if unproven is not None:
        raise journal.refuse(ctx, "request:denied", unproven, **about, data=told)
    request = _request(ctx, user, ask, kind, decision, facts, at)
    grant = None
    try:
        with ctx.store.begin() as uow:
            demand_signed_in(uow, user)
            if not request.is_quorate():
                _check_waiting(uow, user)
            spend_proof(uow, user, decision.obligations, at)
            uow.requests.add(request)
            created: journal.About = {**about, "request": request.id}
            noted = [journal.append(ctx, uow, "request:created", data=_told(request, told), **created)]
            if request.is_quorate():
                grant, events = grant_in(ctx, uow, request, at)
                noted += events
    except Denied as no:
        raise journal.refuse(ctx, "request:denied", no.refusal, **about, data=told) from no
    confirm_or_revoke(ctx, grant, *noted)
    outcome = Outcome(request if grant is None else replace(request, state=RequestState.GRANTED), grant, decision)
    announce(ctx, outcome)
    return outcome


def confirm_or_revoke(ctx: Context, grant: Grant | None, *event_ids: str) -> None:
    """Wait for the log. A grant that it does not confirm is taken back: who is told "no" must not have it."""
    try:
        journal.confirm_logged(ctx, *event_ids)
    except Unavailable:
        taken_back = revoke(grant, ctx.clock.now(), "", "the log did not confirm it") if grant else None
        if isinstance(taken_back, Grant):
            with ctx.store.begin() as uow:
                uow.grants.save(taken_back)
                data = {"reason": taken_back.revoke_reason, "holder": taken_back.holder_name}
                journal.append(ctx, uow, "grant:revoked", data=data, **journal.about_grant(taken_back))
        raise


def announce(ctx: Context, outcome: Outcome) -> None:
    """Tell whom policy wants told; break-glass is told in any case."""
    request, grant = outcome.request, outcome.grant
    channels = set(request.obligations.notify)
    if request.kind is RequestKind.BREAK_GLASS:
        channels = channels or {"default"}
    what = f"{request.requester_name} {'has' if grant else 'asks for'} {request.level} on {request.target}"
    title = f"Break-glass: {what}" if request.kind is RequestKind.BREAK_GLASS else what
    fields = {"request": request.id, "incident": request.incident}
    if grant is not None:
        fields |= {"grant": grant.id, "until": grant.window.not_after.isoformat()}
        if request.obligations.review:
            fields["review"] = f"gw review {grant.id}"
    for channel in sorted(channels):
        ctx.notifier.notify(channel, title, request.reason, fields)


def grant_in(ctx: Context, uow: UnitOfWork, request: Request, at: datetime) -> tuple[Grant, list[str]]:
    """Issue the grant of a quorate request inside a transaction, with the review it owes; (grant, event ids).

    Denied for who was disabled since they asked: what came after that would be theirs when they are enabled again.
    """
    holder = uow.users.get(request.requester)
    if holder is None or not holder.is_enabled():
        raise Denied(Refusal("user-disabled", f"{request.requester_name} is disabled, so there is nothing to grant."))
    grant = issue(request, ctx.ids.new("grt"), at)
    settled = settle(request, RequestState.GRANTED)
    if isinstance(grant, Refusal):
        raise Denied(grant)
    if isinstance(settled, Refusal) or not uow.requests.save(settled, RequestState.PENDING):
        raise Conflict(Refusal("already-decided", "Somebody else has decided this request already."))
    uow.grants.add(grant)
    data = {
        "holder": grant.holder,
        "level": grant.level,
        "not_before": grant.window.not_before.isoformat(),
        "not_after": grant.window.not_after.isoformat(),
        "kind": grant.kind.value,
        "incident": grant.incident,
        "policies": list(request.policies),
        "policy_set": request.policy_set,
        "facts": dict(request.facts),
        "approved_by": sorted(request.approved_by()),
    }
    events = [journal.append(ctx, uow, "grant:issued", **journal.about_grant(grant), data=data)]
    review = review_owed(grant, ctx.ids.new("rev"))
    if review is not None:
        uow.reviews.add(review)
        due = {"review": review.id, "due_at": review.due_at.isoformat()}
        events.append(journal.append(ctx, uow, "review:owed", **journal.about_grant(grant), data=due))
    return grant, events


def _request(
    ctx: Context, user: User, ask: Ask, kind: RequestKind, decision: Permit, facts: Facts, at: datetime
) -> Request:
    return Request(
        id=ctx.ids.new("req"),
        requester=user.id,
        requester_name=user.name,
        target=ask.target,
        level=ask.level,
        duration=within_duty(ask.duration, facts, at),
        reason=ask.reason.strip(),
        incident=ask.incident,
        kind=kind,
        created_at=at,
        obligations=decision.obligations,
        policies=decision.policies,
        policy_set=decision.policy_set,
        facts=decision.facts,
    )


def within_duty(duration: timedelta, facts: Facts, at: datetime) -> timedelta:
    """A grant never outlives the shift and its grace, unless an incident of the service is open."""
    until = facts.on_call.until if facts.on_call and facts.on_call.is_on_call else None
    return duration if facts.is_in_incident() or until is None else min(duration, until - at)


def _check_waiting(uow: UnitOfWork, user: User) -> None:
    """Approvers read a list, and nobody may fill it. Inside the transaction: who ask at once are counted in turn."""
    if len(uow.requests.list(requester=user.id, state=RequestState.PENDING, limit=MOST_WAITING)) >= MOST_WAITING:
        why = f"{MOST_WAITING} requests of yours are waiting already."
        raise Denied(Refusal("too-many-requests", why, (), ("gw requests",)))


def _told(request: Request, told: dict[str, str]) -> dict[str, object]:
    return {
        **told,
        "policies": list(request.policies),
        "approvals_needed": request.obligations.approvals,
        "duration_s": int(request.effective_duration().total_seconds()),
    }
