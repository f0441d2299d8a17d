"""What can be run where, what runs where, and what was run: for whoever is signed in, and for pipelines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.app.context import Context
from gateway.app.decide_deploy import Caller
from gateway.app.watch_deploys import UNKNOWN_RUN
from gateway.core.errors import NotFound, Refusal
from gateway.core.freeze import Freeze, in_force
from gateway.core.rollout import Lock, Placement, Run, Step
from gateway.core.target import Target
from gateway.core.verb import Verb

MOST_RUNS = 200


@dataclass(frozen=True, slots=True)
class VerbView:
    """One verb of one target, with the freezes that stop it now."""

    target: Target
    verb: Verb
    groups: tuple[str, ...]
    freezes: tuple[Freeze, ...]


@dataclass(frozen=True, slots=True)
class TargetView:
    """What is known of one target. `placement` None: the gateway has put nothing there."""

    target: Target
    placement: Placement | None
    lock: Lock | None
    freezes: tuple[Freeze, ...]


def verbs(ctx: Context, caller: Caller) -> Sequence[VerbView]:
    """Every verb, by target; to a pipeline those of the targets that its token names."""
    catalogue, at = ctx.catalogue.current(), ctx.clock.now()
    shown = _shown(ctx, caller)
    return [
        VerbView(
            target,
            verb,
            tuple(name for name, members in catalogue.groups.items() if target.name in members),
            in_force(catalogue.freezes, target.service, target.environment, verb.name, at),
        )
        for target in catalogue.targets.values()
        if target.name in shown
        for verb in target.verbs.values()
    ]


def status(ctx: Context, caller: Caller, names: Sequence[str]) -> Sequence[TargetView]:
    """What runs on these targets and groups; on all that have verbs when none is named. To a pipeline, of the targets
    that its token names.
    """
    catalogue, at = ctx.catalogue.current(), ctx.clock.now()
    shown = _shown(ctx, caller)
    targets = [target for target in _named(catalogue.targets, catalogue.groups, names) if target.name in shown]
    with ctx.store.read() as uow:
        placements = uow.deploys.placements([target.name for target in targets])
        locks = {target.name: uow.deploys.lock(target.name) for target in targets}
    views = []
    for target in targets:
        lock = locks[target.name]
        freezes = {
            freeze.name: freeze
            for verb in target.verbs
            for freeze in in_force(catalogue.freezes, target.service, target.environment, verb, at)
        }
        held = lock if lock is not None and lock.run and at < lock.until else None
        views.append(TargetView(target, placements.get(target.name), held, tuple(freezes.values())))
    return views


def _named(
    targets: Mapping[str, Target], groups: Mapping[str, tuple[str, ...]], names: Sequence[str]
) -> Sequence[Target]:
    if not names:
        return [target for target in targets.values() if target.verbs]
    unknown = [name for name in names if name not in targets and name not in groups]
    if unknown:
        raise NotFound(Refusal("unknown-target", f"There is no target or group called {unknown[0][:60]!r}."))
    chosen = [member for name in names for member in groups.get(name, (name,))]
    return [targets[name] for name in dict.fromkeys(chosen)]


def history(ctx: Context, caller: Caller, target: str, limit: int) -> Sequence[Run]:
    """Runs, newest first; of one target if it is named. To a pipeline, its own among them."""
    with ctx.store.read() as uow:
        whose = caller.principal.id if caller.token else ""
        runs = uow.deploys.list(target=target, principal=whose, limit=min(limit, MOST_RUNS))
    return [run for run in runs if _may_see(caller, run)]


def show_run(ctx: Context, caller: Caller, run_id: str) -> tuple[Run, Sequence[Step]]:
    """One run with its steps; NotFound, to a pipeline for one that is not its own, too."""
    with ctx.store.read() as uow:
        run = uow.deploys.get(run_id)
        steps = uow.deploys.steps(run_id)
    if run is None or not _may_see(caller, run):
        raise NotFound(UNKNOWN_RUN)
    return run, steps


def _may_see(caller: Caller, run: Run) -> bool:
    """People see every run. Others' parameters, reasons and addresses are nothing to a job, or to whoever took its
    token: it sees its own, on the targets that the token names.
    """
    if caller.token is None:
        return True
    return run.principal == caller.principal.id and {right.target for right in caller.token.rights} >= set(run.targets)


def _shown(ctx: Context, caller: Caller) -> frozenset[str]:
    if caller.token is None:
        return frozenset(ctx.catalogue.current().targets)
    return frozenset(right.target for right in caller.token.rights)
