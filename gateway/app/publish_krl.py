"""What targets may fetch: the authority that they trust, and which of its certificates are worth nothing any more."""

import base64
from datetime import timedelta

from gateway.app.context import Context
from gateway.core.session import EndReason, Protocol
from gateway.core.ssh_rules import certificate_serial
from gateway.wire.krl import revoked_certificates

# A certificate lives five minutes; sessions that began longer ago need not be listed.
LISTED_FOR = timedelta(hours=1)
MOST_SESSIONS = 2_000
_TAKEN_BACK = frozenset({EndReason.KILLED, EndReason.GRANT_REVOKED, EndReason.USER_DISABLED, EndReason.POLICY_CHANGED})


def target_ca(ctx: Context) -> str:
    """The line for a target's TrustedUserCAKeys."""
    return ctx.ssh.target_ca_public


def krl(ctx: Context) -> bytes:
    """An OpenSSH revocation list of the certificates of sessions that were revoked or killed, for RevokedKeys."""
    at = ctx.clock.now()
    with ctx.store.read() as uow:
        ended = uow.sessions.list(live=False, limit=MOST_SESSIONS)
    serials = [
        certificate_serial(session.id)
        for session in ended
        if session.protocol is Protocol.SSH
        and session.end_reason in _TAKEN_BACK
        and session.started_at > at - LISTED_FOR
    ]
    now = int(at.timestamp())
    authority = base64.b64decode(target_ca(ctx).split()[1])
    return revoked_certificates(authority, serials, version=now, generated=now, comment=f"gateway {ctx.gateway}")
