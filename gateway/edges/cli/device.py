"""This device's key: made at sign-in, kept on this machine, proven with every request (RFC 9449, DPoP).

The proof is put together here and not by joserfc, whose import costs a command 90 ms; the gateway verifies it with
joserfc, and so do the tests. Ed25519 by `cryptography` costs next to nothing.
"""

import hashlib
import json
import os
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

DPOP = "DPoP"


@dataclass(frozen=True)
class DeviceKey:
    """An Ed25519 key; `seed` is its private half, 32 bytes in base64url."""

    seed: str = field(repr=False)

    @staticmethod
    def new() -> "DeviceKey":
        """One that nobody has had before."""
        return DeviceKey(_b64(os.urandom(32)))

    @cached_property
    def _private(self) -> Any:
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415  not for --help

        return ed25519.Ed25519PrivateKey.from_private_bytes(urlsafe_b64decode(self.seed + "=" * (-len(self.seed) % 4)))

    @cached_property
    def _jwk(self) -> dict[str, str]:
        return {"crv": "Ed25519", "kty": "OKP", "x": _b64(self._private.public_key().public_bytes_raw())}

    @property
    def thumbprint(self) -> str:
        """RFC 7638, as the gateway keeps it with the sign-in."""
        text = json.dumps(self._jwk, sort_keys=True, separators=(",", ":"))
        return _b64(hashlib.sha256(text.encode()).digest())

    def proof(self, method: str, url: str, token: str = "", at: float | None = None) -> str:
        """For one request (RFC 9449 §4.2); `url` may have a query, which is left out. `at`: Unix time, default now."""
        head = {"typ": "dpop+jwt", "alg": "EdDSA", "jwk": self._jwk}
        claims: dict[str, object] = {
            "jti": _b64(os.urandom(16)),
            "htm": method,
            "htu": url.partition("#")[0].partition("?")[0],
            "iat": int(time.time() if at is None else at),
        }
        if token:
            claims["ath"] = _b64(hashlib.sha256(token.encode()).digest())
        signed = f"{_part(head)}.{_part(claims)}"
        return f"{signed}.{_b64(self._private.sign(signed.encode()))}"


def headers(key: DeviceKey | None, method: str, url: str, token: str) -> dict[str, str]:
    """What a request with a credential carries; a person's comes with the proof of this device's key."""
    if not token:
        return {DPOP.lower(): key.proof(method, url)} if key else {}
    proof = {DPOP.lower(): key.proof(method, url, token)} if key else {}  # without: the gateway says what to do
    return {"authorization": f"{DPOP} {token}", **proof}


def _part(value: object) -> str:
    return _b64(json.dumps(value, separators=(",", ":")).encode())


def _b64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
