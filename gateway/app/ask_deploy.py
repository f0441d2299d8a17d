"""Ask for a run: which targets, with which values, decided on fresh facts, each target locked, and all of it stored
before anything happens.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from gateway.app import journal
from gateway.app.authenticate import NOT_SIGNED_IN
from gateway.app.context import Context
from gateway.app.decide_deploy import Caller, about, decide_deploy, goes_back_on, told
from gateway.app.demand_proof import missing_proof, spend_proof
from gateway.app.override_freeze import announce, break_glass_in, wrong_reason
from gateway.app.ports import UnitOfWork
from gateway.app.request_access import Outcome
from gateway.app.sign_ins import is_over
from gateway.core.decision import Permit
from gateway.core.deploy_token import parameters_digest
from gateway.core.errors import Conflict, Denied, GatewayError, NotFound, Refusal
from gateway.core.obligation import Obligations, Record, StepUp, merge
from gateway.core.principal import User
from gateway.core.rollout import MOST_TARGETS, Lock, Run, Step, WayBack, take, way_back
from gateway.core.target import Target
from gateway.core.verb import Bound, Verb, bind, is_undone_by

LONGEST_KEY = 200
ONLY_TO_OVERRIDE = Refusal(
    "break-glass-only",
    "You came in by passkey while the identity provider was down: of deploys that opens overrides alone.",
    ("--override",),
    ("In an emergency: gw deploy … --override --incident … --reason …", "Once the provider answers again: gw login"),
)
MOST_GIVEN = 32
PREVIOUS = "previous"


@dataclass(frozen=True, slots=True)
class DeployAsk:
    """What is asked for. `names` are targets and groups; `key` lets a person ask again without doing it again.

    `to` PREVIOUS fills in the version that ran before. `override` says that this is an emergency.
    """

    verb: str
    names: tuple[str, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    to: str = ""
    key: str = ""
    override: bool = False
    incident: str = ""
    reason: str = ""
    input: bytes = field(default=b"", repr=False)
    client: str = ""


@dataclass(frozen=True, slots=True)
class Planned:
    """A run that was allowed and stored, with what each target will do. `is_new` False: it was asked for before."""

    run: Run
    steps: tuple[Step, ...]
    bound: Mapping[str, Bound]
    caller: Caller
    input: bytes = field(repr=False)
    record: Record = Record.SPOOL
    event: str = ""
    is_new: bool = True


def ask_deploy(ctx: Context, caller: Caller, ask: DeployAsk) -> Planned:
    """Raises Denied, NotFound, Conflict (locked) or Unavailable, each "no" with its event."""
    at = ctx.clock.now()
    if caller.is_emergency and not ask.override:
        raise _no(ctx, caller, ask, ONLY_TO_OVERRIDE, Denied)
    targets = _targets(ctx, caller, ask)
    verbs = {target.name: _verb(ctx, caller, ask, target) for target in targets}
    if ask.to:
        back = _way_back(ctx, caller, ask, targets)
        ask = replace(ask, parameters={**ask.parameters, _version_of(verbs): back.version})
        targets = tuple(target for target in targets if target.name in back.targets)
    bound = {target.name: _bound(ctx, caller, ask, verbs[target.name]) for target in targets}
    _require_token(ctx, caller, ask, targets)
    run = _run(ctx, caller, ask, targets, bound, at)
    with ctx.store.read() as uow:
        known = _known_in(uow, run.key)
    if known is not None:
        return replace(known, caller=caller, bound=bound)
    run = replace(run, goes_back_on=goes_back_on(ctx, run))
    permits = [
        decide_deploy(ctx, caller.principal, run, target, "deploy:denied", override=ask.override) for target in targets
    ]
    permit = replace(permits[0], obligations=merge([caller.duties(), *(permit.obligations for permit in permits)]))
    wrong = _unfulfilled(ctx, caller, permit.obligations, ask) or (wrong_reason(ctx, run) if ask.override else None)
    if wrong is not None:
        raise _no(ctx, caller, ask, wrong, Denied)
    limit = permit.obligations.max_duration
    if limit is not None:
        run = replace(run, deadline=min(run.deadline, run.started_at + limit))
    return _store(ctx, Planned(run, (), bound, caller, ask.input, record=permit.obligations.record), ask, permit)


def _unfulfilled(ctx: Context, caller: Caller, duties: Obligations, ask: DeployAsk) -> Refusal | None:
    """A duty that a run cannot fulfil is a no (docs/policies.md)."""
    if duties.approvals:
        return Refusal("duty-unknown", "Policy asks for approvals, and a deploy verb has no way to collect them.")
    if duties.review and not ask.override:
        return Refusal("duty-unknown", "Policy asks for a review, which only an override has.", (), ("--override",))
    if isinstance(caller.principal, User):
        return missing_proof(ctx, caller.principal, duties, ctx.clock.now())
    if duties.step_up is not StepUp.NONE or duties.max_auth_age is not None:
        return Refusal("duty-unknown", "Policy asks for a proof of the person, and a pipeline is none.")
    return None


def _targets(ctx: Context, caller: Caller, ask: DeployAsk) -> tuple[Target, ...]:
    catalogue = ctx.catalogue.current()
    names: list[str] = []
    for name in ask.names:
        if name not in catalogue.targets and name not in catalogue.groups:
            refusal = Refusal(
                "unknown-target",
                f"There is no target or group called {name[:60]!r}.",
                next_steps=("gw deploy list shows verbs and where they run.",),
            )
            raise _no(ctx, caller, ask, refusal, NotFound)
        names += catalogue.groups.get(name, (name,))
    chosen = tuple(dict.fromkeys(names))
    if not 0 < len(chosen) <= MOST_TARGETS:
        refusal = Refusal("too-many-targets", f"A run has from 1 to {MOST_TARGETS} targets.")
        raise _no(ctx, caller, ask, refusal, Denied)
    return tuple(catalogue.targets[name] for name in chosen)


def _verb(ctx: Context, caller: Caller, ask: DeployAsk, target: Target) -> Verb:
    verb = target.verbs.get(ask.verb)
    if verb is None:
        known = ", ".join(sorted(target.verbs)) or "none"
        refusal = Refusal(
            "unknown-verb", f"{target.name} has no verb {ask.verb[:40]!r}.", next_steps=(f"Its verbs: {known}.",)
        )
        raise _no(ctx, caller, ask, refusal, NotFound, target.name)
    if len(ask.input) > verb.input_limit:
        takes = f"at most {verb.input_limit // 1024} KiB" if verb.input_limit else "none"
        refusal = Refusal("input-too-large", f"{verb.name} on {target.name} takes {takes} of input.")
        raise _no(ctx, caller, ask, refusal, Denied, target.name)
    if verb.runs_sql() and not ask.input.strip():
        refusal = Refusal("input-missing", f"{verb.name} runs SQL, and none was given.", (), ("Give it: --file FILE.",))
        raise _no(ctx, caller, ask, refusal, Denied, target.name)
    return verb


def _way_back(ctx: Context, caller: Caller, ask: DeployAsk, targets: Sequence[Target]) -> WayBack:
    if ask.to != PREVIOUS or any(not is_undone_by(target.verbs, ask.verb) for target in targets):
        refusal = Refusal(
            "not-a-rollback",
            f"{ask.verb} is not declared as the rollback of anything there, so nothing is known to go back to.",
            next_steps=("Name the version: --param version=…",),
        )
        raise _no(ctx, caller, ask, refusal, Denied)
    with ctx.store.read() as uow:
        placements = uow.deploys.placements([target.name for target in targets])
    back = way_back([target.name for target in targets], placements)
    if isinstance(back, WayBack) and not back.targets:
        back = Refusal("already-there", f"{back.version} is what runs there already, as far as is known.")
    if isinstance(back, Refusal):
        raise _no(ctx, caller, ask, back, Conflict)
    return back


def _version_of(verbs: Mapping[str, Verb]) -> str:
    return next(iter({verb.version for verb in verbs.values() if verb.version}), "version")


def _bound(ctx: Context, caller: Caller, ask: DeployAsk, verb: Verb) -> Bound:
    made = bind(verb, ask.parameters)
    if isinstance(made, Refusal):
        raise _no(ctx, caller, ask, made, Denied)
    return made


def digest_of_ask(ask: DeployAsk) -> str:
    """What a token's `parameters` caveat names: the values as given, and the digest of the input if there is one."""
    given = dict(ask.parameters)
    if ask.input:
        given["input"] = f"sha256:{hashlib.sha256(ask.input).hexdigest()}"
    return parameters_digest(ask.verb, given)


def _require_token(ctx: Context, caller: Caller, ask: DeployAsk, targets: Sequence[Target]) -> None:
    digest = digest_of_ask(ask)
    for target in targets:
        refusal = caller.token.refusal(target.name, ask.verb, digest) if caller.token else None
        if refusal is not None:
            raise _no(ctx, caller, ask, refusal, Denied, target.name)


def _run(
    ctx: Context,
    caller: Caller,
    ask: DeployAsk,
    targets: Sequence[Target],
    bound: Mapping[str, Bound],
    at: datetime,
) -> Run:
    run_id = ctx.ids.new("run")
    names = tuple(target.name for target in targets)
    values = bound[names[0]]
    timeout = sum((each.verb.timeout for each in bound.values()), start=timedelta(0))
    return Run(
        id=run_id,
        key=_key(caller, ask, names, run_id),
        principal=caller.principal.id,
        principal_kind=caller.kind(),
        principal_name=caller.principal.name,
        verb=ask.verb,
        targets=names,
        parameters=dict(values.values),
        version=values.version(),
        is_rollback=all(is_undone_by(target.verbs, ask.verb) for target in targets),
        gateway=ctx.gateway,
        started_at=at,
        deadline=at + timeout,
        client=ask.client,
        pipeline=caller.pipeline(),
        incident=ask.incident,
        reason=ask.reason.strip()[:500],
        input_digest=hashlib.sha256(ask.input).hexdigest() if ask.input else "",
    )


def _key(caller: Caller, ask: DeployAsk, names: Sequence[str], run_id: str) -> str:
    """The same job asking for the same again is the same run; so is a person who gives the same key."""
    once = caller.token.workload.run if caller.token else ask.key[:LONGEST_KEY]
    if caller.token and ask.key:
        once = f"{once} {ask.key[:LONGEST_KEY]}"
    told_apart = [caller.kind(), caller.principal.id, once or run_id, list(names), digest_of_ask(ask)]
    return hashlib.sha256(json.dumps(told_apart).encode()).hexdigest()


def _known_in(uow: UnitOfWork, key: str) -> Planned | None:
    run = uow.deploys.by_key(key)
    if run is None:
        return None
    return Planned(run, tuple(uow.deploys.steps(run.id)), {}, Caller(_NOBODY), b"", is_new=False)


_NOBODY = User("", "", "", "")


def _store(ctx: Context, planned: Planned, ask: DeployAsk, permit: Permit) -> Planned:
    """Locks, run, steps, an override's grant and the events in one transaction: all of it or nothing."""
    run = planned.run
    ctx.deploys.live.reserve(run.id, run.deadline)
    try:
        stored = _store_in(ctx, planned, ask, permit)
    except BaseException:
        ctx.deploys.live.discard(run.id)
        raise
    if not stored.is_new:
        ctx.deploys.live.discard(run.id)
    return stored


def _store_in(ctx: Context, planned: Planned, ask: DeployAsk, permit: Permit) -> Planned:
    run, at = planned.run, ctx.clock.now()
    broken: Outcome | None = None
    with ctx.store.begin() as uow:
        known = _known_in(uow, run.key)
        if known is not None:
            return replace(known, caller=planned.caller, bound=planned.bound)
        locks = NOT_SIGNED_IN if _is_gone(uow, planned.caller) else _taken(ctx, uow, run, at)
        if not isinstance(locks, Refusal):
            if isinstance(planned.caller.principal, User):
                spend_proof(uow, planned.caller.principal, permit.obligations, at)
            if ask.override:
                run, broken = break_glass_in(ctx, uow, run, permit)
            steps = tuple(_step(ctx, run, planned.bound[lock.target], lock, i) for i, lock in enumerate(locks))
            uow.deploys.add(run, steps)
            for lock in locks:
                uow.deploys.put_lock(lock)
            data = {**told(run), "policies": list(permit.policies), "policy_set": permit.policy_set}
            noted = journal.append(ctx, uow, "deploy:started", "attempt", data, **about(run))
    if isinstance(locks, Refusal):
        raise _no(ctx, planned.caller, ask, locks, Denied if locks is NOT_SIGNED_IN else Conflict)
    if broken is not None:
        announce(ctx, broken)
    else:
        title = f"{run.principal_name} runs {run.verb} on {', '.join(run.targets)}"
        for channel in sorted(permit.obligations.notify):
            ctx.notifier.notify(channel, title, run.reason, {"run": run.id, "version": run.version})
    return replace(planned, run=run, steps=steps, event=noted)


def _is_gone(uow: UnitOfWork, caller: Caller) -> bool:
    """True of a person who was signed out while policy was asked."""
    return isinstance(caller.principal, User) and is_over(uow, caller.principal)


def _taken(ctx: Context, uow: UnitOfWork, run: Run, at: datetime) -> list[Lock] | Refusal:
    dead = set(uow.gateways.silent_since(at - ctx.limits.gateway_silent_after)) - {ctx.gateway}
    taken: list[Lock] = []
    for name in run.targets:
        lock = take(uow.deploys.lock(name), run, name, at, dead)
        if isinstance(lock, Refusal):
            return lock
        taken.append(lock)
    return taken


def _step(ctx: Context, run: Run, bound: Bound, lock: Lock, place: int) -> Step:
    return Step(run.id, lock.target, place, ctx.ids.new("ses"), bound.verb.account, lock.fence)


def _no(
    ctx: Context,
    caller: Caller,
    ask: DeployAsk,
    refusal: Refusal,
    kind: type[GatewayError],
    target: str = "",
) -> GatewayError:
    """The values are left out: they were not judged, or were found wanting."""
    data = {"verb": ask.verb[:40], "names": [name[:60] for name in ask.names[:MOST_TARGETS]], **caller.pipeline()}
    where = target or ", ".join(name[:60] for name in ask.names[:5])
    return journal.refuse(ctx, "deploy:denied", refusal, kind, data, principal=caller.principal.name, target=where)
