"""Another person's answer to a request. The requester's right is decided again at that moment."""

from collections.abc import Sequence
from dataclasses import replace

from gateway.app import journal
from gateway.app.authenticate import demand_signed_in
from gateway.app.authorise import authorise, find_target
from gateway.app.context import Context
from gateway.app.facts import Question, gather
from gateway.app.level_change import is_changed, level_changed
from gateway.app.request_access import Outcome, announce, confirm_or_revoke, grant_in, within_duty
from gateway.core.authentication import proof_of, unmet
from gateway.core.decision import Action, Deny, Facts, Permit, Query
from gateway.core.errors import Conflict, Denied, NotFound, Refusal
from gateway.core.grant import Grant
from gateway.core.level_terms import LEVEL_TERMS
from gateway.core.obligation import merge
from gateway.core.principal import User
from gateway.core.request import Approval, Request, RequestKind, RequestState, Verdict, add_approval

_GONE = Refusal("unknown-request", "There is no such request.", next_steps=("gw requests lists the open ones.",))


def answer(ctx: Context, user: User, request_id: str, verdict: Verdict, note: str = "") -> Outcome:
    """Approve or reject. Raises Denied (own request, no right), NotFound, Conflict (decided already)."""
    at = ctx.clock.now()
    with ctx.store.read() as uow:
        request = uow.requests.get(request_id)
        requester = uow.users.get(request.requester) if request else None
    if request is None or requester is None:
        raise NotFound(_GONE)
    about: journal.About = {"principal": user.name, "target": request.target, "request": request.id}
    approval = Approval(ctx.ids.new("apr"), request.id, user.id, verdict, at, note.strip()[:500])
    target = find_target(ctx, user, request.target, "approval:denied")
    wrong = add_approval(request, approval)
    if isinstance(wrong, Refusal):  # said before policy is asked: "your own" is a better answer than "not a lead"
        kind = Conflict if wrong.code in ("already-decided", "answered-already", "request-lapsed") else None
        raise journal.refuse(ctx, "approval:denied", wrong, **about) if kind is None else kind(wrong)
    authorise(ctx, user, Action.APPROVE, target, Facts(at, level=request.level, requester=request.requester))
    today = _as_of_now(ctx, user, requester, request) if verdict is Verdict.APPROVE else request
    grant: Grant | None = None
    try:
        with ctx.store.begin() as uow:
            demand_signed_in(uow, user)
            fresh = uow.requests.get(request_id)
            answered = add_approval(fresh, approval) if fresh else _GONE
            if isinstance(answered, Refusal) or not uow.requests.save(answered, RequestState.PENDING):
                raise Conflict(Refusal("already-decided", "Somebody else has decided this request already."))
            data = {"verdict": verdict.value, "note": approval.note, "requester": request.requester_name}
            noted = [journal.append(ctx, uow, "request:answered", **about, data=data)]
            due = replace(today, approvals=answered.approvals)
            if answered.state is RequestState.PENDING and due.is_quorate():
                grant, events = grant_in(ctx, uow, due, at)
                noted += events
                settled = uow.requests.get(request_id)
                answered = settled or answered
    except Denied as no:
        raise journal.refuse(ctx, "approval:denied", no.refusal, **about) from no
    confirm_or_revoke(ctx, grant, *noted)
    outcome = Outcome(answered, grant, Permit(today.policies, today.policy_set, today.obligations, today.facts))
    if grant is not None:
        announce(ctx, outcome)
    return outcome


def pending_for(ctx: Context, user: User) -> Sequence[Request]:
    """Open requests that this person may answer, newest first."""
    at = ctx.clock.now()
    targets = ctx.catalogue.current().targets
    with ctx.store.read() as uow:
        waiting = uow.requests.list(state=RequestState.PENDING)
    return [
        r
        for r in waiting
        if r.requester != user.id
        and (target := targets.get(r.target)) is not None
        and isinstance(
            ctx.policy.decide(Query(user, Action.APPROVE, target, Facts(at, level=r.level, requester=r.requester))),
            Permit,
        )
    ]


def _as_of_now(ctx: Context, user: User, requester: User, request: Request) -> Request:
    """The request under today's facts and duties: the incident may have closed, the shift ended, policy changed.

    A no to the requester is told of `user`, who tried to answer.
    """
    at = ctx.clock.now()
    about: journal.About = {"principal": user.name, "target": request.target, "request": request.id}
    data = {"requester": requester.name}
    if not requester.is_enabled():
        gone = Refusal("user-disabled", f"{requester.name} is disabled, so there is nothing to approve.")
        raise journal.refuse(ctx, "approval:denied", gone, data=data, **about)
    target = find_target(ctx, user, request.target, "approval:denied")
    if is_changed(target, request.level, request.facts):
        other = level_changed(request.level, target.name, request.facts)
        raise journal.refuse(ctx, "approval:denied", other, data=data, **about)
    is_break_glass = request.kind is RequestKind.BREAK_GLASS
    facts = gather(ctx, Question(requester, target, request.level, at, request.incident, is_break_glass))
    decision = ctx.policy.decide(Query(requester, Action.CONNECT, target, facts))
    if isinstance(decision, Deny):
        raise journal.refuse(ctx, "approval:denied", decision.refusal, data=data, **about)
    if unmet(decision.obligations, proof_of(request.facts.get("authentication")), request.created_at) is not None:
        raise journal.refuse(ctx, "approval:denied", _unproven(request), data=data, **about)
    return replace(
        request,
        duration=within_duty(request.duration, facts, at),
        obligations=merge((request.obligations, decision.obligations)),
        policies=decision.policies,
        policy_set=decision.policy_set,
        facts={**decision.facts, **{kept: request.facts.get(kept) for kept in ("authentication", LEVEL_TERMS)}},
    )


def _unproven(request: Request) -> Refusal:
    return Refusal(
        "proof-missing",
        f"Policy now asks for a proof of who {request.requester_name} is, and this request was made without.",
        ("a new request",),
        (f"{request.requester_name} asks anew, after gw step-up.",),
    )
