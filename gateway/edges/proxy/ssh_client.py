"""The target's leg: SSH's client side, with pinned host keys. The invariants are in `ssh_transport`."""

import socket
from collections.abc import Callable, Sequence

import paramiko
from paramiko import Message

from gateway.edges.proxy.ssh_channels import ChannelEnd
from gateway.edges.proxy.ssh_fields import Fields
from gateway.edges.proxy.ssh_openings import OpeningTransport
from gateway.edges.proxy.ssh_transport import ALWAYS, CHANNEL_MESSAGES, KEX_MESSAGES, PROHIBITED, RESOURCE_SHORTAGE

# 6 service accept · 51 failure, 52 success, 53 banner · 81/82 answers to what we asked, else a violation.
BEFORE_LOGIN = ALWAYS | KEX_MESSAGES | {6, 7, 51, 52, 53}
AFTER_LOGIN = ALWAYS | KEX_MESSAGES | {80, 81, 82, 90, 91, 92} | CHANNEL_MESSAGES

MOST_CHANNELS = 80  # of all kinds; a few more than the person's leg may hold

_CERTIFIED = (
    "ssh-ed25519-cert-v01@openssh.com", "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com", "ecdsa-sha2-nistp521-cert-v01@openssh.com",
    "rsa-sha2-512-cert-v01@openssh.com", "rsa-sha2-256-cert-v01@openssh.com",
)  # fmt: skip


class HostKeyChangedError(Exception):
    """The target showed a host key that is not pinned, or a certificate that does not hold; `key` is its blob."""

    def __init__(self, key: bytes, why: str) -> None:
        super().__init__(why)
        self.key = key


class TargetTransport(OpeningTransport):
    """The client side of the connection to a target. `pinned` holds key blobs by type name.

    `certified`, where the catalogue names an authority for hosts, says why a host certificate does not hold ("" when
    it does).
    """

    def __init__(
        self,
        sock: socket.socket,
        pinned: Sequence[tuple[str, bytes]],
        when_over: Callable[[], None],
        certified: Callable[[bytes], str] | None = None,
    ) -> None:
        super().__init__(sock, when_over)
        self._allowed = BEFORE_LOGIN
        self._pinned = frozenset(blob for _type, blob in pinned)
        self._certified = certified
        plain = dict.fromkeys(name for type_, _blob in pinned for name in _signatures_of(type_))
        self._preferred_keys = (*(_CERTIFIED if certified else ()), *plain)
        # Called by the transport's thread, which must not wait. Nothing is expected until somebody says so.
        self.expects_channel: Callable[[str], bool] = lambda _kind: False
        self.channel_asked: Callable[[str, bytes, ChannelEnd], None] = lambda _kind, _fields, _channel: None

    def _verify_key(self, host_key: bytes, sig: bytes) -> None:
        if host_key not in self._pinned:  # INVARIANT 6
            why = self._certified(host_key) if self._certified else "it is not pinned"
            if why:
                raise HostKeyChangedError(host_key, why)
        super()._verify_key(host_key, sig)  # type: ignore[misc]

    def log_in(self, account: str, key: paramiko.PKey) -> None:
        """Authenticate with a certified key. Raises SSHException."""
        self.auth_timeout = 15
        self.auth_publickey(account, key)
        self._allowed = AFTER_LOGIN
        self.packets.trust()

    def _auth_trigger(self) -> None:
        # Runs in the transport's thread, before anything can follow the success message.
        self._allowed = AFTER_LOGIN
        super()._auth_trigger()  # type: ignore[misc]

    def open_session_channel(self, timeout: float) -> ChannelEnd:
        """A new session channel. Raises SSHException when the target refuses or does not answer."""
        return self.open_channel_to_peer("session", b"", timeout)

    def _parse_channel_open(self, m: Message) -> None:
        fields = Fields(m.asbytes())
        kind, remote, window, packet = fields.text(), fields.u32(), fields.u32(), fields.u32()
        if not self.expects_channel(kind):  # what nobody asked the target for
            self._refuse_at_once(remote, PROHIBITED, "")
            return
        if len(self._ends) >= MOST_CHANNELS:
            self._refuse_at_once(remote, RESOURCE_SHORTAGE, "")
            return
        self.channel_asked(kind, fields.rest(), self._expect(remote, window, packet))

    def _parse_global_request(self, m: Message) -> None:
        fields = Fields(m.asbytes())
        fields.text()
        self._refuse_global(fields)


def _signatures_of(key_type: str) -> tuple[str, ...]:
    """The host key algorithms with which a key of that type may sign; never SHA-1."""
    return ("rsa-sha2-512", "rsa-sha2-256") if key_type == "ssh-rsa" else (key_type,)
