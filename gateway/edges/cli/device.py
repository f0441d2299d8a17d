"""This device's key: made at sign-in, kept on this machine, proven with every request (RFC 9449, DPoP)."""

import hashlib
import json
import os
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

DPOP = "DPoP"
_ALGORITHM = "Ed25519"  # RFC 9864


@dataclass(frozen=True)
class DeviceKey:
    """An Ed25519 key; `seed` is its private half, 32 bytes in base64url."""

    seed: str = field(repr=False)

    @staticmethod
    def new() -> "DeviceKey":
        """One that nobody has had before."""
        return DeviceKey(_b64(os.urandom(32)))

    @cached_property
    def _key(self) -> Any:
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415  not for --help
        from joserfc.jwk import OKPKey  # noqa: PLC0415  +90 ms, and a pipeline needs none

        seed = urlsafe_b64decode(self.seed + "=" * (-len(self.seed) % 4))
        public = ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": _b64(public), "d": _b64(seed)})

    @property
    def thumbprint(self) -> str:
        """RFC 7638, as the gateway keeps it with the sign-in."""
        return str(self._key.thumbprint())

    def proof(self, method: str, url: str, token: str = "", at: float | None = None) -> str:
        """For one request (RFC 9449 §4.2); `url` may have a query, which is left out. `at`: Unix time, default now.

        ValueError when the seed is none.
        """
        from joserfc import jws  # noqa: PLC0415  as above

        head = {"typ": "dpop+jwt", "alg": _ALGORITHM, "jwk": self._key.as_dict(private=False)}
        claims: dict[str, object] = {
            "jti": _b64(os.urandom(16)),
            "htm": method,
            "htu": url.partition("#")[0].partition("?")[0],
            "iat": int(time.time() if at is None else at),
        }
        if token:
            claims["ath"] = _b64(hashlib.sha256(token.encode()).digest())
        return jws.serialize_compact(head, json.dumps(claims).encode(), self._key, algorithms=[_ALGORITHM])


def headers(key: DeviceKey | None, method: str, url: str, token: str) -> dict[str, str]:
    """What a request with a credential carries; a person's comes with the proof of this device's key."""
    if not token:
        return {DPOP.lower(): key.proof(method, url)} if key else {}
    proof = {DPOP.lower(): key.proof(method, url, token)} if key else {}  # without: the gateway says what to do
    return {"authorization": f"{DPOP} {token}", **proof}


def _b64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
