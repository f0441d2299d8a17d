"""What deploys need from outside, beside `ports`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from gateway.core.rollout import Lock, Placement, Run, Step, StepState
from gateway.core.session import Session
from gateway.core.target import Target


class Deploys(Protocol):
    """Runs, their steps, the locks on targets and what runs where. One repository: they change together."""

    def add(self, run: Run, steps: Sequence[Step]) -> None: ...
    def get(self, run_id: str) -> Run | None: ...
    def by_key(self, key: str) -> Run | None: ...
    def save(self, run: Run) -> bool:
        """Store an end; False when it was over already."""
        ...

    def request_cancel(self, run_id: str, by: str) -> bool:
        """Mark for ending by the gateway that holds it; False when it is over or marked already."""
        ...

    def list(self, *, target: str = "", principal: str = "", limit: int = 50) -> Sequence[Run]:
        """Newest first."""
        ...

    def running(self, gateway: str = "") -> Sequence[Run]:
        """What is not over, of one gateway or of all."""
        ...

    def steps(self, run_id: str) -> Sequence[Step]:
        """In their order."""
        ...

    def step_of_session(self, session_id: str) -> tuple[Run, Step] | None: ...
    def save_step(self, step: Step, expected: StepState) -> bool:
        """Store all but its role if the stored state is still `expected`."""
        ...

    def set_role(self, step: Step) -> None:
        """Note the database role that is about to be made for it."""
        ...

    def steps_with_roles(self) -> Sequence[Step]:
        """Steps that are over and whose database role may still exist."""
        ...

    def role_is_gone(self, step: Step) -> None: ...
    def lock(self, target: str) -> Lock | None: ...
    def put_lock(self, lock: Lock) -> None: ...
    def release(self, target: str, run_id: str, fence: int) -> bool:
        """Free a lock that is still the run's; False when somebody has taken it over."""
        ...

    def placements(self, targets: Sequence[str] = ()) -> Mapping[str, Placement]:
        """By target; of all targets when none is named."""
        ...

    def put_placement(self, placement: Placement) -> None: ...


@dataclass(frozen=True, slots=True)
class Job:
    """One command on one target, or one script of SQL on one database."""

    session: Session  # names the run in the certificate's key id, and the recording
    target: Target
    account: str
    command: str = ""
    stdin: bytes = field(default=b"", repr=False)
    password: str = field(default="", repr=False)  # of the ephemeral database role, whose name is `account`
    in_transaction: bool = True


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended. `status` None when the target never said one; `detail` then says why."""

    status: int | None
    detail: str = ""
    started: bool = True  # False: the target has not heard of the command


class Stop(Protocol):
    """Tells a command to end, from another thread. Idempotent."""

    def __call__(self) -> None: ...


class Runner(Protocol):
    """Runs one job to its end, in the caller's thread."""

    def run(self, job: Job, output: Callable[[str, bytes], None], on_start: Callable[[Stop], None]) -> Ended:
        """`output(stream, data)` gets `out` and `err` as they come.

        `on_start` is called before anything is sent, with what ends the job early; it may raise, and then nothing was
        sent. Unavailable when the target cannot be reached or refuses the gateway.
        """
        ...


@dataclass(frozen=True, slots=True)
class HandedOver:
    """What became of what a migration made, by name."""

    made: Sequence[str]  # belongs to the owner now
    kept: Sequence[str] = ()  # stays with the account, and why
    changed: Sequence[str] = ()  # was made to run with its caller's rights, not its owner's


class SqlAccess(Protocol):
    """What a role may see and reach, and what becomes of what it made."""

    def readable(self, target: Target, account: str) -> Sequence[str]:
        """Relations of the database whose rows the role may read, a few of them by name."""
        ...

    def reachable(self, target: Target, account: str) -> Sequence[str]:
        """What would let the role act with somebody else's rights, in words."""
        ...

    def owned(self, target: Target, account: str, owner: str) -> Sequence[str]:
        """What there is to hand over, a few of them by name."""
        ...

    def hand_over(self, target: Target, account: str, owner: str) -> HandedOver:
        """What the role owns becomes the owner's, unless it could be used to act with the owner's rights."""
        ...


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a target said, or of what the gateway says of the run."""

    kind: str  # run | step | out | err | note | end
    at: datetime
    target: str = ""
    data: bytes = b""
    facts: Mapping[str, object] = field(default_factory=dict)
