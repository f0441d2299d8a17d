"""Bearer secrets are kept as SHA-256 only: they carry 256 random bits, so a plain hash is enough (ASVS 11.4.2)."""

from hashlib import sha256


def digest_of(secret: str) -> str:
    """SHA-256 hex of a secret's text."""
    return sha256(secret.encode()).hexdigest()
