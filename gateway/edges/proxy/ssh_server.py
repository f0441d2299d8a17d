# ruff: noqa: SLF001 - this module exists to reach what paramiko keeps private
"""The person's leg: SSH's server side, with public-key authentication by the door's certificates and nothing else.

The invariants are in `ssh_transport`.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

import paramiko
from paramiko import Message, SSHException
from paramiko.auth_handler import AuthHandler

from gateway.core.errors import Refusal
from gateway.edges.proxy.ssh_channels import MAX_PACKET, WINDOW, ChannelEnd
from gateway.edges.proxy.ssh_fields import Fields, ProtocolViolationError, string, u32
from gateway.edges.proxy.ssh_transport import (
    ALWAYS,
    CHANNEL_MESSAGES,
    GCM,
    KEX_MESSAGES,
    LOG,
    PROHIBITED,
    RESOURCE_SHORTAGE,
    HardTransport,
)

MOST_TRIES = 6
MOST_MESSAGES_BEFORE_LOGIN = 200
MOST_CHANNELS = 10  # as OpenSSH's MaxSessions
LONGEST_USER_NAME = 255
# RFC 4250 §4.1.2. 5 service request · 7 extension info · 50 authentication request.
BEFORE_LOGIN = ALWAYS | KEX_MESSAGES | {5, 7, 50}
AFTER_LOGIN = ALWAYS | KEX_MESSAGES | {80, 90} | CHANNEL_MESSAGES

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
        self._allowed = BEFORE_LOGIN
        self._before_login = 0
        self._no_more_sessions = False
        self._kex_sent = False
        self.add_server_key(host_key)

    def serve(self) -> None:
        """Begin; returns at once."""
        self.start_server(event=Event(), server=paramiko.ServerInterface())

    def _gate(self, number: int) -> None:
        super()._gate(number)
        if self._allowed is BEFORE_LOGIN:
            self._before_login += 1
            if self._before_login > MOST_MESSAGES_BEFORE_LOGIN:
                raise ProtocolViolationError("too many messages before login")

    def admit(self, user_id: str, user_name: str) -> None:
        """Authentication succeeded."""
        self._allowed = AFTER_LOGIN
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
