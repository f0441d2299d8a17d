"""What every verifier of signed tokens here shares: which algorithms, which keys and which places are accepted."""

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey

KEY_TYPES = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP", "Ed25519": "OKP"}  # Ed25519: RFC 9864's name
MIN_RSA_BITS = 2048


class OneAlgorithm(jws.JWSRegistry):
    """Exactly the algorithms it is given. EdDSA, which joserfc warns about for its name only (RFC 9864), is one."""

    def get_alg(self, name: str) -> Any:
        """As the base class, without its own opinion."""
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(f"{name} is not accepted here")
        return self.algorithms[name]


def signing_key(entry: object) -> Key | None:
    """A public key of an issuer that may sign; None for others (encryption, symmetric, weak, unreadable)."""
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig":
        return None
    try:
        key = JWKRegistry.import_key(entry)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    is_strong = (
        (isinstance(key, RSAKey) and key.public_key.key_size >= MIN_RSA_BITS)
        or (isinstance(key, ECKey) and key.curve_name == "P-256")
        or (isinstance(key, OKPKey) and key.curve_name == "Ed25519")
    )
    return key if is_strong else None


def demand_safe(url: object) -> str:
    """An https URL, or http on this machine; ValueError otherwise."""
    parts = urlsplit(url) if isinstance(url, str) else None
    host = parts.hostname if parts else None
    if parts is None or not isinstance(url, str) or not host or parts.username or parts.fragment:
        raise ValueError("not an absolute URL")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError(f"{parts.scheme}://{host} is neither https nor on this machine")
    return url


def is_loopback(host: str) -> bool:
    """True for this machine, by name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
