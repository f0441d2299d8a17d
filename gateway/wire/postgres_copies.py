"""The digest of what COPY carries for one statement in one direction. Whoever makes the account gives the algorithm."""

from collections.abc import Callable
from typing import Protocol


class Digest(Protocol):
    """As those of hashlib."""

    def update(self, data: bytes, /) -> object:
        """Take more data in."""

    def digest(self) -> bytes:
        """Of all so far."""

    def hexdigest(self) -> str:
        """The same in hexadecimal."""


NewDigest = Callable[[], Digest]


class Ahead:
    """COPY data of the client's that comes before the server has asked for it."""

    def __init__(self, digest: Digest) -> None:
        self.bytes = 0
        self.digest = digest

    def seal(self) -> None:
        """No more will come: many of these may wait, so each becomes small."""
        self.digest = _Sealed(self.digest.digest())


class _Sealed:
    def __init__(self, told: bytes) -> None:
        self._told = told

    def update(self, data: bytes, /) -> object:
        raise AssertionError("data behind the end of a COPY", len(data))

    def digest(self) -> bytes:
        return self._told

    def hexdigest(self) -> str:
        return self._told.hex()


class Copied:
    """One COPY, or all of a text with several: then what is told is the digest of their digests, in order."""

    def __init__(self, new_digest: NewDigest, first: Digest) -> None:
        self._new_digest = new_digest
        self._earlier: Digest | None = None
        self.digest = first  # of the COPY that is under way

    def next(self, digest: Digest) -> None:
        """Another COPY of the same text begins."""
        if self._earlier is None:
            self._earlier = self._new_digest()
        self._earlier.update(self.digest.digest())
        self.digest = digest

    def told(self) -> str:
        """In hexadecimal, once: when the statement is over."""
        if self._earlier is None:
            return self.digest.hexdigest()
        self._earlier.update(self.digest.digest())
        return self._earlier.hexdigest()
