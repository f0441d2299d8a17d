"""What can be run where, what runs where, and what was run: for whoever is signed in, and for pipelines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.app.context import Context
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


def verbs(ctx: Context) -> Sequence[VerbView]:
    """Every verb, by target."""
    catalogue, at = ctx.catalogue.current(), ctx.clock.now()
    return [
        VerbView(
            target,
            verb,
            tuple(name for name, members in catalogue.groups.items() if target.name in members),
            in_force(catalogue.freezes, target.service, target.environment, verb.name, at),
        )
        for target in catalogue.targets.values()
        for verb in target.verbs.values()
    ]


def status(ctx: Context, names: Sequence[str]) -> Sequence[TargetView]:
    """What runs on these targets and groups; on all that have verbs when none is named."""
    catalogue, at = ctx.catalogue.current(), ctx.clock.now()
    targets = _named(catalogue.targets, catalogue.groups, names)
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


def history(ctx: Context, target: str, limit: int) -> Sequence[Run]:
    """Runs, newest first; of one target if it is named."""
    with ctx.store.read() as uow:
        return uow.deploys.list(target=target, limit=min(limit, MOST_RUNS))


def show_run(ctx: Context, run_id: str) -> tuple[Run, Sequence[Step]]:
    """One run with its steps; NotFound."""
    with ctx.store.read() as uow:
        run = uow.deploys.get(run_id)
        steps = uow.deploys.steps(run_id)
    if run is None:
        raise NotFound(UNKNOWN_RUN)
    return run, steps
