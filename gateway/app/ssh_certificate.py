"""A user certificate for the gateway's own SSH door: proves who comes, gives no right by itself."""

from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from gateway.app import journal
from gateway.app.context import Context
from gateway.core.errors import Denied, Refusal
from gateway.core.principal import User

LONGEST_KEY = 8192  # characters of an OpenSSH public key line; an RSA-16384 key has fewer


@dataclass(frozen=True, slots=True)
class DoorCertificate:
    certificate: str
    expires_at: datetime


def ssh_certificate(ctx: Context, user: User, public_key: str) -> DoorCertificate:
    """Sign the person's public key for as long as a sign-in lasts; Denied for a key that is not accepted."""
    at = ctx.clock.now()
    expires_at = at + ctx.limits.ssh_certificate_lifetime
    if len(public_key) > LONGEST_KEY:
        raise Denied(Refusal("key-not-accepted", "That public key is too long."))
    try:
        certificate = ctx.ssh.door_certificate(user, public_key, at, expires_at)
    except ValueError as why:
        refusal = Refusal("key-not-accepted", str(why), next_steps=("ssh-keygen -t ed25519 makes one that is.",))
        raise journal.refuse(ctx, "certificate:denied", refusal, principal=user.name) from why
    told = {"expires_at": expires_at.isoformat(), "key": fingerprint_of(public_key)}
    noted = journal.record(ctx, "certificate:issued", principal=user.name, data=told)
    journal.confirm_logged(ctx, noted)
    return DoorCertificate(certificate, expires_at)


def fingerprint_of(public_key: str) -> str:
    """`SHA256:…` as OpenSSH shows it (RFC 4648 base64 without padding, of the key's wire encoding)."""
    _, _, rest = public_key.strip().partition(" ")
    wire = b64decode(rest.partition(" ")[0])
    return "SHA256:" + b64encode(sha256(wire).digest()).rstrip(b"=").decode()
