# ruff: noqa: SLF001 - this module exists to reach what paramiko keeps private
"""The target's leg: SSH's client side, with pinned host keys. The invariants are in `ssh_transport`."""

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event, Lock

import paramiko
from paramiko import Message, SSHException

from gateway.edges.proxy.ssh_channels import MAX_PACKET, WINDOW, ChannelEnd
from gateway.edges.proxy.ssh_fields import Fields, ProtocolViolationError, string, u32
from gateway.edges.proxy.ssh_transport import ALWAYS, CHANNEL_MESSAGES, KEX_MESSAGES, PROHIBITED, HardTransport

# 6 service accept · 51 failure, 52 success, 53 banner · 81/82 never asked for · 90 is answered with a no.
BEFORE_LOGIN = ALWAYS | KEX_MESSAGES | {6, 7, 51, 52, 53}
AFTER_LOGIN = ALWAYS | KEX_MESSAGES | {80, 90, 91, 92} | CHANNEL_MESSAGES


class HostKeyChangedError(Exception):
    """The target showed a host key that is not pinned for it."""


class TargetTransport(HardTransport):
    """The client side of the connection to a target. `pinned` holds key blobs by type name."""

    def __init__(self, sock: socket.socket, pinned: Sequence[tuple[str, bytes]], when_over: Callable[[], None]) -> None:
        super().__init__(sock, when_over)
        self._allowed = BEFORE_LOGIN
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
        self._allowed = AFTER_LOGIN
        self.packets.trust()

    def _auth_trigger(self) -> None:
        # Runs in the transport's thread, before anything can follow the success message.
        self._allowed = AFTER_LOGIN
        super()._auth_trigger()  # type: ignore[misc]

    def open_session_channel(self, timeout: float) -> ChannelEnd:
        """A new session channel. Raises SSHException when the target refuses or does not answer."""
        with self._opening:
            with self.lock:
                channel = ChannelEnd(self, self._internals._next_channel())
                self._register(channel)
            answered, reasons = Event(), list[str]()
            self._answers[channel.number] = (answered, reasons)
            if not self.is_active():  # what is posted now would be dropped without a word
                raise SSHException("the connection is closed")
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
