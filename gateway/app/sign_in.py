"""What every way of signing in shares: the prefixes of its secrets and what a finished sign-in is.

The ways themselves: `web_login` (a browser, at the identity provider), `device_flow` (the CLI). Who calls is found by
`authenticate`; who may come in at all is `shut_out`'s. Secrets are stored as SHA-256 only.
"""

import hmac
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import datetime

from gateway.core.principal import User

CLI_PREFIX = "gwc_"  # lets secret scanners find a leaked one
WEB_PREFIX = "gww_"
LONGEST_SECRET = 256


@dataclass(frozen=True, slots=True)
class SignedIn:
    """`secret` is the credential, shown once; `next` a local path to go on to."""

    user: User
    secret: str = field(repr=False)
    expires_at: datetime
    next: str = "/"


def derived(secret: str, label: str) -> str:
    """A value bound to a secret, one per label: HMAC-SHA256, base64url (43 characters, fit for RFC 7636 §4.1)."""
    return b64(hmac.digest(secret.encode(), label.encode(), "sha256"))


def b64(raw: bytes) -> str:
    """base64url without padding (RFC 7515 §2)."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
