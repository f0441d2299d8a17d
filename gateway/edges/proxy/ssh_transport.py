# ruff: noqa: SLF001 - this module exists to reach what paramiko keeps private; nothing else here may
"""paramiko's transport, hardened: the only module that knows its internals (paramiko 5.1, pinned).

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
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Lock
from typing import Any, cast

import paramiko
from paramiko import Message, SSHException
from paramiko.auth_handler import AuthHandler
from paramiko.kex_curve25519 import KexCurve25519
from paramiko.packet import Packetizer

from gateway.core.errors import Refusal
from gateway.edges.proxy.ssh_channels import MAX_PACKET, WINDOW, ChannelEnd, RawMessage
from gateway.edges.proxy.ssh_fields import Fields, ProtocolViolationError, string, u32
from gateway.edges.proxy.ssh_packets import PacketLayer

LOG = logging.getLogger("gateway.ssh")
MOST_TRIES = 6
MOST_MESSAGES_BEFORE_LOGIN = 200
MOST_CHANNELS = 10  # as OpenSSH's MaxSessions
LONGEST_USER_NAME = 255
DISCONNECT_BY_APPLICATION = 11  # RFC 4253 §11.1
PROHIBITED, RESOURCE_SHORTAGE = 1, 4  # RFC 4254 §5.1
GCM = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
CTR = ("aes128-ctr", "aes256-ctr")

_KEX = {20, 21, *range(30, 42)}
_ALWAYS = {1, 2, 3, 4}
_CHANNEL = set(range(93, 101))
# RFC 4250 §4.1.2. 5 service request · 7 extension info · 50 authentication request.
BEFORE_LOGIN_AT_DOOR = frozenset(_ALWAYS | _KEX | {5, 7, 50})
AFTER_LOGIN_AT_DOOR = frozenset(_ALWAYS | _KEX | {80, 90} | _CHANNEL)
# 6 service accept · 51 failure, 52 success, 53 banner · 81/82 never asked for · 90 is answered with a no.
BEFORE_LOGIN_AT_TARGET = frozenset(_ALWAYS | _KEX | {6, 7, 51, 52, 53})
AFTER_LOGIN_AT_TARGET = frozenset(_ALWAYS | _KEX | {7, 80, 90, 91, 92} | _CHANNEL)

# The signature algorithms that are accepted, and the type that the certificate's blob must begin with. ssh-rsa with
# SHA-1 is not among them (CVE-2026-44405).
_CERTIFICATE_ALGORITHMS = {
    "ssh-ed25519-cert-v01@openssh.com": b"ssh-ed25519-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com": b"ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com": b"ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com": b"ecdsa-sha2-nistp521-cert-v01@openssh.com",
    "rsa-sha2-256-cert-v01@openssh.com": b"ssh-rsa-cert-v01@openssh.com",
    "rsa-sha2-512-cert-v01@openssh.com": b"ssh-rsa-cert-v01@openssh.com",
}
_CERTIFICATE_SUFFIX = "-cert-v01@openssh.com"
SIGN_IN = Refusal(
    "certificate-needed",
    "This door takes certificates of the gateway, not keys.",
    ("a certificate from gw login",),
    ("Run gw login, then connect with the configuration that gw ssh-config prints.",),
)


class HostKeyChangedError(Exception):
    """The target showed a host key that is not pinned for it."""


class HardTransport(paramiko.Transport):
    """What both legs have in common."""

    _active_check_timeout = 5.0  # closing wakes the reader, so it need not look ten times a second
    _preferred_ciphers: Sequence[str] = (*GCM, *CTR)
    _preferred_macs = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
    _preferred_kex = ("mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org")
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
        self._allowed: frozenset[int] = frozenset()
        self.packets.gate = self._gate

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

    def why_over(self) -> BaseException | None:
        """What ended the connection, if it was an error."""
        return cast("BaseException | None", self._internals.saved_exception)

    def _log(self, level: int, msg: object, *_args: object) -> None:
        if LOG.isEnabledFor(logging.DEBUG):  # what peers send stays out of the log by default
            LOG.debug("%s: %r", logging.getLevelName(level), msg)

    # ---------------------------------------------------------------- sending

    def post(self, encoded: bytes) -> None:
        """See `Sender`."""
        self._internals._send_user_message(RawMessage(encoded))

    def _answer(self, encoded: bytes) -> None:
        """From the transport's own thread: at once, or after the key exchange (INVARIANT 5)."""
        with self.clear_to_send_lock:
            if not self.clear_to_send.is_set():
                self._deferred.append(RawMessage(encoded))
                return
            self._internals._send_message(RawMessage(encoded))

    def _parse_newkeys(self, m: Message) -> None:
        super()._parse_newkeys(m)  # type: ignore[misc]
        with self.clear_to_send_lock:
            waiting, self._deferred = self._deferred, []
            for message in waiting:
                self._internals._send_message(message)

    def forget_channel(self, number: int) -> None:
        """See `Sender`."""
        self._internals._channels.delete(number)

    def say_goodbye(self, sentence: str) -> None:
        """SSH_MSG_DISCONNECT with a sentence (RFC 4253 §11.1)."""
        text = string(sentence.encode()[:1000])
        self.post(b"\x01" + u32(DISCONNECT_BY_APPLICATION) + text + string(b"en"))

    def finish_writing(self) -> None:
        """Nothing more follows; the peer may still close from its side, so that it reads all that was sent."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def _register(self, channel: ChannelEnd) -> None:
        self._internals._channels.put(channel.number, channel)

    def _refuse_channel(self, remote: int, reason: int, sentence: str) -> None:
        self._answer(b"\x5c" + u32(remote) + u32(reason) + string(sentence.encode()) + string(b"en"))

    def _refuse_global(self, fields: Fields) -> None:
        if fields.boolean():
            self._answer(b"\x52")


def _keep_alive(sock: socket.socket) -> None:
    """A peer that vanished is noticed after a minute of silence."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):  # not on every system
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


# -------------------------------------------------------------------- the person's leg


@dataclass(frozen=True, slots=True)
class DoorEvents:
    """What the door wants to hear. All are called by the transport's thread and must not wait long.

    `judge(certificate blob)` returns the user id that a certificate stands for, or why it stands for nobody;
    `refused(user name, refusal)` tells of a certificate that was presented with a valid shape and turned away;
    `logged_in(user id, user name)` comes once; `opened(channel)` for each session channel;
    `forward_refused(what)` for each forward that was asked for; `over()` once, at the very end.
    """

    judge: Callable[[bytes], str | Refusal]
    refused: Callable[[str, Refusal], None]
    logged_in: Callable[[str, str], None]
    opened: Callable[[ChannelEnd], None]
    forward_refused: Callable[[str], None]
    over: Callable[[], None]


class DoorTransport(HardTransport):
    """The server side of a person's connection."""

    _preferred_keys = ("ssh-ed25519",)

    def __init__(self, sock: socket.socket, host_key: paramiko.PKey, events: DoorEvents) -> None:
        super().__init__(sock, events.over)
        self.events = events
        self._allowed = BEFORE_LOGIN_AT_DOOR
        self._before_login = 0
        self._no_more_sessions = False
        self._kex_sent = False
        self.add_server_key(host_key)

    def serve(self) -> None:
        """Begin; returns at once."""
        self.start_server(event=Event(), server=paramiko.ServerInterface())

    def _gate(self, number: int) -> None:
        super()._gate(number)
        if self._allowed is BEFORE_LOGIN_AT_DOOR:
            self._before_login += 1
            if self._before_login > MOST_MESSAGES_BEFORE_LOGIN:
                raise ProtocolViolationError("too many messages before login")

    def admit(self, user_id: str, user_name: str) -> None:
        """Authentication succeeded."""
        self._allowed = AFTER_LOGIN_AT_DOOR
        self.packets.trust()
        self.events.logged_in(user_id, user_name)

    def _send_kex_init(self) -> None:
        """OpenSSH prefers CTR over GCM, which costs us twice the time: let it speak first; offer GCM alone if it can.

        It sends its list as soon as it has seen our identification string. Others may wait for ours.
        """
        if not self._kex_sent and self.remote_version.startswith("SSH-2.0-OpenSSH_"):
            self._kex_sent = True
            self._internals.in_kex = True
            return
        self._kex_sent = True
        super()._send_kex_init()  # type: ignore[misc]

    def _negotiate_keys(self, m: Message) -> None:
        if self._internals.local_kex_init is None and not self._internals.initial_kex_done:
            offered = Fields(m.asbytes()[16:])  # a cookie of 16 octets comes first (RFC 4253 §7.1)
            offered.string(), offered.string()
            if set(GCM) & set(offered.string().decode("ascii", "replace").split(",")):
                self._preferred_ciphers = GCM
        super()._negotiate_keys(m)  # type: ignore[misc]

    def _parse_newkeys(self, m: Message) -> None:
        if self.auth_handler is None:
            self.auth_handler = DoorAuth(self)
        super()._parse_newkeys(m)

    def _parse_channel_open(self, m: Message) -> None:
        fields = Fields(m.asbytes())
        kind, remote, window, packet = fields.text(), fields.u32(), fields.u32(), fields.u32()
        if kind != "session":
            self.events.forward_refused(_where_to(kind, fields))
            self._refuse_channel(remote, PROHIBITED, "This gateway forwards nothing.")
            return
        fields.end()
        if self._no_more_sessions or len(self._internals._channels) >= MOST_CHANNELS:
            self._refuse_channel(remote, RESOURCE_SHORTAGE, f"At most {MOST_CHANNELS} sessions on one connection.")
            return
        with self.lock:
            channel = ChannelEnd(self, self._internals._next_channel())
            channel.confirm(remote, window, packet)
            self._register(channel)
        self._answer(b"\x5b" + u32(remote) + u32(channel.number) + u32(WINDOW) + u32(MAX_PACKET))
        self.events.opened(channel)

    def _parse_global_request(self, m: Message) -> None:
        fields = Fields(m.asbytes())
        kind = fields.text()
        if kind == "no-more-sessions@openssh.com":
            self._no_more_sessions = True
        elif "forward" in kind:
            self.events.forward_refused(kind[:100])
        self._refuse_global(fields)


def _where_to(kind: str, fields: Fields) -> str:
    """A forward's kind and destination, for the record."""
    if kind not in ("direct-tcpip", "direct-streamlocal@openssh.com"):
        return kind[:100]
    host = fields.string()[:200].decode("utf-8", "replace")
    port = f":{fields.u32()}" if kind == "direct-tcpip" else ""
    return f"{kind} {host}{port}"


class DoorAuth(AuthHandler):
    """Public-key authentication with the door's certificates (RFC 4252 §7), and nothing else."""

    def __init__(self, transport: DoorTransport) -> None:
        super().__init__(transport)
        self._door = transport
        self._told = False

    @property
    def _server_handler_table(self) -> dict[int, Callable[[Message], None]]:
        return {5: self._serve_request, 50: self._authenticate}

    def _serve_request(self, m: Message) -> None:
        if Fields(m.asbytes()).text() != "ssh-userauth":
            raise ProtocolViolationError("only ssh-userauth can be asked for")
        self._door._answer(b"\x06" + string(b"ssh-userauth"))

    def _authenticate(self, m: Message) -> None:
        fields = Fields(m.asbytes())
        user, service, method = fields.text(), fields.text(), fields.text()
        if service != "ssh-connection" or len(user) > LONGEST_USER_NAME:
            raise ProtocolViolationError("an unknown service or an endless user name")
        if self.auth_username not in (None, user):
            raise ProtocolViolationError("the user name changed during authentication")
        self.auth_username = user
        if method == "publickey":
            self._with_key(user, fields)
        else:
            self._turn_away(counts=method != "none")

    def _with_key(self, user: str, fields: Fields) -> None:
        signed, algorithm, blob = fields.boolean(), fields.text(), fields.string()
        signature = fields.string() if signed else b""
        fields.end()
        kind = _CERTIFICATE_ALGORITHMS.get(algorithm)
        if kind is None or not blob.startswith(string(kind)):
            self._explain(SIGN_IN)
            self._turn_away()
            return
        verdict = self._door.events.judge(blob)
        if isinstance(verdict, Refusal):
            self._explain(verdict)
            self._door.events.refused(user, verdict)
            self._turn_away()
        elif not signed:
            self._door._answer(b"\x3c" + string(algorithm.encode()) + string(blob))  # PK_OK; nothing is remembered
        elif self._is_signed(user, algorithm, blob, signature):
            self._let_in(verdict, user)
        else:
            self._turn_away()

    def _is_signed(self, user: str, algorithm: str, blob: bytes, signature: bytes) -> bool:
        """The signature covers this session, this user name and this certificate (RFC 4252 §7)."""
        if not signature.startswith(string(algorithm.removesuffix(_CERTIFICATE_SUFFIX).encode())):
            return False
        internals = self._door._internals
        parts = (internals.session_id, None, user.encode(), b"ssh-connection", b"publickey")
        signed = b"".join(b"\x32" if part is None else string(part) for part in parts)
        signed += b"\x01" + string(algorithm.encode()) + string(blob)
        try:
            key = internals._key_info[algorithm](Message(blob))
            return bool(key.verify_ssh_sig(signed, Message(signature)))
        except (SSHException, ValueError, TypeError, IndexError) as bad:
            LOG.debug("an unreadable key or signature: %r", bad)
            return False

    def _let_in(self, user_id: str, user: str) -> None:
        self.authenticated = True
        self._door.admit(user_id, user)
        self._door._answer(b"\x34")
        self._door._internals._auth_trigger()

    def _turn_away(self, *, counts: bool = True) -> None:
        self.auth_fail_count += counts
        if self.auth_fail_count >= MOST_TRIES:
            raise ProtocolViolationError("too many tries to authenticate")
        self._door._answer(b"\x33" + string(b"publickey") + b"\0")

    def _explain(self, refusal: Refusal) -> None:
        """A banner (RFC 4252 §5.4), once."""
        if not self._told:
            self._told = True
            self._door._answer(b"\x35" + string(f"{refusal.sentence()}\r\n".encode()) + string(b"en"))


# -------------------------------------------------------------------- the target's leg


class TargetTransport(HardTransport):
    """The client side of the connection to a target. `pinned` holds key blobs by type name."""

    def __init__(self, sock: socket.socket, pinned: Sequence[tuple[str, bytes]], when_over: Callable[[], None]) -> None:
        super().__init__(sock, when_over)
        self._allowed = BEFORE_LOGIN_AT_TARGET
        self._pinned = frozenset(blob for _type, blob in pinned)
        self._preferred_keys = tuple(dict.fromkeys(name for type_, _blob in pinned for name in _signatures_of(type_)))
        self._answers: dict[int, tuple[Event, list[str]]] = {}
        self._opening = Lock()

    def _verify_key(self, host_key: bytes, sig: bytes) -> None:
        if host_key not in self._pinned:  # INVARIANT 6
            raise HostKeyChangedError
        super()._verify_key(host_key, sig)  # type: ignore[misc]

    def log_in(self, account: str, key: paramiko.PKey) -> None:
        """Authenticate with a certified key. Raises SSHException."""
        self.auth_timeout = 15
        self.auth_publickey(account, key)
        self._allowed = AFTER_LOGIN_AT_TARGET
        self.packets.trust()

    def _auth_trigger(self) -> None:
        # Runs in the transport's thread, before anything can follow the success message.
        self._allowed = AFTER_LOGIN_AT_TARGET
        super()._auth_trigger()  # type: ignore[misc]

    def open_session_channel(self, timeout: float) -> ChannelEnd:
        """A new session channel. Raises SSHException when the target refuses or does not answer."""
        with self._opening:
            with self.lock:
                channel = ChannelEnd(self, self._internals._next_channel())
                self._register(channel)
            answered, reasons = Event(), list[str]()
            self._answers[channel.number] = (answered, reasons)
            self.post(b"\x5a" + string(b"session") + u32(channel.number) + u32(WINDOW) + u32(MAX_PACKET))
            ok = answered.wait(timeout)
            self._answers.pop(channel.number, None)
        if not ok or reasons or channel.remote < 0:
            self.forget_channel(channel.number)
            raise SSHException(reasons[0] if reasons else "no answer")
        return channel

    def _parse_channel_open_success(self, m: Message) -> None:
        fields = Fields(m.asbytes())
        number, remote, window, packet = fields.u32(), fields.u32(), fields.u32(), fields.u32()
        channel, (answered, _reasons) = self._internals._channels.get(number), self._asked(number)
        channel.confirm(remote, window, packet)
        answered.set()

    def _parse_channel_open_failure(self, m: Message) -> None:
        fields = Fields(m.asbytes())
        number, _reason = fields.u32(), fields.u32()
        answered, reasons = self._asked(number)
        reasons.append(fields.string()[:200].decode("utf-8", "replace") or "refused")
        answered.set()

    def _asked(self, number: int) -> tuple[Event, list[str]]:
        if number not in self._answers:
            raise ProtocolViolationError("an answer to a channel that nobody opened")
        return self._answers[number]

    def _parse_channel_open(self, m: Message) -> None:
        fields = Fields(m.asbytes())
        fields.text()
        self._refuse_channel(fields.u32(), PROHIBITED, "")

    def _parse_global_request(self, m: Message) -> None:
        fields = Fields(m.asbytes())
        fields.text()
        self._refuse_global(fields)

    def run(self) -> None:
        """As above; whoever waits for a channel is told that none will come."""
        try:
            super().run()
        finally:
            with suppress(RuntimeError):  # an answer removed meanwhile was not waiting any more
                for answered, reasons in self._answers.values():
                    reasons.append("the target closed the connection")
                    answered.set()


def _signatures_of(key_type: str) -> tuple[str, ...]:
    """The host key algorithms with which a key of that type may sign; never SHA-1."""
    return ("rsa-sha2-512", "rsa-sha2-256") if key_type == "ssh-rsa" else (key_type,)
