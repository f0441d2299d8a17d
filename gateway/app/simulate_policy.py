"""What would policy say, and does it say what its tests expect: questions without effect."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from gateway.app.authorise import authorise, find_level, find_target
from gateway.app.context import Context
from gateway.app.facts import Question, gather
from gateway.app.ports import Policy
from gateway.core.decision import Action, Decision, Deny, DeployFacts, Facts, Permit, Query
from gateway.core.errors import NotFound, Refusal
from gateway.core.freeze import Freeze, in_force
from gateway.core.incident import Incident
from gateway.core.principal import User, Workload
from gateway.core.rota import Freshness, OnCall
from gateway.core.target import Kind, Level, Target
from gateway.core.verb import is_undone_by
from gateway.core.window import Window

_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
_SERVICE = "orders"
_WORKLOAD = Workload("wkl_test", "test", "test", "https://ci.example", "test", "test/test", "refs/heads/main", "", "1")
FREEZE = Freeze("test", Window(_AT, _AT + timedelta(days=1)), "test", "test")


def why(
    ctx: Context,
    user: User,
    as_name: str,
    target: str,
    level: str,
    incident: str = "",
    on_call: bool | None = None,
    break_glass: bool = False,
) -> Decision:
    """The decision on access as if `as_name` asked now. `on_call` None takes the rota's word, else overrides it.

    Everybody may ask about themselves; about others only those who may see the log. Denied or NotFound otherwise.
    """
    at = ctx.clock.now()
    person = user if as_name in ("", user.name) else _other(ctx, user, as_name, at)
    found = find_target(ctx, user, target, "policy:asked")
    find_level(ctx, user, found, level, "policy:asked")
    facts = gather(ctx, Question(person, found, level, at, incident, break_glass))
    if on_call is not None:
        facts = replace(facts, on_call=_supposed(facts.on_call, found.service, person.name, on_call, at))
    return ctx.policy.decide(Query(person, Action.CONNECT, found, facts))


@dataclass(frozen=True, slots=True)
class DeployQuestion:
    """A run of a verb, supposed. `pipeline`: by a job whose deploy token names verb and target, instead of a person."""

    verb: str
    override: bool = False
    to_previous: bool = False
    pipeline: bool = False


def why_deploy(
    ctx: Context,
    user: User,
    as_name: str,
    target: str,
    asked: DeployQuestion,
    incident: str = "",
    on_call: bool | None = None,
) -> Decision:
    """As `why`, of a run of a verb, with the freezes that are in force. Locks are no policy: `gw deploy status`."""
    at = ctx.clock.now()
    person = user if as_name in ("", user.name) else _other(ctx, user, as_name, at)
    found = find_target(ctx, user, target, "policy:asked")
    if asked.verb not in found.verbs:
        known = ", ".join(sorted(found.verbs)) or "none"
        raise NotFound(Refusal("unknown-verb", f"{target} has no such verb.", next_steps=(f"Its verbs: {known}.",)))
    is_rollback = is_undone_by(found.verbs, asked.verb)
    deploy = DeployFacts(
        verb=asked.verb,
        freezes=in_force(ctx.catalogue.current().freezes, found.service, found.environment, asked.verb, at),
        override=asked.override,
        is_rollback=is_rollback,
        to_previous=is_rollback and asked.to_previous,
        token_allows=asked.pipeline,
    )
    if asked.pipeline:
        return ctx.policy.decide(Query(_WORKLOAD, Action.DEPLOY, found, Facts(at, deploy=deploy)))
    facts = replace(gather(ctx, Question(person, found, "", at, incident)), deploy=deploy)
    if on_call is not None:
        facts = replace(facts, on_call=_supposed(facts.on_call, found.service, person.name, on_call, at))
    return ctx.policy.decide(Query(person, Action.DEPLOY, found, facts))


def _other(ctx: Context, user: User, name: str, at: datetime) -> User:
    authorise(ctx, user, Action.AUDIT, None, Facts(at))
    with ctx.store.read() as uow:
        person = uow.users.by_name(name)
    if person is None:
        raise NotFound(
            Refusal(
                "unknown-user",
                f"Nobody called {name[:60]!r} has signed in here.",
                next_steps=("People are known here from their first gw login on.",),
            )
        )
    return person


def _supposed(known: OnCall | None, service: str, subject: str, on_call: bool, at: datetime) -> OnCall:
    if not on_call:
        others = known.others if known else ()
        return OnCall(service, subject, is_on_call=False, freshness=Freshness.FRESH, others=others)
    if known is not None and known.is_on_call:
        return known
    return OnCall(service, subject, True, Freshness.FRESH, 1, at + timedelta(hours=1))


# ---------------------------------------------------------------- tests of policies


@dataclass(frozen=True, slots=True)
class PolicyCase:
    """One question and the answer that is expected of it.

    `on_call` is fresh, stale or no; `incident` is open, closed, other-service or none. What is None is not compared.
    """

    place: str
    question: str
    roles: tuple[str, ...]
    action: Action
    permit: bool
    environment: str | None = "production"  # None: the gateway itself
    level: str = ""
    on_call: str = "no"
    incident: str = "none"
    break_glass: bool = False
    own: bool = False
    approvals: int = 0
    labels: frozenset[str] = frozenset()
    deploy: DeployFacts | None = None
    workload: bool = False
    policies: frozenset[str] | None = None
    reason: str | None = None
    missing: frozenset[str] | None = None
    max_duration: timedelta | None = None
    needs_approvals: int | None = None
    review: bool | None = None
    record: str | None = None
    notify: frozenset[str] | None = None
    step_up: str | None = None
    max_auth_age: timedelta | None = None


@dataclass(frozen=True, slots=True)
class CaseResult:
    """`faults` is empty when the answer was the expected one; `decided` are the policies that decided."""

    case: PolicyCase
    faults: tuple[str, ...]
    decided: tuple[str, ...]


def run_policy_tests(policy: Policy, cases: Iterable[PolicyCase]) -> Sequence[CaseResult]:
    """Ask every question. Roles are given as groups of the same name, so `policy` must map them one to one."""
    return [_run(policy, case) for case in cases]


def _run(policy: Policy, case: PolicyCase) -> CaseResult:
    decision = policy.decide(_query(case))
    return CaseResult(case, tuple(_faults(case, decision)), decision.policies)


def _faults(case: PolicyCase, decision: Decision) -> Iterable[str]:
    if case.permit != isinstance(decision, Permit):
        yield f"expected {'permit' if case.permit else 'deny'}, got {_told(decision)}"
        return
    compared: list[tuple[str, object, object]] = [("policies", case.policies, frozenset(decision.policies))]
    if isinstance(decision, Deny):
        compared += [
            ("reason", case.reason, decision.refusal.code),
            ("missing", case.missing, frozenset(decision.refusal.missing)),
        ]
    else:
        duties = decision.obligations
        compared += [
            ("max_duration", case.max_duration, duties.max_duration),
            ("needs_approvals", case.needs_approvals, duties.approvals),
            ("review", case.review, duties.review),
            ("record", case.record, duties.record.value),
            ("notify", case.notify, duties.notify),
            ("step_up", case.step_up, duties.step_up.value),
            ("max_auth_age", case.max_auth_age, duties.max_auth_age),
        ]
    for name, expected, got in compared:
        if expected is not None and expected != got:
            yield f"expected {name} {_shown(expected)}, got {_shown(got)}"


def _told(decision: Decision) -> str:
    if isinstance(decision, Permit):
        return f"permit by {', '.join(decision.policies)}"
    return f"deny ({decision.refusal.code}: {decision.refusal.message})"


def _shown(value: object) -> str:
    return ", ".join(sorted(map(str, value))) or "none" if isinstance(value, frozenset) else str(value)


def _query(case: PolicyCase) -> Query:
    user = User("usr_test", "https://idp.example", "test", "test", groups=frozenset(case.roles))
    facts = Facts(
        at=_AT,
        level=case.level,
        on_call=None if case.workload else _duty(case.on_call),
        incident=_incident(case.incident),
        break_glass=case.break_glass,
        approvals=case.approvals,
        deploy=case.deploy,
        requester=user.id if case.own else "usr_somebody-else",
    )
    return Query(_WORKLOAD if case.workload else user, case.action, _target(case), facts)


def _target(case: PolicyCase) -> Target | None:
    if case.environment is None:
        return None
    names = ("read", "write", "admin", "shell", "root")
    levels = {name: Level(name, name, rank) for rank, name in enumerate(names)}
    # A deploy of the verb `migrate` is one of SQL; every other verb is a command on a server.
    kind = Kind.SSH if case.deploy is not None and case.deploy.verb != "migrate" else Kind.POSTGRES
    return Target("target", kind, _SERVICE, case.environment, "127.0.0.1", 5432, levels, labels=case.labels)


def _duty(word: str) -> OnCall:
    if word == "no":
        return OnCall(_SERVICE, "test", is_on_call=False, freshness=Freshness.FRESH, others=("somebody-else",))
    return OnCall(_SERVICE, "test", True, Freshness(word), 1, _AT + timedelta(hours=4))


def _incident(word: str) -> Incident | None:
    if word == "none":
        return None
    service = "another" if word == "other-service" else _SERVICE
    closed_at = _AT - timedelta(minutes=1) if word == "closed" else None
    return Incident("INC-1", service, "", _AT - timedelta(hours=1), closed_at, "test", _AT)
