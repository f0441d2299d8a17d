"""Everything the use cases may touch, in one frozen value that bootstrap builds once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock

from gateway.app.live import LiveSessions
from gateway.app.ports import (
    CatalogueSource,
    Clock,
    DatabaseLogin,
    DatabaseRoles,
    EventLog,
    Ids,
    Notifier,
    Policy,
    Recorder,
    SshSigner,
    Store,
)
from gateway.core.rota import RotaRules


@dataclass(frozen=True, slots=True)
class Limits:
    """The gateway's own bounds; policy can only be stricter."""

    longest_grant: timedelta = timedelta(hours=12)
    ticket_lifetime: timedelta = timedelta(hours=1)
    cli_credential_lifetime: timedelta = timedelta(hours=12)
    ssh_certificate_lifetime: timedelta = timedelta(hours=1)
    web_session_lifetime: timedelta = timedelta(hours=8)
    device_code_lifetime: timedelta = timedelta(minutes=10)
    log_wait: timedelta = timedelta(seconds=5)
    gateway_silent_after: timedelta = timedelta(seconds=30)


class LeasedLogins:
    """Passwords of the ephemeral roles that this process made, by grant id: memory only, never stored."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._logins: dict[str, DatabaseLogin] = {}
        self._making: dict[str, Lock] = {}

    def making(self, grant_id: str) -> Lock:
        """The lock under which one grant's role is made: two connections at once share one role."""
        with self._lock:
            return self._making.setdefault(grant_id, Lock())

    def knows(self, grant_id: str) -> bool:
        """True when the role was made here, or is being made right now."""
        with self._lock:
            lock = self._making.get(grant_id)
            return grant_id in self._logins or (lock is not None and lock.locked())

    def get(self, grant_id: str) -> DatabaseLogin | None:
        """The login, if it was made here."""
        with self._lock:
            return self._logins.get(grant_id)

    def put(self, grant_id: str, login: DatabaseLogin) -> None:
        """Remember."""
        with self._lock:
            self._logins[grant_id] = login

    def clear(self) -> None:
        """Forget all: at the end of the process nothing is needed any more."""
        with self._lock:
            self._logins.clear()

    def forget(self, grant_id: str) -> None:
        """Unknown grants are fine."""
        with self._lock:
            self._logins.pop(grant_id, None)
            self._making.pop(grant_id, None)


def _nobody_sleeps() -> None:
    """Stands in where no supervisor runs (one-shot commands)."""


@dataclass(frozen=True, slots=True)
class Context:
    """`gateway` names this process in events and rows; `issuer` is the identity provider's issuer URL."""

    gateway: str
    clock: Clock
    ids: Ids
    store: Store
    log: EventLog
    policy: Policy
    catalogue: CatalogueSource
    roles: DatabaseRoles
    ssh: SshSigner
    recorder: Recorder
    notifier: Notifier
    live: LiveSessions
    limits: Limits = field(default_factory=Limits)
    rota: RotaRules = field(default_factory=RotaRules)
    logins: LeasedLogins = field(default_factory=LeasedLogins)
    wake: Callable[[], None] = _nobody_sleeps  # rouses the supervisor: something ended
