"""Runs that must end: cancelled, over time, taken over; and the books of those whose gateway died."""

from dataclasses import replace

from gateway.app import journal
from gateway.app.authorise import authorise
from gateway.app.context import Context
from gateway.app.decide_deploy import Caller
from gateway.app.run_deploy import finish, store_step_end
from gateway.core.decision import Action, Facts
from gateway.core.deploy_token import Right
from gateway.core.errors import Conflict, Denied, NotFound, Refusal
from gateway.core.principal import User
from gateway.core.rollout import Run, Step, StepState

UNKNOWN_RUN = Refusal("unknown-run", "There is no such run.", next_steps=("gw deploy history lists them.",))


class RunWatch:
    """Looks after the runs of this process. A run must be missing twice in a row before its books are closed here."""

    def __init__(self) -> None:
        self._missing: frozenset[str] = frozenset()

    def tick(self, ctx: Context) -> None:
        """Call it every second or so. Cheap while nothing runs."""
        held, begun = ctx.deploys.live.ids(), ctx.deploys.live.begun()
        for run_id in ctx.deploys.live.overdue(ctx.clock.now()):  # from memory: the store may be away
            ctx.deploys.live.stop(run_id, "its time was up", is_cancelled=False)
        with ctx.store.read() as uow:
            stored = {run.id: run for run in uow.deploys.running(ctx.gateway)}
        lost = begun - set(stored)
        for run_id in lost:
            # Another gateway took this one for dead and freed its locks: whatever still runs here must end.
            if run_id not in self._missing:
                continue
            ctx.deploys.live.stop(run_id, "another gateway took it for dead", is_cancelled=False)
        for run in stored.values():
            if run.cancelled_by:
                ctx.deploys.live.stop(run.id, f"cancelled by {run.cancelled_by}")
        gone = frozenset(stored) - held
        for run_id in gone & self._missing:
            interrupt(ctx, stored[run_id], "its end could not be stored when it happened")
        self._missing = lost | (gone - self._missing)


def recover_deploys(ctx: Context) -> int:
    """At the start of a gateway: end what it had left running; how many there were. After `recover`."""
    with ctx.store.read() as uow:
        left = [run for run in uow.deploys.running(ctx.gateway) if run.id not in ctx.deploys.live.ids()]
    for run in left:
        interrupt(ctx, run, "the gateway stopped unexpectedly")
    return len(left)


def end_runs_of_the_silent(ctx: Context) -> int:
    """What a gateway that stopped beating had running is interrupted, and its locks are free; how many there were."""
    at = ctx.clock.now()
    with ctx.store.read() as uow:
        silent = set(uow.gateways.silent_since(at - ctx.limits.gateway_silent_after)) - {ctx.gateway}
        left = [run for run in uow.deploys.running() if run.gateway in silent]
    if left:
        ctx.recorder.recover_all()
    for run in left:
        interrupt(ctx, run, f"gateway {run.gateway} fell silent")
    return len(left)


def interrupt(ctx: Context, run: Run, why: str) -> Run:
    """Close the books on a run that nobody executes: recordings sealed, what is on the targets called uncertain."""
    with ctx.store.read() as uow:
        steps = list(uow.deploys.steps(run.id))
    return finish(ctx, run, [_interrupted(ctx, run, step, why) for step in steps])


def _interrupted(ctx: Context, run: Run, step: Step, why: str) -> Step:
    if step.state is StepState.RUNNING:
        count, digest = ctx.recorder.sealed_digest(step.session) or (0, "")
        over = replace(
            step,
            state=StepState.INTERRUPTED,
            ended_at=ctx.clock.now(),
            detail=why,
            recording_digest=f"{count}:{digest}",
        )
        return store_step_end(ctx, run, over, started=True)
    if step.state is StepState.WAITING:
        over = replace(step, state=StepState.NOT_RUN, detail=why)
        with ctx.store.begin() as uow:
            uow.deploys.save_step(over, StepState.WAITING)
        return over
    return step


def cancel_deploy(ctx: Context, caller: Caller, run_id: str) -> Run:
    """Mark for ending by the gateway that holds it: TERM for its command, no further step.

    Whoever asked for it may, and whoever policy lets end other people's sessions; a pipeline with a token that would
    let it run the same. NotFound, Denied or Conflict.
    """
    who = caller.principal
    with ctx.store.read() as uow:
        run = uow.deploys.get(run_id)
    if run is None:
        raise NotFound(UNKNOWN_RUN)
    _require_right(ctx, caller, run)
    with ctx.store.begin() as uow:
        if not uow.deploys.request_cancel(run.id, who.name):
            raise Conflict(Refusal("run-over", "That run is over, or being ended already."))
        about: journal.About = {"principal": who.name, "target": ", ".join(run.targets)}
        noted = journal.append(ctx, uow, "deploy:cancel-requested", data={"run": run.id, "verb": run.verb}, **about)
    ctx.deploys.live.stop(run.id, f"cancelled by {who.name}")
    journal.confirm_logged(ctx, noted)
    return run


def _require_right(ctx: Context, caller: Caller, run: Run) -> None:
    """A workload is the same in all of its jobs, and a token may have been narrowed for one of them."""
    who, token = caller.principal, caller.token
    is_named = token is None or token.rights >= {Right(name, run.verb) for name in run.targets}
    if who.id == run.principal and is_named:
        return
    if not isinstance(who, User):
        raise Denied(Refusal("not-yours", "A pipeline cancels its own runs only, and what its token lets it run."))
    for name in run.targets:
        target = ctx.catalogue.current().targets.get(name)
        facts = Facts(ctx.clock.now(), level=f"verb:{run.verb}", requester=run.principal)
        authorise(ctx, who, Action.KILL, target, facts)
