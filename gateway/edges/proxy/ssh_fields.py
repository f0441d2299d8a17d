"""The fields of an SSH message (RFC 4251 §5), read strictly: too short is an error, never padding.

paramiko's own `Message` fills what is missing with zeros, so that a cut message reads as a valid one.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager

U32 = struct.Struct(">I")


class ProtocolViolationError(Exception):
    """The peer sent something that the protocol does not allow in this state. Ends the connection."""


class TargetViolationError(Exception):
    """As ProtocolViolationError, where the peer is the target: nobody may take it for the person's doing."""


@contextmanager
def by_target() -> Iterator[None]:
    """What is violated within is violated by the target."""
    try:
        yield
    except ProtocolViolationError as wrong:
        raise TargetViolationError(str(wrong)) from wrong


class Fields:
    """A cursor over one message's payload. Every read raises ProtocolViolationError past the end."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._payload):
            raise ProtocolViolationError("a message ends in the middle of a field")
        taken = self._payload[self._at : end]
        self._at = end
        return taken

    def boolean(self) -> bool:
        """Any non-zero octet is true (RFC 4251 §5)."""
        return self._take(1) != b"\0"

    def u32(self) -> int:
        """Four octets, big-endian."""
        return int(U32.unpack(self._take(4))[0])

    def string(self) -> bytes:
        """A length and that many octets."""
        return self._take(self.u32())

    def text(self) -> str:
        """A string in UTF-8."""
        try:
            return self.string().decode()
        except UnicodeDecodeError as bad:
            raise ProtocolViolationError("a name is not UTF-8") from bad

    def rest(self) -> bytes:
        """All that is left."""
        return self._take(len(self._payload) - self._at)

    def end(self) -> None:
        """Nothing may be left."""
        if self._at != len(self._payload):
            raise ProtocolViolationError("a message has more fields than it should")


def u32(number: int) -> bytes:
    """Encode."""
    return U32.pack(number)


def string(octets: bytes) -> bytes:
    """Encode with its length."""
    return U32.pack(len(octets)) + octets
