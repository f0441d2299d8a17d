"""Keys and counters of one direction of an SSH connection: how a packet is opened and sealed (see `ssh_packets`)."""

import hmac
import struct
from typing import Any

from paramiko import SSHException

from gateway.edges.proxy.ssh_chacha import ChaChaPoly

REKEY_OCTETS = 1 << 29  # half of the 1 GB that RFC 4253 §9 recommends as the most
REKEY_PACKETS = 1 << 29
_U32 = struct.Struct(">I")
_NONCE = struct.Struct(">4sQ")  # RFC 5647 §7.1
_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF


class DirectionKeys:
    """No cipher until the first `rekey`. GCM, which nearly every stream uses, is what callers do themselves."""

    __slots__ = (
        "block", "engine", "fixed", "invocation", "is_gcm", "mac_engine", "mac_key",
        "octets", "packets", "sequence", "tag",
    )  # fmt: skip

    def __init__(self) -> None:
        self.engine: Any = None
        self.block = 8
        self.is_gcm = False
        self.fixed = b""  # a GCM nonce is this and the invocation counter (RFC 5647 §7.1)
        self.invocation = 0
        self.tag = 0
        self.mac_key = b""
        self.mac_engine: Any = None
        self.sequence = 0
        self.octets = 0
        self.packets = 0

    def rekey(
        self, engine: Any, block: int, mac_engine: Any, tag: int, mac_key: bytes | None,
        *, etm: bool, aead: bool, iv: bytes | None,
    ) -> None:  # fmt: skip
        """New keys. SSHException for what does not authenticate before it decrypts."""
        if not (etm or aead):
            raise SSHException("only authenticated encryption is spoken")
        self.engine, self.block = engine, block
        self.fixed, self.invocation = (iv[:4], int.from_bytes(iv[4:], "big")) if iv else (b"", 0)
        self.mac_engine, self.tag, self.mac_key = mac_engine, tag, mac_key or b""
        self.is_gcm = aead and not isinstance(engine, ChaChaPoly)
        self.octets = self.packets = 0

    def nonce(self) -> bytes:
        """For this packet; the counter moves on."""
        used = self.invocation
        self.invocation = (used + 1) & _MASK64
        return _NONCE.pack(self.fixed, used)

    def count(self, octets: int, first_exchange: bool) -> bool:
        """One more packet of that length; True when the keys are worn."""
        self.sequence = sequence = (self.sequence + 1) & _MASK32
        if sequence == 0 and first_exchange:
            raise SSHException("the sequence number wrapped during the first key exchange")
        self.octets = octets = self.octets + octets
        self.packets = packets = self.packets + 1
        return octets >= REKEY_OCTETS or packets >= REKEY_PACKETS

    def length(self, unread: memoryview, start: int) -> int:
        """What the length field of the packet at `start` says; not authenticated yet."""
        if self.is_gcm or not isinstance(self.engine, ChaChaPoly):
            return int(_U32.unpack_from(unread, start)[0])
        return self.engine.length(self.sequence, bytes(unread[start : start + 4]))

    def open(self, packet: memoryview, length: int) -> bytes:
        """Verify, then decrypt what is not GCM: padding length, payload, padding."""
        if self.engine is None:
            return bytes(packet[4:])
        if isinstance(self.engine, ChaChaPoly):
            return self.engine.open(self.sequence, bytes(packet))
        sealed, tag = packet[: 4 + length], packet[4 + length :]
        if not hmac.compare_digest(self._mac(sealed), tag):
            raise SSHException("a packet was tampered with")
        return bytes(self.engine.update(sealed[4:]))

    def seal(self, packet: memoryview) -> None:
        """One that is not GCM, in its place; there is room for the tag."""
        tag = len(packet) - self.tag
        if isinstance(self.engine, ChaChaPoly):
            packet[:] = self.engine.seal(self.sequence, bytes(packet[:4]), bytes(packet[4:tag]))
        else:
            packet[4:tag] = self.engine.update(packet[4:tag])
            packet[tag:] = self._mac(packet[:tag])

    def _mac(self, authenticated: memoryview) -> bytes:
        """Of the sequence number, the length and the ciphertext (encrypt-then-MAC)."""
        return hmac.digest(self.mac_key, _U32.pack(self.sequence) + authenticated, self.mac_engine)[: self.tag]
