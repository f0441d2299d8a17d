"""A run of a verb over targets: its steps, the lock on each target, and the memory of what runs where."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from gateway.core.errors import Refusal

LOCK_SLACK = timedelta(seconds=60)  # a lock outlives its run's deadline by what an orderly end takes
MOST_REMEMBERED = 50
MOST_TARGETS = 64


class RunState(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  # its gateway died


class StepState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    NOT_RUN = "not-run"


@dataclass(frozen=True, slots=True)
class Step:
    """One target's part of a run. `session` is the id of its recording, `exit_status` None where nothing said one.

    `role` is the ephemeral database role of a migration until it is gone.
    """

    run: str
    target: str
    place: int
    session: str
    account: str
    fence: int
    state: StepState = StepState.WAITING
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_status: int | None = None
    detail: str = ""
    recording_digest: str = ""
    role: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """`key` makes asking again harmless: the same key is the same run. `grant` is that of an override.

    `pipeline` are the facts of a job (repository, ref, commit, run) as told by its token. `goes_back_on` are the
    targets on which a rollback led, when it was asked for, to the version that ran before; the run itself changes that.
    """

    id: str
    key: str
    principal: str
    principal_kind: str
    principal_name: str
    verb: str
    targets: tuple[str, ...]
    parameters: Mapping[str, str]
    version: str
    is_rollback: bool
    gateway: str
    started_at: datetime
    deadline: datetime
    client: str = ""
    pipeline: Mapping[str, str] = field(default_factory=dict)
    incident: str = ""
    reason: str = ""
    grant: str = ""
    input_digest: str = ""
    state: RunState = RunState.RUNNING
    ended_at: datetime | None = None
    exit_status: int | None = None
    detail: str = ""
    cancelled_by: str = ""
    goes_back_on: tuple[str, ...] = ()

    def is_over(self) -> bool:
        """True once nothing more happens."""
        return self.state is not RunState.RUNNING


def outcome(run: Run, steps: Sequence[Step], at: datetime) -> Run:
    """The run, over: as its first step that did not succeed says."""
    broken = next((s for s in steps if s.state not in (StepState.SUCCEEDED, StepState.NOT_RUN)), None)
    if broken is None and all(s.state is StepState.SUCCEEDED for s in steps):
        return replace(run, state=RunState.SUCCEEDED, ended_at=at, exit_status=0)
    if broken is None:  # nothing ran at all
        return replace(run, state=RunState.FAILED, ended_at=at, exit_status=None, detail=_first_detail(steps))
    state = {StepState.CANCELLED: RunState.CANCELLED, StepState.INTERRUPTED: RunState.INTERRUPTED}
    ended = state.get(broken.state, RunState.FAILED)
    told = f"{broken.target}: {broken.detail}" if broken.detail else broken.target
    return replace(run, state=ended, ended_at=at, exit_status=broken.exit_status, detail=told)


def _first_detail(steps: Sequence[Step]) -> str:
    return next((s.detail for s in steps if s.detail), "")


# ---------------------------------------------------------------- locks


@dataclass(frozen=True, slots=True)
class Lock:
    """Who has a target to themselves. `run` "" when it is free; `fence` grows with every owner and never shrinks."""

    target: str
    fence: int
    run: str
    gateway: str
    holder: str
    verb: str
    taken_at: datetime
    until: datetime


def take(lock: Lock | None, run: Run, target: str, at: datetime, dead: Collection[str]) -> Lock | Refusal:
    """The lock in the run's hands, or whose it is. One that a `dead` gateway holds, or whose end is past, is free."""
    if lock is not None and lock.run and lock.gateway not in dead and at < lock.until:
        until = lock.until.strftime("%H:%M:%S UTC")
        return Refusal(
            "target-locked",
            f"{target} is locked by {lock.holder}, whose {lock.verb} ({lock.run}) has run since "
            f"{lock.taken_at.strftime('%H:%M:%S UTC')}.",
            (f"lock:{target}",),
            (
                f"gw deploy show {lock.run} follows it; the lock ends with the run, at the latest at {until}.",
                f"gw deploy cancel {lock.run} ends it, if it is yours or you are on call.",
            ),
        )
    fence = (lock.fence if lock else 0) + 1
    return Lock(target, fence, run.id, run.gateway, run.principal_name, run.verb, at, run.deadline + LOCK_SLACK)


def is_held(lock: Lock | None, run: str, fence: int) -> bool:
    """True while the run still has the lock that it took: nobody has taken it over since."""
    return lock is not None and lock.run == run and lock.fence == fence


# ---------------------------------------------------------------- what runs where


@dataclass(frozen=True, slots=True)
class Placement:
    """What runs on a target, as far as the gateway has put it there.

    `trail` are versions, oldest first; the last one ran through. `attempted` is set when a later run did not: then
    nobody knows what is there. `undoing` says that the attempt was a rollback.
    """

    target: str
    trail: tuple[str, ...]
    run: str
    by: str
    at: datetime
    attempted: str = ""
    undoing: bool = False

    def current(self) -> str:
        """The last version that was put there with success; "" when there is none."""
        return self.trail[-1] if self.trail else ""

    def is_certain(self) -> bool:
        """False when the last run did not end well."""
        return not self.attempted

    def previous(self) -> str:
        """Where a rollback leads; "" when there is nothing before."""
        if self.attempted:
            return self.attempted if self.undoing else self.current()
        return self.trail[-2] if len(self.trail) > 1 else ""


def place(before: Placement | None, run: Run, target: str, at: datetime, *, succeeded: bool) -> Placement:
    """What is there after a run. A rollback goes back along the trail, so that doing it again goes one further."""
    trail = before.trail if before else ()
    version = run.version
    if not succeeded:
        return Placement(target, trail, run.id, run.principal_name, at, version, run.is_rollback)
    if run.is_rollback and version in trail:
        kept = len(trail) - tuple(reversed(trail)).index(version)
        trail = trail[:kept]
    elif not trail or trail[-1] != version:
        trail = (*trail, version)[-MOST_REMEMBERED:]
    return Placement(target, trail, run.id, run.principal_name, at)


@dataclass(frozen=True, slots=True)
class WayBack:
    """One version for all targets that are not known to run it already, in their order."""

    version: str
    targets: tuple[str, ...]


def way_back(targets: Sequence[str], placements: Mapping[str, Placement]) -> WayBack | Refusal:
    """What undoes the newest run over these targets. Those that it had not reached run the version already."""
    known = [placements[name] for name in targets if name in placements]
    steps = ("gw deploy status shows what is known; --param version=… names one.",)
    if not known:
        return Refusal("no-version-known", "The gateway has put no version there yet.", ("a deploy",), steps)
    newest = max(known, key=lambda placement: placement.at)
    version = newest.previous()
    if not version:
        return Refusal("no-previous-version", f"Nothing ran on {newest.target} before.", ("a version before",), steps)
    moving = tuple(p.target for p in known if not (p.is_certain() and p.current() == version))
    return WayBack(version, moving)
