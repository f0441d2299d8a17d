"""Run what was asked for: one target after the other, each decided again, recorded, and in the log before it begins.

A target is touched only while the run still holds the lock that it took. The first step that does not succeed ends the
run; what was not reached is `not-run`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Event
from typing import TypeVar

from gateway.app import journal
from gateway.app.ask_deploy import Planned
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.decide_deploy import about, decide_deploy, told
from gateway.app.deploy_live import Feed, noted
from gateway.app.deploy_ports import Ended, Job, Output, Stop
from gateway.app.deploy_record import StepRecord
from gateway.app.deploy_session import session_of
from gateway.app.ports import UnitOfWork
from gateway.app.recording_ports import Recording, RecordingFailed
from gateway.app.run_migration import run_migration
from gateway.core.errors import Conflict, Denied, GatewayError, Refusal, Unavailable
from gateway.core.obligation import Record
from gateway.core.principal import Principal, User
from gateway.core.rollout import Run, Step, StepState, is_held, outcome, place
from gateway.core.target import Kind, Target
from gateway.core.verb import Bound

LOG = logging.getLogger(__name__)
T = TypeVar("T")
TRY_AGAIN_S = 1.0
DURABLE_WITHIN = timedelta(seconds=5)
TRIES = 60  # to store an end while the store is away
_LOST = Refusal("lock-lost", "Another gateway has taken the lock over, so nothing more is done here.")
_REVOKED = Refusal("token-revoked", "The deploy token was revoked, so the run goes no further.")
_DISABLED = Refusal("user-disabled", "The account of whoever asked is disabled, so the run goes no further.")


def start_run(ctx: Context, planned: Planned) -> Feed | None:
    """Execute a new run in a thread of its own; what it says. None for one that is over, or another gateway's."""
    if planned.is_new:
        feed = ctx.deploys.live.feed(planned.run.id)
        assert feed is not None  # reserved when it was stored
        ctx.deploys.live.start(planned.run.id, lambda: _Rollout(ctx, planned, feed).run())
        return feed
    return ctx.deploys.live.feed(planned.run.id)


def about_step(run: Run, step: Step) -> journal.About:
    """The fields that tie an event to a step."""
    return {"principal": run.principal_name, "target": step.target, "grant": run.grant, "session": step.session}


@dataclass(slots=True)
class _Rollout:
    ctx: Context
    planned: Planned
    feed: Feed

    def run(self) -> None:
        """Every step, then the end; returns when both are stored."""
        ctx, run = self.ctx, self.planned.run
        done: list[Step] = []
        self._say("run", facts={"run": run.id, "verb": run.verb, "targets": list(run.targets)})
        for step in self.planned.steps:
            is_broken = any(each.state is not StepState.SUCCEEDED for each in done)
            done.append(self._left_out(step) if is_broken else self._step(step))
        over = patiently(lambda: finish(ctx, run, done), "the end of a run")
        self._say("end", facts=end_told(over))

    def _left_out(self, step: Step) -> Step:
        over = replace(step, state=StepState.NOT_RUN, detail="an earlier step did not succeed")
        patiently(lambda: _save(self.ctx, over, StepState.WAITING), "a step that was left out")
        self._tell(over)
        return over

    def _step(self, step: Step) -> Step:
        """One target. Whatever goes wrong before its command has begun leaves it as it was."""
        try:
            target, recording, begun = self._begin(step)
        except (GatewayError, RecordingFailed) as no:
            refusal = no.refusal if isinstance(no, GatewayError) else _NOT_RECORDED
            why, is_cancelled = self.ctx.deploys.live.stopped(step.run)
            state = StepState.CANCELLED if why and is_cancelled else StepState.FAILED
            over = replace(step, state=state, ended_at=self.ctx.clock.now(), detail=why or refusal.sentence())
            patiently(lambda: _save(self.ctx, over, StepState.WAITING), "a step that did not begin")
            self._tell(over)
            return over
        self._tell(begun)
        bound = self.planned.bound[target.name]
        record = StepRecord(recording, self.ctx.clock.now, bound.verb.output_limit)
        ended = self._execute(begun, target, bound, recording, record)
        return self._end(begun, recording, record, ended)

    def _begin(self, step: Step) -> tuple[Target, Recording, Step]:
        ctx, run = self.ctx, self.planned.run
        why, _ = ctx.deploys.live.stopped(run.id)
        if why:
            raise Conflict(Refusal("run-stopped", "The run was ended before this step."))
        target = ctx.catalogue.current().targets.get(step.target)
        if target is None or target.verbs.get(run.verb) != self.planned.bound[step.target].verb:
            raise Conflict(Refusal("catalogue-changed", "The catalogue has changed this verb since the run began."))
        principal = self._principal_now()
        decide_deploy(ctx, principal, run, target, "deploy:denied", override=bool(run.grant))
        begun = replace(step, state=StepState.RUNNING, started_at=ctx.clock.now())
        recording = ctx.recorder.open(
            session_of(run, begun),
            self.planned.record,
            lambda: ctx.deploys.live.stop(run.id, "it can no longer be recorded", is_cancelled=False),
        )
        try:
            _store_begin(ctx, run, begun, target.kind, self.planned.event)
        except GatewayError:
            recording.seal()
            raise
        return target, recording, begun

    def _principal_now(self) -> Principal:
        """Who asked, as known now: people are disabled, tokens revoked."""
        caller = self.planned.caller
        with self.ctx.store.read() as uow:
            if caller.token is not None:
                if uow.credentials.find(digest_of(caller.token.id), "deploy-revoked") is not None:
                    raise Denied(_REVOKED)
                return caller.principal
            user = uow.users.get(caller.principal.id)
        if not isinstance(user, User) or not user.is_enabled():
            raise Denied(_DISABLED)
        return user

    def _durable(self, recording: Recording, number: int) -> None:
        if self.planned.record is Record.REQUIRE:
            recording.wait_durable(number, DURABLE_WITHIN)

    def _execute(self, step: Step, target: Target, bound: Bound, recording: Recording, record: StepRecord) -> Ended:
        ctx, run = self.ctx, self.planned.run

        def output(stream: str, data: bytes) -> None:
            kept = record.output(stream, data)
            if kept:
                self.feed.put(Output(stream, ctx.clock.now(), target.name, kept))

        def on_start(stop: Stop) -> None:
            with ctx.store.read() as uow:
                if not is_held(uow.deploys.lock(target.name), run.id, step.fence):
                    raise Conflict(_LOST)
            # Every target has its verb's time; what one leaves is not the next one's.
            ctx.deploys.live.expect_end(run.id, min(run.deadline, ctx.clock.now() + bound.verb.timeout))
            ctx.deploys.live.on_stop(run.id, stop)

        try:
            if target.kind is Kind.POSTGRES:
                text = self.planned.input.decode("utf-8", "backslashreplace")
                self._durable(recording, record.begin("sql", text))
                return run_migration(
                    ctx, run, step, target, bound.verb, self.planned.input, output=output, on_start=on_start
                )
            command = bound.command_line()
            self._durable(recording, record.begin("exec", command, argv=list(bound.argv()), verb=run.verb))
            job = Job(session_of(run, step), target, bound.verb.account, command, self.planned.input)
            return ctx.deploys.for_commands().run(job, output, on_start)
        except GatewayError as no:
            return Ended(None, no.refusal.sentence(), started=False)
        except RecordingFailed:
            return Ended(None, _NOT_RECORDED.message)
        finally:
            ctx.deploys.live.on_stop(run.id, None)
            ctx.deploys.live.expect_end(run.id, run.deadline)

    def _end(self, step: Step, recording: Recording, record: StepRecord, ended: Ended) -> Step:
        ctx, run = self.ctx, self.planned.run
        why, is_cancelled = ctx.deploys.live.stopped(run.id)
        try:
            record.end(ended.status, ended.detail)
            count, digest = recording.seal()
        except RecordingFailed:
            count, digest = recording.digest()
            why = why or _NOT_RECORDED.message
        state = StepState.SUCCEEDED if ended.status == 0 and not why else StepState.FAILED
        if why and is_cancelled:
            state = StepState.CANCELLED
        detail = why or ended.detail or (f"exit status {ended.status}" if ended.status else "")
        over = replace(
            step,
            state=state,
            ended_at=ctx.clock.now(),
            exit_status=ended.status,
            detail=detail,
            recording_digest=f"{count}:{digest}",
        )
        over = patiently(lambda: store_step_end(ctx, run, over, started=ended.started), "the end of a step")
        self._tell(over)
        return over

    def _tell(self, step: Step) -> None:
        self._say("step", step.target, facts={**step_told(step), "of": len(self.planned.steps)})
        if step.state is StepState.FAILED and not step.started_at:
            self.feed.put(noted(self.ctx.clock.now(), step.detail, step.target))

    def _say(self, kind: str, target: str = "", *, facts: dict[str, object]) -> None:
        self.feed.put(Output(kind, self.ctx.clock.now(), target, facts=facts))


_NOT_RECORDED = Refusal(
    "recorder-unavailable",
    "This cannot be recorded, so it is not run.",
    next_steps=("Call the gateway's operators: its recording disk is full or failing.",),
)


def step_told(step: Step) -> dict[str, object]:
    """A step for whoever watches."""
    return {
        "state": step.state.value,
        "place": step.place,
        "session": step.session,
        "exit_status": step.exit_status,
        "detail": step.detail,
    }


def end_told(run: Run) -> dict[str, object]:
    """The end of a run for whoever watches."""
    return {"run": run.id, "state": run.state.value, "exit_status": run.exit_status, "detail": run.detail}


def patiently(store: Callable[[], T], what: str) -> T:
    """Store an end; the store may be away for a while. Unavailable when it stays away: recovery closes the books."""
    pause = Event()
    for _ in range(TRIES):
        try:
            return store()
        except Unavailable as why:
            LOG.warning("%s is stored later: %s", what, why.refusal.message)
            pause.wait(TRY_AGAIN_S)
    return store()


def _store_begin(ctx: Context, run: Run, step: Step, kind: Kind, *earlier: str) -> None:
    """In the log before anything is sent."""
    level = f"verb:{run.verb}"
    data = {"level": level, "protocol": kind.value, "run": run.id, "account": step.account, "fence": step.fence}
    with ctx.store.begin() as uow:
        if not is_held(uow.deploys.lock(step.target), run.id, step.fence):
            raise Conflict(_LOST)
        if not uow.deploys.save_step(step, StepState.WAITING):
            raise Conflict(_LOST)
        noted_ = journal.append(ctx, uow, "session:started", data=data, **about_step(run, step))
    try:
        journal.confirm_logged(ctx, noted_, *filter(None, earlier))
    except Unavailable:
        over = replace(step, state=StepState.FAILED, ended_at=ctx.clock.now(), detail="the log did not confirm")
        store_step_end(ctx, run, over, started=False)
        raise


def _save(ctx: Context, step: Step, expected: StepState) -> None:
    with ctx.store.begin() as uow:
        uow.deploys.save_step(step, expected)


def store_step_end(ctx: Context, run: Run, step: Step, *, started: bool) -> Step:
    """A step's end, its event, and what runs there now; the step as stored. Whoever lost the lock changes nothing."""
    with ctx.store.begin() as uow:
        if not uow.deploys.save_step(step, StepState.RUNNING):
            return next((s for s in uow.deploys.steps(run.id) if s.target == step.target), step)
        count, _, digest = step.recording_digest.partition(":")
        data = {
            "reason": step.state.value,
            "detail": step.detail,
            "exit_status": step.exit_status,
            "run": run.id,
            "records": int(count or 0),
            "digest": digest,
        }
        journal.append(ctx, uow, "session:ended", data=data, **about_step(run, step))
        if started and run.version and is_held(uow.deploys.lock(step.target), run.id, step.fence):
            _place(uow, run, step)
    return step


def _place(uow: UnitOfWork, run: Run, step: Step) -> None:
    before = uow.deploys.placements([step.target]).get(step.target)
    at = step.ended_at or run.started_at
    uow.deploys.put_placement(place(before, run, step.target, at, succeeded=step.state is StepState.SUCCEEDED))


def finish(ctx: Context, run: Run, steps: list[Step]) -> Run:
    """The end of a run: its event, its locks free. The first end stands."""
    over = outcome(run, steps, ctx.clock.now())
    with ctx.store.begin() as uow:
        if not uow.deploys.save(over):
            return uow.deploys.get(run.id) or over
        for step in steps:
            uow.deploys.release(step.target, run.id, step.fence)
        data = {
            **told(run),
            "state": over.state.value,
            "exit_status": over.exit_status,
            "detail": over.detail,
            "steps": [{"target": s.target, "state": s.state.value, "session": s.session} for s in steps],
        }
        is_ok = over.exit_status == 0
        journal.append(ctx, uow, "deploy:finished", "ok" if is_ok else "failed", data, **about(run))
    return over
