"""The encryption of a sealed file: chunks under counted nonces, the last one marked, so that none can be moved or cut.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance", 2015), as in the age file format.
"""

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.adapters.recordings.keys import NONCE, TAG
from gateway.audit.recording import MalformedRecordingError

CHUNK: Final = 64 * 1024


class Source(Protocol):
    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end, as buffered files do."""
        ...


def encrypted(cipher: AESGCM, parts: Iterable[bytes]) -> Iterator[bytes]:
    """The parts, put together anew in chunks of `CHUNK` bytes; the last one is shorter or as long."""
    rest = bytearray()
    number = 0
    for part in parts:
        rest += part
        while len(rest) > CHUNK:  # not >=: something is left for the end
            yield cipher.encrypt(_nonce(number, is_last=False), bytes(rest[:CHUNK]), None)
            del rest[:CHUNK]
            number += 1
    yield cipher.encrypt(_nonce(number, is_last=True), bytes(rest), None)


class Decrypted:
    """Reads what `encrypted` wrote; MalformedRecordingError names the chunk that was changed, moved or cut off."""

    def __init__(self, cipher: AESGCM, source: Source) -> None:
        self._cipher = cipher
        self._source = source
        self._number = 0
        self._next = source.read(CHUNK + TAG)
        self._plain = b""

    def read(self, size: int = CHUNK) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        if not self._plain and (self._next or self._number == 0):
            self._plain = self._opened()
        taken, self._plain = self._plain[:size], self._plain[size:]
        return taken

    def _opened(self) -> bytes:
        chunk, self._next = self._next, self._source.read(CHUNK + TAG)
        try:
            plain = self._cipher.decrypt(_nonce(self._number, is_last=not self._next), chunk, None)
        except (InvalidTag, ValueError) as error:
            raise MalformedRecordingError(f"chunk {self._number} of the file was changed or cut off") from error
        self._number += 1
        return plain


def _nonce(number: int, *, is_last: bool) -> bytes:
    return number.to_bytes(NONCE - 1, "big") + bytes([is_last])
