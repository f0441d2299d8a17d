"""The door's own cancel keys. A client never learns the target's key, so it can cancel nothing but its own session."""

import hmac
import secrets
from dataclasses import dataclass, field

from gateway.core.target import Target
from gateway.wire.postgres_messages import LONG_KEY_BYTES, OLD_KEY_BYTES, CancelRequest


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a session really runs: the target, and the key that cancels there."""

    target: Target
    pid: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Key:
    """What the client is told in BackendKeyData."""

    pid: int
    secret: bytes = field(repr=False)


class CancelKeys:
    """Keys of the sessions of this door.

    `pid` is the target's own, as `pg_backend_pid()` says there: clients look for their session by it in
    pg_stat_activity and pg_locks. It is no secret, and several targets may have the same. The secret is made here: up
    to protocol 3.0 it has 32 bits, as at the server itself.
    """

    def __init__(self) -> None:
        self._held: dict[int, dict[bytes, Backend]] = {}

    def issue(self, backend: Backend, minor: int) -> Key:
        """A fresh key; 256 bits from protocol 3.2 on, 32 before."""
        others = self._held.setdefault(backend.pid, {})
        secret = _fresh(minor)
        while secret in others:
            secret = _fresh(minor)
        others[secret] = backend
        return Key(backend.pid, secret)

    def find(self, request: CancelRequest) -> Backend | None:
        """The session that this key belongs to."""
        found = None
        held = self._held.get(request.pid, {})
        for secret, backend in held.items():  # all of them, whichever it is: no time to read off
            if hmac.compare_digest(secret, request.secret):
                found = backend
        return found

    def forget(self, key: Key) -> None:
        others = self._held.get(key.pid, {})
        others.pop(key.secret, None)
        if not others:
            self._held.pop(key.pid, None)


def _fresh(minor: int) -> bytes:
    return secrets.token_bytes(LONG_KEY_BYTES if minor >= 2 else OLD_KEY_BYTES)
