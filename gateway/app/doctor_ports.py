"""What the doctor needs from outside: a look at rights on a target, and a session there as the door would open it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.app.target_ports import DatabaseLogin
from gateway.core.errors import Refusal, Unavailable
from gateway.core.target import Level, Target


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the gateway needs on a target. `remedy`: what mends it, SQL where it is SQL, line by line.

    `what` is administrator, version, createrole, group, connect, database, elevation, reach, create, use, masks,
    terminate, revoke, leftover or zombie; `of` says which level, database or role.
    """

    what: str
    of: str
    ok: bool
    problem: str = ""
    remedy: tuple[str, ...] = ()

    @property
    def is_warning(self) -> bool:
        """True when the gateway can do its work, and somebody should look all the same."""
        return self.ok and bool(self.problem)


class TrialSession(Protocol):
    """A session on the target, as a person would have it."""

    @property
    def masks_problem(self) -> str:
        """Why the level's masks cannot be kept in this database, "" when they can, or there are none."""
        ...

    def ended(self) -> bool:
        """True when the target has ended it; waits a moment for that."""
        ...

    def close(self) -> None:
        """End it from this side; idempotent."""
        ...


class TargetDoctor(Protocol):
    def rights(self, target: Target) -> Sequence[Finding]:
        """What the administrator may and may not do there. Never raises: a target that does not answer is a finding."""
        ...

    def reach(self, target: Target) -> Finding:
        """Connect as a session would, with the catalogue's TLS, and say no more than hello."""
        ...

    def open(self, target: Target, level: Level, login: DatabaseLogin) -> TrialSession:
        """Log in as a session would, and leave something of the role's own to clear up. Unavailable with the cause."""
        ...


class NoDoctor:
    """Stands in where none is wired."""

    def rights(self, target: Target) -> Sequence[Finding]:
        return (Finding("administrator", target.name, ok=False, problem="This process cannot examine targets."),)

    def reach(self, target: Target) -> Finding:
        return Finding("reach", target.name, ok=False, problem="This process cannot examine targets.")

    def open(self, target: Target, level: Level, login: DatabaseLogin) -> TrialSession:
        del target, level, login
        raise Unavailable(Refusal("no-doctor", "This process cannot examine targets."))
