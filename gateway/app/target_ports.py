"""Credentials that are made on targets, or for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from gateway.core.principal import User
from gateway.core.target import Level, Target


@dataclass(frozen=True, slots=True)
class Lease:
    """A short-lived target credential with an owner and an end.

    `state`: creating → active → revoking → dropped, or zombie while a drop keeps failing (retried for ever).
    `name` is the ephemeral role. No secret is stored: the password lives in the memory of `gateway`.
    """

    id: str
    grant: str
    target: str
    level: str
    name: str
    gateway: str
    state: str
    created_at: datetime
    expires_at: datetime
    attempts: int = 0
    last_error: str = ""
    next_attempt_at: datetime | None = None
    place: str = ""  # the server and database that it was made on


class Leases(Protocol):
    def add(self, lease: Lease) -> None: ...
    def save(self, lease: Lease) -> None: ...
    def by_grant(self, grant_id: str) -> Sequence[Lease]: ...
    def unfinished(self) -> Sequence[Lease]:
        """Every lease whose role may still exist (state other than dropped)."""
        ...


@dataclass(frozen=True, slots=True)
class DatabaseLogin:
    """How the proxy logs in upstream. `password` is a secret: never in logs, events or error texts."""

    role: str
    password: str = field(repr=False)


class DatabaseRoles(Protocol):
    """Makes and unmakes ephemeral roles on one kind of database. See shared facts on dynamic credentials §7.3."""

    def create(self, target: Target, level: Level, role: str, until: datetime) -> DatabaseLogin:
        """A fresh role, member of the level's group role only; Unavailable with a cause free of secrets."""
        ...

    def extend(self, target: Target, role: str, until: datetime) -> None:
        """Let a role live longer; Unavailable when it is gone, or with a cause free of secrets."""
        ...

    def revoke(self, target: Target, role: str, before: Callable[[Sequence[str]], None] = lambda _: None) -> None:
        """NOLOGIN → terminate → membership → reassign owned → drop → verify gone. Idempotent; else Unavailable.

        `before` is called with what prepared transactions are named, before they are rolled back.
        """
        ...

    def end_backend(self, target: Target, role: str, pid: int, attempt: Callable[[], None]) -> bool:
        """End one session of the role's, whatever its code catches; else Unavailable. `attempt` is called before.

        False, and no attempt, when there is no such session any more.
        """
        ...

    def roles_of(self, target: Target, prefix: str) -> Sequence[str]:
        """Names of existing roles that begin with `prefix`, to find what nobody owns."""
        ...


class SshSigner(Protocol):
    """The gateway's SSH certificate authorities: one for people at the door, one for targets upstream."""

    @property
    def target_ca_public(self) -> str:
        """The line for a target's TrustedUserCAKeys."""
        ...

    def door_certificate(self, user: User, public_key: str, at: datetime, until: datetime) -> str:
        """An OpenSSH user certificate for the gateway's own door; ValueError for an unsupported key."""
        ...
