"""The upstream leg: dial a target, pin its host key, log in with a key and a certificate of this session alone."""

import base64
import binascii
import hashlib
import io
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from paramiko import AuthenticationException, SSHException

from gateway.app.open_session import Opened
from gateway.core.errors import Refusal, Unavailable
from gateway.core.session import Session
from gateway.core.target import SshRules, Target
from gateway.edges.proxy.ssh_client import HostKeyChangedError, TargetTransport
from gateway.edges.proxy.ssh_fields import ProtocolViolationError, TargetViolationError

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
        source_address: str = "",
        rules: SshRules | None = None,
    ) -> str:
        """A user certificate line for an account on a target, with no more rights than the rules open."""
        ...

    def verify_host_certificate(self, blob: bytes, authorities: Sequence[bytes], host: str, at: datetime) -> str:
        """Why a host certificate does not hold; "" when one of the authorities (key blobs) vouches for `host`."""
        ...


class TargetRefusedError(Unavailable):
    """The target cannot be used; `presented` tells of a host key that it showed and nobody vouches for."""

    def __init__(self, refusal: Refusal, presented: dict[str, object] | None = None) -> None:
        super().__init__(refusal)
        self.presented = presented or {}


def dial(opened: Opened, authority: Authority, at: datetime, when_over: Callable[[], None]) -> TargetTransport:
    """A logged-in connection to the session's target. TargetRefusedError with a sentence; nothing is left open then.

    `when_over` is called once, by the connection's own thread, when it has ended.
    """
    leg = Leg(opened.session, opened.target, opened.level.account, opened.level.force_command, opened.level.ssh)
    return dial_target(leg, authority, at, when_over)


@dataclass(frozen=True, slots=True)
class Leg:
    """Who logs in where: one session or run, one account, no more rights than the rules open."""

    session: Session
    target: Target
    account: str
    force_command: str | None
    rules: SshRules


def dial_target(leg: Leg, authority: Authority, at: datetime, when_over: Callable[[], None]) -> TargetTransport:
    """See `dial`."""
    target = leg.target
    pinned, authorities = pinned_keys(target)
    try:
        sock = socket.create_connection((target.host, target.port), timeout=CONNECT_TIMEOUT)
    except OSError as why:
        raise _unavailable(target, "target-unreachable", f"{target.name} cannot be reached.") from why
    try:
        # The certificate is worth something only from where this connection comes from.
        key = _certified_key(leg, authority, at, str(sock.getsockname()[0]))
    except (OSError, Unavailable):
        sock.close()
        raise

    def certified(blob: bytes) -> str:
        return authority.verify_host_certificate(blob, authorities, target.host, at)

    transport = TargetTransport(sock, pinned, when_over, certified if authorities else None)
    try:
        transport.start_client(timeout=HANDSHAKE_TIMEOUT)
        transport.log_in(leg.account, key)
    except (SSHException, HostKeyChangedError, EOFError, OSError, ValueError) as why:
        root = transport.why_over()
        transport.close()
        raise _why_not(target, root if isinstance(root, HostKeyChangedError) else why) from why
    return transport


def _why_not(target: Target, why: BaseException) -> TargetRefusedError:
    if isinstance(why, HostKeyChangedError):
        return host_key_changed(target, why)
    if isinstance(why, AuthenticationException):
        return _unavailable(
            target,
            "target-refused",
            f"{target.name} does not accept the gateway's certificate.",
            "Its TrustedUserCAKeys must hold the gateway's authority, the level's account must exist, and no address "
            "translation may stand between: the certificate names the gateway's address.",
        )
    return _unavailable(target, "target-unreachable", f"{target.name} does not answer as an SSH server.")


def fault(why: BaseException | None) -> str:
    """What a target did, of which its connection ended; "" when it only left."""
    if isinstance(why, HostKeyChangedError):
        return "its host key changed"
    is_wrong = isinstance(why, ProtocolViolationError | TargetViolationError)
    return f"it broke the protocol: {why}" if is_wrong else ""


def host_key_changed(target: Target, why: HostKeyChangedError) -> TargetRefusedError:
    """The sentence, and what was presented instead of what is pinned."""
    no = _unavailable(
        target,
        "host-key-changed",
        f"The host key of {target.name} is not the one in the catalogue, so nothing was sent to it.",
        "Tell the target's owners: either it was rebuilt and the catalogue must follow, or this is not the target.",
    )
    no.presented = {"presented": _fingerprint(why.key), "why": str(why), "pinned": _known(target)}
    return no


def _unavailable(target: Target, code: str, message: str, step: str = "") -> TargetRefusedError:
    return TargetRefusedError(
        Refusal(code, message, (target.name,), (step or "Try again; then call the target's owners.",))
    )


def pinned_keys(target: Target) -> tuple[tuple[tuple[str, bytes], ...], tuple[bytes, ...]]:
    """(type, blob) of each pinned host key, and the blobs of `cert-authority` lines; Unavailable without either."""
    keys, authorities = [], []
    for line in target.host_keys:
        words = line.split()
        is_authority = words[:1] == ["cert-authority"]
        kind, *rest = words[is_authority:] or [""]
        with suppress(binascii.Error, ValueError, IndexError):
            blob = base64.b64decode(rest[0], validate=True)
            if is_authority:
                authorities.append(blob)
            else:
                keys.append((kind, blob))
    if not keys and not authorities:
        raise _unavailable(target, "host-key-missing", f"The catalogue holds no host key for {target.name}.")
    return tuple(keys), tuple(authorities)


def _fingerprint(blob: bytes) -> str:
    """As ssh-keygen -l prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _known(target: Target) -> list[str]:
    keys, authorities = pinned_keys(target)
    return [*(_fingerprint(blob) for _kind, blob in keys), *(f"authority {_fingerprint(blob)}" for blob in authorities)]


def _certified_key(leg: Leg, authority: Authority, at: datetime, source_address: str) -> paramiko.PKey:
    """A fresh key and its certificate; both live in memory only."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
    session = leg.session
    try:
        certificate = authority.target_certificate(
            public, leg.account, session.id, session.grant, at,
            user=session.holder_name, force_command=leg.force_command,
            source_address=source_address, rules=leg.rules,
        )  # fmt: skip
    except ValueError as why:
        raise _unavailable(leg.target, "account-unsafe", str(why), "Correct the account in the catalogue.") from why
    key = paramiko_key(private)
    key.load_certificate(certificate)
    return key


def paramiko_key(private: Ed25519PrivateKey) -> paramiko.Ed25519Key:
    """The same key in paramiko's class."""
    text = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode("ascii")
    return paramiko.Ed25519Key(file_obj=io.StringIO(text))
