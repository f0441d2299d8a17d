"""A bounded store of bytes that have arrived but make no whole message yet."""


class ProtocolViolation(Exception):
    """The other side sent what the protocol does not allow here; the connection ends. The text holds no content."""


class Buffer:
    """Bytes in, exact slices out. `limit` bounds what may wait, in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()

    def __len__(self) -> int:
        return len(self._held)

    def feed(self, data: bytes) -> None:
        """Add what arrived; ProtocolViolation beyond the limit."""
        if len(self._held) + len(data) > self._limit:
            raise ProtocolViolation(f"more than {self._limit} bytes before they were due")
        self._held += data

    def peek(self, count: int) -> bytes | None:
        """The first `count` bytes, left in place; None while there are fewer."""
        return bytes(self._held[:count]) if len(self._held) >= count else None

    def take(self, count: int) -> bytes | None:
        """The first `count` bytes, removed; None while there are fewer."""
        taken = self.peek(count)
        if taken is not None:
            del self._held[:count]
        return taken

    def drain(self) -> bytes:
        """Everything that is left, removed."""
        rest = bytes(self._held)
        self._held.clear()
        return rest
