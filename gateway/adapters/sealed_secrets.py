"""Secrets that must be stored and given back (refresh tokens): AES-256-GCM under a key from a 0600 file.

Layout: key id (8 bytes), nonce (12, random: NIST SP 800-38D §8.2.2), ciphertext and tag, as base64. Several keys in the
file all open, the newest seals. The associated data is what the secret belongs to.
"""

import base64
import binascii
import os
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.adapters.key_file import keys_of

ID: Final = 8
NONCE: Final = 12
_DOMAIN: Final = b"gateway-secret/v1\n"


class SealedSecrets:
    """Implements `Sealer`. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """PermissionError when others may read the file, ValueError when it holds something else."""
        keys = keys_of(path, "people must sign in again")
        self._newest = _id(keys[-1])
        self._ciphers = {_id(key): AESGCM(key) for key in keys}

    def seal(self, secret: str, bound: str) -> str:
        """See the port."""
        nonce = os.urandom(NONCE)
        sealed = self._ciphers[self._newest].encrypt(nonce, secret.encode(), _DOMAIN + bound.encode())
        return base64.b64encode(self._newest + nonce + sealed).decode()

    def unseal(self, sealed: str, bound: str) -> str:
        """See the port."""
        try:
            raw = base64.b64decode(sealed, validate=True)
            cipher = self._ciphers[raw[:ID]]
            return cipher.decrypt(raw[ID : ID + NONCE], raw[ID + NONCE :], _DOMAIN + bound.encode()).decode()
        except (binascii.Error, KeyError, InvalidTag) as why:
            raise ValueError("this secret cannot be opened here") from why


def _id(key: bytes) -> bytes:
    return sha256(_DOMAIN + b"key\n" + key).digest()[:ID]
