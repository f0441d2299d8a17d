"""chacha20-poly1305@openssh.com (OpenSSH's PROTOCOL.chacha20poly1305), for clients that have no other sealed cipher.

Slow in Python, so it is offered to dropbear alone: its usual builds have neither AES-GCM nor encrypt-then-MAC. The
length field is sealed too, with a key of its own. INVARIANT: a sequence number is used once per key, for it is the
nonce; the packet layer changes keys long before 2^32 packets.
"""

import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305
from paramiko import SSHException

NAME = "chacha20-poly1305@openssh.com"
TAG = 16
_NONCE = struct.Struct("<Q8s")  # block counter, then the sequence number as 64 bits, most significant octet first
_BE64 = struct.Struct(">Q")


class ChaChaPoly:
    """Both halves of a 64-octet key: the first seals payloads, the second their lengths."""

    def __init__(self, key: bytes) -> None:
        if len(key) != 64:
            raise ValueError("chacha20-poly1305@openssh.com takes 64 octets of key")
        self._payload, self._length = key[:32], key[32:]

    def length(self, sequence: int, sealed: bytes) -> int:
        """The length in a packet's first four octets. Not verified yet: bound it before believing it."""
        return int.from_bytes(_stream(self._length, sequence, 0, sealed), "big")

    def open(self, sequence: int, packet: bytes) -> bytes:
        """Verify, then decrypt what is between length and tag; SSHException when it was tampered with."""
        sealed, tag = packet[:-TAG], packet[-TAG:]
        try:
            Poly1305.verify_tag(self._tag_key(sequence), sealed, tag)
        except InvalidSignature:
            raise SSHException("a packet was tampered with") from None
        return _stream(self._payload, sequence, 1, sealed[4:])

    def seal(self, sequence: int, header: bytes, body: bytes) -> bytes:
        """The packet with its tag."""
        sealed = _stream(self._length, sequence, 0, header) + _stream(self._payload, sequence, 1, body)
        return sealed + Poly1305.generate_tag(self._tag_key(sequence), sealed)

    def _tag_key(self, sequence: int) -> bytes:
        return _stream(self._payload, sequence, 0, bytes(32))


def _stream(key: bytes, sequence: int, block: int, octets: bytes) -> bytes:
    nonce = _NONCE.pack(block, _BE64.pack(sequence))
    return Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(octets)
