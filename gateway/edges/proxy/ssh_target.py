"""The upstream leg: dial a target, pin its host key, log in with a key and a certificate of this session alone."""

import base64
import binascii
import io
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Protocol

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from paramiko import AuthenticationException, SSHException

from gateway.app.open_session import Opened
from gateway.core.errors import Refusal, Unavailable
from gateway.core.target import Target
from gateway.edges.proxy.ssh_client import HostKeyChangedError, TargetTransport

CONNECT_TIMEOUT = 10.0
HANDSHAKE_TIMEOUT = 15.0
HOST_KEY_CHANGED = "target host key changed"


class Authority(Protocol):
    """What the door needs of the gateway's SSH authorities."""

    def verify_door_certificate(self, blob: bytes, at: datetime) -> str | Refusal:
        """The user id that a certificate stands for, or why it stands for nobody."""
        ...

    def target_certificate(
        self,
        public_key: str,
        account: str,
        session_id: str,
        grant_id: str,
        at: datetime,
        *,
        user: str = "",
        force_command: str | None = None,
    ) -> str:
        """A user certificate line for an account on a target."""
        ...


def dial(opened: Opened, authority: Authority, at: datetime, when_over: Callable[[], None]) -> TargetTransport:
    """A logged-in connection to the session's target. Raises Unavailable with a sentence; nothing is left open then.

    `when_over` is called once, by the connection's own thread, when it has ended.
    """
    target = opened.target
    pinned = pinned_keys(target)
    key = _certified_key(opened, authority, at)
    try:
        sock = socket.create_connection((target.host, target.port), timeout=CONNECT_TIMEOUT)
    except OSError as why:
        raise _unavailable(target, "target-unreachable", f"{target.name} cannot be reached.") from why
    transport = TargetTransport(sock, pinned, when_over)
    try:
        transport.start_client(timeout=HANDSHAKE_TIMEOUT)
        transport.log_in(opened.level.account, key)
    except (SSHException, HostKeyChangedError, EOFError, OSError, ValueError) as why:
        root = transport.why_over()
        transport.close()
        raise _why_not(target, root if isinstance(root, HostKeyChangedError) else why) from why
    return transport


def _why_not(target: Target, why: BaseException) -> Unavailable:
    if isinstance(why, HostKeyChangedError):
        return _unavailable(
            target,
            "host-key-changed",
            f"The host key of {target.name} is not the one in the catalogue, so nothing was sent to it.",
            "Tell the target's owners: either it was rebuilt and the catalogue must follow, or this is not the target.",
        )
    if isinstance(why, AuthenticationException):
        return _unavailable(
            target,
            "target-refused",
            f"{target.name} does not accept the gateway's certificate.",
            "Its TrustedUserCAKeys must hold the gateway's authority, and the level's account must exist.",
        )
    return _unavailable(target, "target-unreachable", f"{target.name} does not answer as an SSH server.")


def _unavailable(target: Target, code: str, message: str, step: str = "") -> Unavailable:
    return Unavailable(Refusal(code, message, (target.name,), (step or "Try again; then call the target's owners.",)))


def pinned_keys(target: Target) -> tuple[tuple[str, bytes], ...]:
    """(type, blob) of each pinned host key line; Unavailable when there is none that can be read."""
    keys = []
    for line in target.host_keys:
        kind, _, rest = line.strip().partition(" ")
        with suppress(binascii.Error, ValueError):
            keys.append((kind, base64.b64decode(rest.split(" ")[0], validate=True)))
    if not keys:
        raise _unavailable(target, "host-key-missing", f"The catalogue holds no host key for {target.name}.")
    return tuple(keys)


def _certified_key(opened: Opened, authority: Authority, at: datetime) -> paramiko.PKey:
    """A fresh key and its certificate; both live in memory only."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
    session, level = opened.session, opened.level
    try:
        certificate = authority.target_certificate(
            public, level.account, session.id, session.grant, at,
            user=session.holder_name, force_command=level.force_command,
        )  # fmt: skip
    except ValueError as why:
        raise _unavailable(opened.target, "account-unsafe", str(why), "Correct the level in the catalogue.") from why
    key = paramiko_key(private)
    key.load_certificate(certificate)
    return key


def paramiko_key(private: Ed25519PrivateKey) -> paramiko.Ed25519Key:
    """The same key in paramiko's class."""
    text = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode("ascii")
    return paramiko.Ed25519Key(file_obj=io.StringIO(text))
