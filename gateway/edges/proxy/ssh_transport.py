# ruff: noqa: SLF001 - this module exists to reach what paramiko keeps private; nothing else here may
"""paramiko's transport, hardened: what both legs have in common. Only this module, `ssh_server` and `ssh_client`
know paramiko's internals (5.1).

INVARIANTS, for both legs
1. Packets go through `PacketLayer` (bounded before allocation). Every message number is looked up in the list of the
   current state before it is delivered; anything else ends the connection. A person's leg admits nothing but
   authentication messages before authentication, whatever the order, and never a message that only servers send.
2. Who came is what `DoorAuth` verified: the certificate whose signature over this very request was checked, in the
   same call. Nothing is remembered from a mere offer (CVE-2024-45337, CVE-2023-43660).
3. One user name per connection (CVE-2023-46446); at most `MOST_TRIES` refusals.
4. Only AES-GCM and AES-CTR with encrypt-then-MAC, curve25519 and ML-KEM key exchange, no SHA-1, no NIST curves for
   key exchange, no compression. Strict key exchange is offered (CVE-2023-48795).
5. The transport's own thread never waits for a key exchange: what it has to answer meanwhile is sent afterwards.
6. The target's host key must be one of the pinned ones: checked inside the key exchange, before anything is sent.
"""

import logging
import math
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from traceback import walk_tb
from typing import Any, cast

import paramiko
from paramiko import Message
from paramiko.kex_curve25519 import KexCurve25519
from paramiko.packet import Packetizer

from gateway.edges.proxy.ssh_channels import WIDE, WINDOW, ChannelEnd
from gateway.edges.proxy.ssh_fields import Fields, ProtocolViolationError, string, u32
from gateway.edges.proxy.ssh_messages import BURST, MAX_PACKET, WINDOW_ADJUST, Octets, RawMessage
from gateway.edges.proxy.ssh_packets import Burst, PacketLayer, Payload

LOG = logging.getLogger("gateway.ssh")
DISCONNECT_BY_APPLICATION = 11  # RFC 4253 §11.1
PROHIBITED, RESOURCE_SHORTAGE = 1, 4  # RFC 4254 §5.1
GCM = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
CTR = ("aes128-ctr", "aes256-ctr")
POST_QUANTUM = ("mlkem768x25519-sha256",)

TCP_INFO_SIZE = 104  # the oldest form of struct tcp_info (linux/tcp.h)
VANISHED = 45.0  # seconds
LINGER = 0.004  # seconds at most
MOST_DEFERRED = 10_000  # answers that wait for new keys
DATA_HEAD = struct.Struct(">BII")  # of SSH_MSG_CHANNEL_DATA: number, recipient, length (RFC 4254 §5.2)

NEWKEYS = 21
KEX_MESSAGES = frozenset({20, NEWKEYS, 30, 31})  # the methods that are spoken have no others (RFC 5656 §4)
ALWAYS = frozenset({1, 2, 3, 4})
CHANNEL_MESSAGES = frozenset(range(93, 101))

# What belongs to no stream and waits for nobody: a burst of it, and a rate that no peer needs (`_gate`).
MOST_CONTROLS = 20_000.0
CONTROLS_PER_SECOND = 10_000.0
# 2 to 4 say nothing · 20 new keys · 80 and 98 requests. Openings, ends and streams of channels are bounded by channels,
# but for openings that are refused at once, which count, too.
CONTROLS = frozenset({2, 3, 4, 20, 80, 98})


class HardTransport(paramiko.Transport):
    """What both legs have in common."""

    _active_check_timeout = 5.0  # closing wakes the reader, so it need not look ten times a second
    _preferred_ciphers: Sequence[str] = (*GCM, *CTR)
    _preferred_macs: Sequence[str] = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
    _preferred_kex: Sequence[str] = (*POST_QUANTUM, "curve25519-sha256", "curve25519-sha256@libssh.org")
    _preferred_keys: Sequence[str] = ("ssh-ed25519", "rsa-sha2-512", "rsa-sha2-256")
    _preferred_pubkeys = (
        "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
        "rsa-sha2-512", "rsa-sha2-256",
    )  # fmt: skip
    _preferred_compression = ("none",)
    _CLIENT_ID = "gateway"
    _kex_info = {  # noqa: RUF012  # paramiko's own class attribute, never changed
        **paramiko.Transport._kex_info,  # type: ignore[attr-defined]
        "curve25519-sha256": KexCurve25519,  # RFC 8731: the same method under its registered name
    }
    _channel_handler_table = {  # noqa: RUF012  # as above
        93: ChannelEnd.on_window_adjust,
        94: ChannelEnd.on_data,
        95: ChannelEnd.on_extended_data,
        96: ChannelEnd.on_eof,
        97: ChannelEnd.on_close,
        98: ChannelEnd.on_request,
        99: ChannelEnd.on_success,
        100: ChannelEnd.on_failure,
    }
    _internals: Any  # paramiko's stubs leave out what this module is here to reach

    def __init__(self, sock: socket.socket, when_over: Callable[[], None]) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _keep_alive(sock)
        packets = cast("type[Packetizer]", PacketLayer)
        super().__init__(sock, default_window_size=WINDOW, default_max_packet_size=MAX_PACKET, packetizer_class=packets)
        self._internals = self
        self._when_over = when_over
        self._deferred: list[Message] = []
        self._controls, self._controls_since = MOST_CONTROLS, 0.0
        self._allowed: frozenset[int] = frozenset()
        self._waits_since = math.inf
        self._ends: dict[int, ChannelEnd] = {}
        self._gathered: dict[
            ChannelEnd, list[Octets]
        ] = {}  # data that their channels have not got yet; this thread's own
        self._gathered_octets = 0
        self.packets.gate = self._gate
        self.packets.deliver = self._deliver
        self.packets.settle = self._hand_on

    @property
    def packets(self) -> PacketLayer:
        """The layer below."""
        return cast("PacketLayer", self.packetizer)

    def run(self) -> None:
        """The transport's thread; afterwards, whoever holds the connection is told."""
        try:
            super().run()
        finally:
            self._when_over()

    def _gate(self, number: int) -> None:
        if number not in self._allowed:
            raise ProtocolViolationError(f"message {number} is not allowed here")
        if number == NEWKEYS and self._internals.K is None:
            raise ProtocolViolationError("new keys that nobody exchanged")
        if number in CONTROLS:
            self._pace()

    def _pace(self) -> None:
        now = monotonic()
        gained = (now - self._controls_since) * CONTROLS_PER_SECOND
        self._controls, self._controls_since = min(MOST_CONTROLS, self._controls + gained) - 1, now
        if self._controls < 0:
            raise ProtocolViolationError("too many messages that belong to no stream")

    def _deliver(self, view: memoryview, start: int, end: int) -> bool:
        """Data goes straight to its channel; False leaves the packet to Transport, which also says what is wrong."""
        if end - start < 9 or self._internals._expected_packet:
            return False
        kind, number, size = DATA_HEAD.unpack_from(view, start)
        channel = self._ends.get(number)
        if channel is None:
            return False
        start += 9
        if kind == WINDOW_ADJUST:
            return start == end and self._widen(channel, size)
        if size != end - start:
            return False
        self.packets.linger = 0.0
        data = view[start:end]
        if channel in self._gathered:
            self._gathered[channel].append(data)
        else:
            self._gathered[channel] = [data]
            channel.expect()
        self._gathered_octets += size
        if self._gathered_octets >= BURST:
            self._hand_on()
        return True

    def _widen(self, channel: ChannelEnd, more: int) -> bool:
        """OpenSSH says for every 100 KB or so that they are read; if its window is wide that may wait until more is.

        Whoever sends so much meanwhile that it gets narrow says so (`read_soon`).
        """
        self.packets.linger = LINGER if channel.widen(more) >= WIDE else 0.0
        return True

    def _hand_on(self) -> None:
        is_stream = self._gathered_octets >= 2 * MAX_PACKET
        if is_stream:
            self.packets.make_way()
        self._gathered_octets = 0
        while self._gathered:
            channel, pieces = self._gathered.popitem()
            if not channel.accept(pieces) and is_stream:
                self.packets.linger = LINGER  # what comes now would only be copied for the pump

    def why_over(self) -> BaseException | None:
        """What ended the connection, if it was an error."""
        why = cast("BaseException | None", self._internals.saved_exception)
        if isinstance(why, ValueError) and _is_paramikos(why):  # a name that is no UTF-8, a key that is none
            return ProtocolViolationError(f"a message makes no sense: {type(why).__name__}")
        return why

    def _log(self, level: int, msg: object, *_args: object) -> None:
        if LOG.isEnabledFor(logging.DEBUG):  # what peers send stays out of the log by default
            LOG.debug("%s: %r", logging.getLevelName(level), msg)

    # ---------------------------------------------------------------- sending

    def post(self, encoded: bytes) -> None:
        """See `Sender`."""
        self._internals._send_user_message(RawMessage(encoded))

    def post_data(self, head: bytes, data: bytes | bytearray | memoryview, packet: int) -> None:
        """See `Sender`."""
        view = memoryview(data)
        if len(view) >= 2 * MAX_PACKET:
            self.packets.make_way()
        pieces = [view[at : at + packet] for at in range(0, len(view), packet)]
        self._internals._send_user_message(Burst([(head, u32(len(piece)), piece) for piece in pieces]))

    def post_now(self, encoded: bytes) -> bool:
        """See `Sender`."""
        return self._send_now([(encoded,)])

    def post_data_now(self, head: bytes, pieces: Sequence[bytes | bytearray | memoryview]) -> bool:
        """See `Sender`."""
        return self._send_now([(head, u32(len(piece)), piece) for piece in pieces])

    def _send_now(self, payloads: Sequence[Payload]) -> bool:
        if not self.clear_to_send_lock.acquire(blocking=False):  # somebody else sends, and may wait for the peer
            return False
        try:
            return self.clear_to_send.is_set() and self.packets.send_now(payloads)
        finally:
            self.clear_to_send_lock.release()

    def be_prompt(self) -> None:
        """See `Sender`."""
        self.packets.be_prompt()

    def read_soon(self) -> None:
        """See `Sender`."""
        self.packets.read_soon()

    def flush(self) -> None:
        """See `Sender`."""
        self.packets.send_message(Burst([]))

    def is_flushed(self) -> bool:
        """See `Sender`."""
        return self.packets.is_flushed

    def _answer(self, encoded: bytes) -> None:
        """From the transport's own thread: at once, or after the key exchange (INVARIANT 5)."""
        with self.clear_to_send_lock:
            if not self.clear_to_send.is_set():
                if len(self._deferred) >= MOST_DEFERRED:
                    raise ProtocolViolationError("too many questions during a change of keys")
                self._deferred.append(RawMessage(encoded))
                return
            self._internals._send_message(RawMessage(encoded))

    def _parse_newkeys(self, m: Message) -> None:
        super()._parse_newkeys(m)  # type: ignore[misc]
        self._internals.kex_engine = None  # its private keys are not needed any more, and they are large
        with self.clear_to_send_lock:
            waiting, self._deferred = self._deferred, []
            for message in waiting:
                self._internals._send_message(message)

    def forget_channel(self, number: int) -> None:
        """See `Sender`."""
        self._internals._channels.delete(number)
        self._ends.pop(number, None)

    def say_last(self, messages: Sequence[bytes]) -> None:
        """Some messages, written as one."""
        if messages:
            self._internals._send_user_message(Burst([(message,) for message in messages]))

    def say_goodbye(self, sentence: str) -> None:
        """SSH_MSG_DISCONNECT with a sentence (RFC 4253 §11.1)."""
        text = string(sentence.encode()[:1000])
        self.say_last([b"\x01" + u32(DISCONNECT_BY_APPLICATION) + text + string(b"en")])

    def can_speak(self) -> bool:
        """True when `say_goodbye` would not have to wait, for new keys or for a peer that does not read."""
        return self.clear_to_send.is_set() and self.packets.is_writable()

    def is_stalled(self, now: float) -> bool:
        """True when the peer has vanished with data on its way to it (`now` is monotonic; ask every second or so).

        TCP keeps trying for a quarter of an hour, and keepalive waits while it does. TCP_USER_TIMEOUT would also cut
        a peer that lives but does not read: that one answers probes of its closed window.
        """
        silent_ms = unanswered(self._tcp_info())
        self._waits_since = min(self._waits_since, now) if silent_ms else math.inf
        return silent_ms > 1000 * VANISHED and now - self._waits_since > VANISHED

    def _tcp_info(self) -> bytes:
        """Zeros where the system does not tell."""
        with suppress(OSError, AttributeError):
            return cast("socket.socket", self.sock).getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
        return bytes(TCP_INFO_SIZE)

    def finish_writing(self) -> None:
        """Nothing more follows; the peer may still close from its side, so that it reads all that was sent."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def _register(self, channel: ChannelEnd) -> None:
        self._internals._channels.put(channel.number, channel)
        self._ends[channel.number] = channel

    def _refuse_channel(self, remote: int, reason: int, sentence: str) -> None:
        self._answer(b"\x5c" + u32(remote) + u32(reason) + string(sentence.encode()) + string(b"en"))

    def _refuse_at_once(self, remote: int, reason: int, sentence: str) -> None:
        """By the transport's own thread."""
        self._pace()
        self._refuse_channel(remote, reason, sentence)

    def _refuse_global(self, fields: Fields) -> None:
        if fields.boolean():
            self._answer(b"\x52")


def unanswered(info: bytes) -> int:
    """Milliseconds since the peer last acknowledged anything, if something is on its way to it, else 0.

    `info` is the kernel's `struct tcp_info`.
    """
    probes = info[3]
    (on_its_way,) = struct.unpack_from("=I", info, 24)
    (silent_ms,) = struct.unpack_from("=I", info, 56)
    return int(silent_ms) if probes or on_its_way else 0


def _keep_alive(sock: socket.socket) -> None:
    """A peer that vanished is noticed after a minute of silence."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):  # not on every system
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _is_paramikos(why: ValueError) -> bool:
    """True when paramiko stumbled over what a peer sent; a ValueError of this gateway's own code is a bug of ours."""
    *_, (frame, _) = walk_tb(why.__traceback__)
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in ("paramiko", "cryptography")
