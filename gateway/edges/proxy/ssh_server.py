# ruff: noqa: SLF001 - this module exists to reach what paramiko keeps private
"""The person's leg: SSH's server side. Who comes proves it with the door's certificate, or with a ticket as password.

The invariants are in `ssh_transport`.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Any, ClassVar

import paramiko
from paramiko import Message, SSHException
from paramiko.auth_handler import AuthHandler

from gateway.app.ssh_sign_in import BAD_TICKET
from gateway.core.errors import Refusal
from gateway.core.grant import Grant
from gateway.edges.proxy.ssh_chacha import NAME as CHACHA
from gateway.edges.proxy.ssh_chacha import ChaChaPoly
from gateway.edges.proxy.ssh_channels import WINDOW, ChannelEnd
from gateway.edges.proxy.ssh_fields import Fields, ProtocolViolationError, string, u32
from gateway.edges.proxy.ssh_forwards import CANCEL, DIRECT, LISTEN, MOST_FORWARDS
from gateway.edges.proxy.ssh_messages import MAX_PACKET
from gateway.edges.proxy.ssh_openings import GlobalAnswer, OpeningTransport
from gateway.edges.proxy.ssh_transport import (
    ALWAYS,
    CHANNEL_MESSAGES,
    GCM,
    KEX_MESSAGES,
    LOG,
    POST_QUANTUM,
    PROHIBITED,
    RESOURCE_SHORTAGE,
)

MOST_TRIES = 6
MOST_MESSAGES_BEFORE_LOGIN = 200
MOST_CHANNELS = 10  # as OpenSSH's MaxSessions
MOST_BANNERS = 4
LONGEST_USER_NAME = 255
LONGEST_TICKET = 8192  # of a deploy token, which is told that it is none
# RFC 4250 §4.1.2. 5 service request · 7 extension info · 50 authentication request · 61 an answer to our prompt.
BEFORE_LOGIN = ALWAYS | KEX_MESSAGES | {5, 7, 50, 61}
# 91 and 92 answer channels that we open (remote forwards, agent, X11); unasked they are a violation.
AFTER_LOGIN = ALWAYS | KEX_MESSAGES | {80, 90, 91, 92} | CHANNEL_MESSAGES
METHODS = b"publickey,password,keyboard-interactive"

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
    (
        "Run gw login, then connect with the configuration that gw ssh-config prints;",
        "or give the ticket that gw connect prints as password.",
    ),
)


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Who a credential stands for; `grant` when it was a ticket, which is for one grant alone."""

    user_id: str
    grant: Grant | None = None


@dataclass(frozen=True, slots=True)
class DoorEvents:
    """What the door wants to hear. All are called by the transport's thread and must not wait long.

    `judge(certificate blob)` returns the user id that a certificate stands for, or why it stands for nobody;
    `ticket(user name, ticket)` the same for a ticket; `refused(user name, refusal)` tells of a certificate that was
    presented with a valid shape and turned away; `logged_in(who, user name)` comes once; `opened(channel)` for each
    session channel; `direct(kind, fields, channel)` and `listen(kind, fields, answer due)` for forwards;
    `forward_refused(what)` for what is never forwarded; `over()` once, at the very end.
    """

    judge: Callable[[bytes], str | Refusal]
    ticket: Callable[[str, str], Newcomer | Refusal]
    refused: Callable[[str, Refusal], None]
    logged_in: Callable[[Newcomer, str], None]
    opened: Callable[[ChannelEnd], None]
    direct: Callable[[str, bytes, ChannelEnd], None]
    listen: Callable[[str, bytes, GlobalAnswer | None], None]
    forward_refused: Callable[[str], None]
    over: Callable[[], None]


class DoorTransport(OpeningTransport):
    """The server side of a person's connection."""

    _preferred_keys = ("ssh-ed25519",)
    _cipher_info: ClassVar[dict[str, dict[str, Any]]] = {
        **paramiko.Transport._cipher_info,  # type: ignore[attr-defined]
        CHACHA: {"class": ChaChaPoly, "block-size": 8, "iv-size": 12, "key-size": 64, "is_aead": True},
    }

    def __init__(
        self, sock: socket.socket, host_key: paramiko.PKey, events: DoorEvents, *, post_quantum_only: bool = False
    ) -> None:
        super().__init__(sock, events.over)
        self.events = events
        self._is_post_quantum = post_quantum_only
        if post_quantum_only:
            self._preferred_kex = POST_QUANTUM
        self._allowed = BEFORE_LOGIN
        self._before_login = 0
        self._no_more_sessions = False
        self._sessions: set[int] = set()
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

    def admit(self, who: Newcomer, user_name: str) -> None:
        """Authentication succeeded."""
        self._allowed = AFTER_LOGIN
        self.packets.trust()
        self.events.logged_in(who, user_name)

    def _send_kex_init(self) -> None:
        """OpenSSH prefers CTR over GCM, which costs us twice the time: let it speak first; offer GCM alone if it can.

        It sends its list as soon as it has seen our identification string. Others may wait for ours.
        """
        if not self._kex_sent and self.remote_version.startswith("SSH-2.0-OpenSSH_"):
            self._kex_sent = True
            self._internals.in_kex = True
            return
        self._kex_sent = True
        if self.remote_version.startswith("SSH-2.0-dropbear") and not self._is_post_quantum:
            self._preferred_ciphers = (CHACHA, *self._preferred_ciphers)
            # Named because both sides must have one in common; with this cipher it is not used (and nothing that is
            # not sealed is spoken, see PacketLayer).
            self._preferred_macs = (*self._preferred_macs, "hmac-sha2-256")
            # It sends its guess at once (RFC 4253 §7): right if its first choice is ours.
            self._preferred_kex = ("curve25519-sha256", "curve25519-sha256@libssh.org")
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
        if kind in DIRECT:
            self._forward(kind, remote, window, packet, fields.rest())
            return
        if kind != "session":
            self.events.forward_refused(kind[:100])
            self._refuse_at_once(remote, PROHIBITED, "This gateway does not forward that.")
            return
        fields.end()
        if self._no_more_sessions or self._held()[0] >= MOST_CHANNELS:
            self._refuse_at_once(remote, RESOURCE_SHORTAGE, f"At most {MOST_CHANNELS} sessions on one connection.")
            return
        channel = self._expect(remote, window, packet)
        self._sessions.add(channel.number)
        self._answer(b"\x5b" + u32(remote) + u32(channel.number) + u32(WINDOW) + u32(MAX_PACKET))
        self.events.opened(channel)

    def _forward(self, kind: str, remote: int, window: int, packet: int, octets: bytes) -> None:
        if self._held()[1] >= MOST_FORWARDS:
            self._refuse_at_once(remote, RESOURCE_SHORTAGE, f"At most {MOST_FORWARDS} forwards at once.")
            return
        self.events.direct(kind, octets, self._expect(remote, window, packet))

    def _held(self) -> tuple[int, int]:
        """How many channels are open: sessions, and all others."""
        channels = self._internals._channels
        self._sessions = {number for number in self._sessions if channels.get(number) is not None}
        return len(self._sessions), len(channels) - len(self._sessions)

    def _parse_global_request(self, m: Message) -> None:
        fields = Fields(m.asbytes())
        kind = fields.text()
        if kind in LISTEN or kind in CANCEL:
            due = self._owe() if fields.boolean() else None
            self.events.listen(kind, fields.rest(), due)
            return
        if kind == "no-more-sessions@openssh.com":
            self._no_more_sessions = True
        self._refuse_global(fields)


class DoorAuth(AuthHandler):
    """The door's certificates (RFC 4252 §7), or a ticket as password (§8, RFC 4256). Each completes in one call."""

    def __init__(self, transport: DoorTransport) -> None:
        super().__init__(transport)
        self._door = transport
        self._told = set[str]()
        self._prompted = False

    @property
    def _server_handler_table(self) -> dict[int, Callable[[Message], None]]:
        return {5: self._serve_request, 50: self._authenticate, 61: self._prompt_answered}

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
        self._prompted = False  # whatever was asked before is abandoned (RFC 4256 §3.1)
        if method == "publickey":
            self._with_key(user, fields)
        elif method == "password":
            self._with_password(user, fields)
        elif method == "keyboard-interactive":
            self._prompt()
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
            self._let_in(Newcomer(verdict), user)
        else:
            self._turn_away()

    def _with_password(self, user: str, fields: Fields) -> None:
        is_change, password = fields.boolean(), fields.string()
        if is_change:
            fields.string()
        fields.end()
        self._with_ticket(user, b"" if is_change else password)

    def _prompt(self) -> None:
        """One question (RFC 4256 §3.2): name, instruction, language, number, prompt, no echo."""
        self._prompted = True
        head = string(b"") * 2 + string(b"") + u32(1)
        self._door._answer(b"\x3c" + head + string(b"The ticket of gw connect as password: ") + b"\0")

    def _prompt_answered(self, m: Message) -> None:
        fields = Fields(m.asbytes())
        if not self._prompted or self.auth_username is None or fields.u32() != 1:
            raise ProtocolViolationError("an answer to what nobody asked")
        self._prompted = False
        answer = fields.string()
        fields.end()
        self._with_ticket(self.auth_username, answer)

    def _with_ticket(self, user: str, secret: bytes) -> None:
        """One answer for everything that is wrong with a ticket. The secret is not kept, logged or repeated."""
        is_text = secret.isascii() and 0 < len(secret) <= LONGEST_TICKET
        found = self._door.events.ticket(user, secret.decode("ascii")) if is_text else BAD_TICKET
        if isinstance(found, Refusal):
            self._explain(found)
            self._turn_away()
        else:
            self._let_in(found, user)

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

    def _let_in(self, who: Newcomer, user: str) -> None:
        self.authenticated = True
        self._door.admit(who, user)
        self._door._answer(b"\x34")
        self._door._internals._auth_trigger()

    def _turn_away(self, *, counts: bool = True) -> None:
        self.auth_fail_count += counts
        if self.auth_fail_count >= MOST_TRIES:
            raise ProtocolViolationError("too many tries to authenticate")
        self._door._answer(b"\x33" + string(METHODS) + b"\0")

    def _explain(self, refusal: Refusal) -> None:
        """A banner (RFC 4252 §5.4), once for each reason."""
        if refusal.code not in self._told and len(self._told) < MOST_BANNERS:
            self._told.add(refusal.code)
            self._door._answer(b"\x35" + string(f"{refusal.sentence()}\r\n".encode()) + string(b"en"))
