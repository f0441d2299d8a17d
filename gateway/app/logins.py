"""What this process knows of the roles that it made: their passwords, in memory only, and which are being made."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore, Lock

from gateway.app.target_ports import DatabaseLogin
from gateway.core.errors import Refusal, Unavailable

TURNS_PER_TARGET = 4
WAIT_SECONDS = 2.0  # a door's worker may not hang on one dead database: the others need it


@dataclass(frozen=True, slots=True)
class HeldLogin:
    """A login, where it was made and with which account, so that a changed catalogue makes a new one."""

    login: DatabaseLogin
    place: str
    account: str


class LeasedLogins:
    """By grant id. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._logins: dict[str, HeldLogin] = {}
        self._grants: dict[str, Lock] = {}
        self._turns: dict[str, BoundedSemaphore] = {}
        self._making: set[str] = set()
        self._worked: set[str] = set()

    @contextmanager
    def turn(self, grant_id: str, target: str) -> Iterator[None]:
        """One at a time per grant, a few per target; Unavailable instead of a long wait."""
        with self._lock:
            grant = self._grants.setdefault(grant_id, Lock())
            target_turns = self._turns.setdefault(target, BoundedSemaphore(TURNS_PER_TARGET))
        with _taken(grant, target), _taken(target_turns, target):
            yield

    @contextmanager
    def making(self, role: str) -> Iterator[None]:
        """While inside, the reaper leaves the role alone: what may come to be after it has looked must be looked at."""
        with self._lock:
            self._making.add(role)
        try:
            yield
        finally:
            with self._lock:
                self._making.discard(role)

    def is_making(self, role: str) -> bool:
        """True while this process is creating the role."""
        with self._lock:
            return role in self._making

    def get(self, grant_id: str) -> HeldLogin | None:
        """The login, if it was made here."""
        with self._lock:
            return self._logins.get(grant_id)

    def holds(self, grant_id: str, role: str) -> bool:
        """True when that very role is the grant's login here."""
        held = self.get(grant_id)
        return held is not None and held.login.role == role

    def put(self, grant_id: str, held: HeldLogin) -> None:
        """Remember; takes the place of an older one, which the reaper then drops."""
        with self._lock:
            self._logins[grant_id] = held

    def worked(self, role: str) -> None:
        """The target has let this role in."""
        with self._lock:
            self._worked.add(role)

    def has_worked(self, role: str) -> bool:
        """True when it has been let in before."""
        with self._lock:
            return role in self._worked

    def forget(self, grant_id: str, role: str) -> None:
        """Forget a role, not its successor."""
        with self._lock:
            self._worked.discard(role)
            held = self._logins.get(grant_id)
            if held is not None and held.login.role == role:
                del self._logins[grant_id]
                self._grants.pop(grant_id, None)

    def clear(self) -> None:
        """Forget all: at the end of the process nothing is needed any more."""
        with self._lock:
            self._logins.clear()
            self._making.clear()
            self._worked.clear()


@contextmanager
def _taken(lock: "Lock | BoundedSemaphore", target: str) -> Iterator[None]:
    if not lock.acquire(timeout=WAIT_SECONDS):
        raise Unavailable(
            Refusal(
                "target-busy",
                f"{target} is slow to make your login, and others wait for theirs.",
                next_steps=("Try again in a moment.",),
            )
        )
    try:
        yield
    finally:
        lock.release()
