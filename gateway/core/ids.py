"""Identifiers: a prefix that tells the kind, 48 bits of time and 80 bits of chance, sortable by age.

Shape: `grt_01k9z…`, 26 characters of Crockford base32 after the prefix (the ULID layout).
"""

from datetime import datetime
from typing import Literal

Prefix = Literal[
    "req",
    "apr",
    "grt",
    "rev",
    "ses",
    "evt",
    "lse",
    "usr",
    "tkt",
    "dev",
    "dtk",
    "psn",
    "lgn",
    "tok",
    "scu",
    "scg",
    "run",
    "prf",
]

ENTROPY_BYTES = 10
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def make_id(prefix: Prefix, at: datetime, entropy: bytes) -> str:
    """Build an identifier from an instant and `ENTROPY_BYTES` random bytes; ValueError on another length."""
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"an identifier takes {ENTROPY_BYTES} random bytes, got {len(entropy)}")
    number = (int(at.timestamp() * 1000) << 80) | int.from_bytes(entropy, "big")
    digits = [_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"
