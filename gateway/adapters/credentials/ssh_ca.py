"""The gateway's SSH authorities: one signs people's certificates for its own door, one signs for targets, never both.

Rules, each with the flaw that it answers:
- every certificate names exactly one principal of a safe alphabet: never none (CVE-2024-7594), never a comma
  (CVE-2026-35414, GHSA-59w7-v8rr-pr4p);
- a presented certificate is a user certificate of this very authority, over a plain key, valid now, with no option
  that we do not know (CVE-2025-49825, CVE-2023-38325);
- what targets trust lives five minutes at most, belongs to one session, is worth something only from the gateway's own
  address and names no right that the session's level does not open: a signed certificate cannot be taken back, so its
  serial follows from the session, for the revocation list;
- a host certificate vouches for the very host that was dialled, is signed by an authority that the catalogue names for
  it (never SHA-1), and carries no critical option: there is none that we know.
"""

import base64
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    SSHCertificate,
    SSHCertificateBuilder,
    SSHCertificateType,
    load_ssh_private_key,
    load_ssh_public_identity,
    load_ssh_public_key,
)

from gateway.core.errors import Refusal
from gateway.core.principal import User
from gateway.core.ssh_rules import certificate_serial, forwards_anything
from gateway.core.target import SshRules

LONGEST_TARGET_LIFE = timedelta(minutes=5)
CLOCK_SLACK = timedelta(seconds=30)
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,127}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._@-]")
_RSA_BITS = range(3072, 8193)
AcceptedKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_NEW_CERTIFICATE = ("Run gw login to get a new one.",)
NO_OPTIONS: Mapping[str, str] = {}


class SshAuthorities:
    """Two Ed25519 authorities and the door's host key, made on first use: 0600 files in a 0700 directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self._door = _key_at(directory / "door_ca")
        self._target = _key_at(directory / "target_ca")
        self._host = _key_at(directory / "host_key")
        self._door_public = self._door.public_key().public_bytes_raw()

    @property
    def target_ca_public(self) -> str:
        """The line for a target's TrustedUserCAKeys."""
        return f"{_line(self._target.public_key())} gateway-targets"

    @property
    def host_key_public(self) -> str:
        """The door's host key as an OpenSSH public key line, for known_hosts."""
        return _line(self._host.public_key())

    def host_key(self) -> ed25519.Ed25519PrivateKey:
        """The door's host key."""
        return self._host

    def door_certificate(self, user: User, public_key: str, at: datetime, until: datetime) -> str:
        """See `SshSigner`. The key id and the only principal are the user's id."""
        _must_be_safe(user.id, "user id")
        return _sign(self._door, accepted_key(public_key), user.id, user.id, at - CLOCK_SLACK, until)

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
        life: timedelta = LONGEST_TARGET_LIFE,
    ) -> str:
        """A certificate for `account` on a target, for one session; its key id names grant, session and user.

        `source_address` is the gateway's as the target sees it, `rules` decide the extensions.
        ValueError for an account, session or grant of an unsafe alphabet. `life` is cut at five minutes.
        """
        for value, what in ((account, "account"), (session_id, "session id"), (grant_id, "grant id")):
            _must_be_safe(value, what)
        key_id = f"grant={grant_id} session={session_id} user={_UNSAFE.sub('_', user)[:64]}"
        until = at + min(life, LONGEST_TARGET_LIFE)
        options = {"source-address": _host_network(source_address)} if source_address else {}
        if force_command is not None:
            options["force-command"] = force_command
        return _sign(
            self._target, accepted_key(public_key), key_id, account, at - CLOCK_SLACK, until,
            serial=certificate_serial(session_id), options=options, extensions=_extensions(rules or SshRules()),
        )  # fmt: skip

    def verify_host_certificate(self, blob: bytes, authorities: Sequence[bytes], host: str, at: datetime) -> str:
        """Why a host certificate does not hold for `host` at `at`; "" when it does.

        `authorities` are public keys in SSH's wire encoding, Ed25519 or ECDSA.
        """
        certificate = _parse(blob)
        if certificate is None:
            return "it is neither pinned nor certified"
        signer = certificate.signature_key()
        if not isinstance(signer, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
            return "its certificate is signed by a kind of key that is not accepted"
        line = signer.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        if base64.b64decode(line.split()[1]) not in authorities:
            return "its certificate is signed by another authority"
        try:
            certificate.verify_cert_signature()
        except (InvalidSignature, UnsupportedAlgorithm, ValueError):
            return "its certificate's signature is wrong"
        return _host_worth(certificate, host, int(at.timestamp()))

    def verify_door_certificate(self, blob: bytes, at: datetime) -> str | Refusal:
        """The user id that a certificate (its SSH wire encoding) stands for at `at`, or why it stands for nobody."""
        certificate = _parse(blob)
        if certificate is None:
            return _no("certificate-unreadable", "That certificate cannot be read.")
        authority = certificate.signature_key()
        if not isinstance(authority, ed25519.Ed25519PublicKey) or authority.public_bytes_raw() != self._door_public:
            return _no("certificate-foreign", "That certificate was not signed by this gateway.")
        try:
            certificate.verify_cert_signature()
        except (InvalidSignature, UnsupportedAlgorithm, ValueError):
            return _no("certificate-forged", "That certificate's signature is wrong.")
        return _worth(certificate, at)


def _worth(certificate: SSHCertificate, at: datetime) -> str | Refusal:
    """What a certificate with a good signature says."""
    now = int(at.timestamp())
    if certificate.type is not SSHCertificateType.USER:
        return _no("certificate-kind", "That is a host certificate, not a person's.")
    if now < certificate.valid_after:
        return _no("certificate-early", "That certificate is not valid yet; is your clock right?")
    if now >= certificate.valid_before:
        return _no("certificate-expired", "Your certificate has expired.")
    if certificate.critical_options:
        return _no("certificate-options", "That certificate has options that this gateway does not know.")
    try:
        user_id = certificate.key_id.decode("ascii")
    except UnicodeDecodeError:
        user_id = ""
    if not _SAFE.fullmatch(user_id) or certificate.valid_principals != [user_id.encode()]:
        return _no("certificate-principal", "That certificate does not name exactly one person.")
    return user_id


def _host_worth(certificate: SSHCertificate, host: str, now: int) -> str:
    if certificate.type is not SSHCertificateType.HOST:
        return "its certificate is a person's, not a host's"
    if not certificate.valid_after <= now < certificate.valid_before:
        return "its certificate has expired or is not valid yet"
    if certificate.critical_options:
        return "its certificate has options that this gateway does not know"
    if host.lower().encode() not in [name.lower() for name in certificate.valid_principals]:
        return f"its certificate does not name {host}"
    return ""


def _extensions(rules: SshRules) -> tuple[str, ...]:
    """What sshd lets a session do beyond running a command: only what its level opens; never user rc."""
    opened = {
        "permit-X11-forwarding": rules.x11_forwarding,
        "permit-agent-forwarding": rules.agent_forwarding,
        "permit-port-forwarding": forwards_anything(rules),
        "permit-pty": rules.shell,
    }
    return tuple(name for name, is_open in opened.items() if is_open)


def _host_network(address: str) -> str:
    """One address as sshd's source-address takes it; ValueError when it is none."""
    return str(ip_address(address.partition("%")[0]))


def _no(code: str, message: str) -> Refusal:
    return Refusal(code, message, ("a valid certificate",), _NEW_CERTIFICATE)


def _parse(blob: bytes) -> SSHCertificate | None:
    """The certificate in a blob; None when it is anything else, such as a plain key or a certified certificate."""
    length = int.from_bytes(blob[:4], "big")
    kind = blob[4 : 4 + length]
    if not re.fullmatch(rb"[a-z0-9-]{1,40}-cert-v01@openssh\.com", kind):
        return None
    with suppress(ValueError, UnsupportedAlgorithm, TypeError, OverflowError):
        identity = load_ssh_public_identity(kind + b" " + base64.b64encode(blob))
        if isinstance(identity, SSHCertificate):
            identity.public_key()  # both are parsed lazily: what is no key is found out here
            identity.signature_key()
            return identity
    return None


def accepted_key(line: str) -> AcceptedKey:
    """A plain public key of a kind that we sign; ValueError says which ones are."""
    if "-cert-" in line.partition(" ")[0]:
        raise ValueError("This is a certificate; the public key itself is needed.")
    try:
        key = load_ssh_public_key(line.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm) as bad:
        raise ValueError("This is not an OpenSSH public key.") from bad
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in ("secp256r1", "secp384r1", "secp521r1"):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS:
        return key
    raise ValueError("Only Ed25519, ECDSA and RSA keys of 3072 to 8192 bits are accepted.")


def _sign(
    authority: ed25519.Ed25519PrivateKey,
    key: AcceptedKey,
    key_id: str,
    principal: str,
    after: datetime,
    before: datetime,
    *,
    serial: int = 0,
    options: Mapping[str, str] = NO_OPTIONS,
    extensions: Sequence[str] = ("permit-pty",),
) -> str:
    """An OpenSSH user certificate line. `serial` 0 draws one; options are critical ones."""
    builder = (
        SSHCertificateBuilder()
        .public_key(key)
        .serial(serial or secrets.randbits(63) + 1)
        .type(SSHCertificateType.USER)
        .key_id(key_id.encode("ascii"))
        .valid_principals([principal.encode("ascii")])
        .valid_after(int(after.timestamp()))
        .valid_before(int(before.timestamp()))
    )
    for name in extensions:
        builder = builder.add_extension(name.encode(), b"")
    for name, value in options.items():
        builder = builder.add_critical_option(name.encode(), value.encode())
    return builder.sign(authority).public_bytes().decode("ascii")


def _must_be_safe(value: str, what: str) -> None:
    if not _SAFE.fullmatch(value):
        raise ValueError(f"The {what} cannot be named in a certificate.")


def _line(key: ed25519.Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def _key_at(path: Path) -> ed25519.Ed25519PrivateKey:
    """Read a key, or make it: written aside and linked, so that two processes that start at once agree on one."""
    if not path.exists():
        made = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(made)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink()
    if path.stat().st_mode & 0o077:
        raise PermissionError(f"{path} must be readable by its owner alone: chmod 600 {path}")
    key = load_ssh_private_key(path.read_bytes(), None)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise TypeError(f"{path} is not an Ed25519 key")
    return key
