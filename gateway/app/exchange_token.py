"""Token exchange (RFC 8693): a pipeline's own token for a deploy token that can only run the verbs it names.

INVARIANT: what was minted leaves this module only after the token was claimed in the store, with the event that tells
of it; of two exchanges of one token at once, one finds it used. The claim outlives the token. It is minted before it
is claimed, in memory: what cannot be minted uses no token up, and the log tells of none that never was.

As with a ticket, nobody waits here until the log is signed: that is done before the token has any effect, when a run
starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.judge_job_token import Judged, judge
from gateway.app.people_ports import Credential
from gateway.app.ports import UnitOfWork
from gateway.app.refuse_stranger import refuse_stranger
from gateway.app.verify_deploy_token import LONGEST_LIFE, is_our_own, usable_rights
from gateway.core.deploy_token import Right, mint
from gateway.core.errors import Denied, GatewayError, Refusal, Unavailable
from gateway.core.job_token import LEEWAY, ends_at, single_use_mark
from gateway.core.principal import Workload
from gateway.core.trust import Issuer, RuleResult, TrustRule
from gateway.core.trust_match import knows, workload_of

_USED = "exchange"
_RUN_KEPT = timedelta(days=35)  # the longest that GitHub lets a run wait and go on
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Exchanged:
    """`token` is the deploy token, shown once."""

    token: str = field(repr=False)
    id: str
    workload: Workload
    rights: frozenset[Right]
    issued_at: datetime
    not_after: datetime


class BadScope(Denied):
    """A good token, but it may not have the rights that were asked for (RFC 6749 §5.2 `invalid_scope`)."""


def exchange_token(ctx: Context, subject_token: str, scope: Sequence[Right] = (), client: str = "") -> Exchanged:
    """A deploy token for the workload that the trust policies make of the token; with no `scope`, all of its rights.

    Raises Denied (BadScope for rights that it may not have) or Unavailable; every outcome is in the log.
    """
    if not ctx.deploy_keys.root_keys():
        raise Unavailable(Refusal("exchange-closed", "This gateway mints no deploy tokens."))
    at = ctx.clock.now()
    judged = _judged(ctx, subject_token, at, client)
    rule = judged.rule()
    if judged.issuer is None or rule is None:
        raise _refused(ctx, judged, _why(judged), client)
    mark = single_use_mark(judged.issuer, judged.claims, subject_token)
    workload = workload_of(judged.issuer, rule.rule, judged.claims, mark)
    usable = usable_rights(ctx, judged.issuer, rule.rule)
    rights = frozenset(scope) or usable
    if not rights or not rights <= usable:
        raise _refused(ctx, judged, _not_allowed(rule, usable, rights), client, workload, BadScope)
    return _minted_and_claimed(ctx, judged, judged.issuer, rule.rule, mark, workload, rights, at, client)


def _judged(ctx: Context, text: str, at: datetime, client: str) -> Judged:
    if is_our_own(text):
        nothing = Judged(None, {}, (), (), is_signed=False)
        raise _refused(ctx, nothing, _OUR_OWN, client)
    try:
        return judge(ctx.trust.current(), ctx.job_tokens, text, at)
    except Unavailable as no:
        raise refuse_stranger(ctx, client, "token:refused", no.refusal, Unavailable, outcome="failed") from no


def _minted_and_claimed(
    ctx: Context,
    judged: Judged,
    issuer: Issuer,
    rule: TrustRule,
    mark: str,
    workload: Workload,
    rights: frozenset[Right],
    at: datetime,
    client: str,
) -> Exchanged:
    until = ends_at(judged.claims)
    life = issuer.token_life
    not_after = min(until if life is None else at + life, at + LONGEST_LIFE).replace(microsecond=0)
    token_id = ctx.ids.new("dtk")
    key = ctx.deploy_keys.root_keys()[0]
    try:
        token = mint(
            key, id=token_id, workload=workload, rights=rights, issued_at=at, not_after=not_after, terms=rule.terms
        )
    except ValueError as why:
        raise _refused(ctx, judged, Refusal("token-too-large", f"{why}."), client, workload, BadScope) from why
    with ctx.store.begin() as uow:
        no = _claim(uow, issuer, mark, workload.run, at, until)
        if no is None:
            data = {**_about(workload, client), "token": token_id, "rights": _listed(rights), "until": str(not_after)}
            data["trust_policies"] = ctx.trust.current().digest
            journal.append(ctx, uow, "token:exchanged", data=data, principal=workload.name)
    if no is not None:
        raise _refused(ctx, judged, no, client, workload)
    return Exchanged(token, token_id, workload, rights, at, not_after)


def _claim(uow: UnitOfWork, issuer: Issuer, mark: str, run: str, at: datetime, until: datetime) -> Refusal | None:
    """Use the token up; why not, when it was used or its run has had enough. The store lets one writer in at a time."""
    if uow.credentials.find(mark, _USED) is not None:
        return _USED_UP
    so_far = uow.credentials.count_for(run, _USED)
    if so_far >= issuer.exchanges_per_run:
        return Refusal(
            "run-budget-spent",
            f"This run has exchanged {so_far} tokens, and {issuer.exchanges_per_run} is the most.",
            ("a new run",),
            ("Exchange once and hand the deploy token on, or raise exchanges_per_run of the issuer.",),
        )
    # Kept until the token cannot be good any more by any of our clocks, so that there is no gap to replay it in, and
    # for as long as its run may go on, whose budget it is part of.
    kept = max(until + 2 * LEEWAY, at + _RUN_KEPT)
    uow.credentials.add(Credential(mark, _USED, run, at, kept, single_use=True, used_at=at))
    return None


# ---------------------------------------------------------------- refusals


def _refused(
    ctx: Context,
    judged: Judged,
    refusal: Refusal,
    client: str,
    workload: Workload | None = None,
    kind: type[Denied] = Denied,
) -> GatewayError:
    """Store the refusal, naming the claims that failed and never the token; the exception to raise."""
    data: dict[str, object]
    if workload is not None:
        data = _about(workload, client)
    else:
        data = {"failed": list(judged.failed()), "issuer": _said(judged, "iss"), "subject": _said(judged, "sub")}
        data |= {"signed": judged.is_signed, "trust_policy": judged.rules[0].rule.name if judged.rules else ""}
    about: journal.About = {"principal": workload.name if workload is not None else ""}
    return refuse_stranger(ctx, client, "token:refused", refusal, kind, data, about=about)


def _said(judged: Judged, name: str) -> str:
    value = judged.claims.get(name)
    return value[:_SHOWN] if isinstance(value, str) else ""


def _about(workload: Workload, client: str) -> dict[str, object]:
    return {
        "trust_policy": workload.trust_policy,
        "workload": workload.id,
        "issuer": workload.issuer,
        "subject": workload.subject,
        "repository": workload.repository,
        "ref": workload.ref,
        "commit": workload.commit,
        "run": workload.run,
        "environment": workload.environment,
        "actor": workload.actor,
        "client": client[:_SHOWN],
    }


def _why(judged: Judged) -> Refusal:
    """Whoever owns a repository that a rule is about is told which claim failed; strangers learn of no rule."""
    if not judged.is_good():
        wrong = next((result for result in judged.token if not result.held), None)
        said = f"its {wrong.claim} {wrong.said}" if wrong else "it is no signed token"
        return Refusal("job-token-refused", f"The job's token does not hold: {said}.", judged.failed(), _EXPLAIN)
    nearest = judged.rules[0] if judged.rules else None
    if nearest is None or judged.issuer is None or not knows(judged.issuer, nearest):
        return Refusal("not-trusted", "No trust policy knows this pipeline.", ("a trust policy",), _ASK)
    told = "; ".join(f"{result.claim} {result.said}" for result in nearest.claims if not result.held)
    said = f"The trust policy {nearest.rule.name} does not hold: {told}."
    return Refusal("not-trusted", said, nearest.failed(), _EXPLAIN)


def _not_allowed(rule: RuleResult, usable: frozenset[Right], wanted: frozenset[Right]) -> Refusal:
    beyond = ", ".join(_listed(wanted - usable)) or "anything"
    allowed = ", ".join(_listed(usable)) or "nothing"
    said = f"The trust policy {rule.rule.name} does not allow {beyond}; it allows {allowed}."
    return Refusal("not-allowed", said, tuple(_listed(wanted - usable)), _ASK)


def _listed(rights: frozenset[Right]) -> list[str]:
    return sorted(f"{right.verb}:{right.target}" for right in rights)


_EXPLAIN = ("Whoever keeps the trust policies sees claim by claim what failed: gw trust explain.",)
_ASK = ("Ask whoever keeps the gateway's trust policies; gw trust init writes one to begin with.",)
_USED_UP = Refusal(
    "token-used",
    "This token was exchanged already, and each one counts once.",
    ("a token that was not used",),
    ("Ask the issuer for a new token in each job. If nobody of yours used this one, it was stolen: see the log.",),
)
_OUR_OWN = Refusal(
    "not-a-job-token",
    "That is a credential of this gateway; what is exchanged here is the token that the CI system gives a job.",
    ("the job's own OIDC token",),
    ("Revoke that credential if it came out of a pipeline.",),
)
