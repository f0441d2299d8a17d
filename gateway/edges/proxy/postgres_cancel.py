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
    """Keys of the sessions of this door. `pid` is a random number, nobody's process."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[bytes, Backend]] = {}

    def issue(self, backend: Backend, minor: int) -> Key:
        """A fresh key; 256 bits from protocol 3.2 on, 32 before."""
        pid = secrets.randbelow(0x7FFFFFFE) + 1
        while pid in self._held:
            pid = secrets.randbelow(0x7FFFFFFE) + 1
        key = Key(pid, secrets.token_bytes(LONG_KEY_BYTES if minor >= 2 else OLD_KEY_BYTES))
        self._held[pid] = (key.secret, backend)
        return key

    def find(self, request: CancelRequest) -> Backend | None:
        """The session that this key belongs to."""
        secret, backend = self._held.get(request.pid, (b"", None))
        return backend if hmac.compare_digest(secret, request.secret) else None

    def forget(self, key: Key) -> None:
        self._held.pop(key.pid, None)
