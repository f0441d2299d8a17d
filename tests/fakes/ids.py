import secrets
from datetime import UTC, datetime

from gateway.app.ports import Clock
from gateway.core.ids import ENTROPY_BYTES, Prefix, make_id


class RandomIds:
    """Real identifiers and secrets; their time comes from `clock` when there is one."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock

    def new(self, prefix: Prefix) -> str:
        at = self._clock.now() if self._clock else datetime.now(UTC)
        return make_id(prefix, at, secrets.token_bytes(ENTROPY_BYTES))

    def secret(self) -> str:
        return secrets.token_urlsafe(32)
