"""Keys of recordings: a random data key per session, kept wrapped by a key-encryption key (KEK) from a 0600 file.

Every line of that file is a KEK, base64 of 32 bytes: all of them unwrap, the last one wraps. Taking a session's wrapped
key away makes its recording unreadable wherever copies of it lie. Layouts: docs/formats/recording.md.
"""

import os
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.adapters.key_file import KEY, keys_of
from gateway.app.replay_session import RecordingLocked, RecordingShredded
from gateway.audit.recording import MalformedRecordingError

ID: Final = 8
NONCE: Final = 12  # bytes, NIST SP 800-38D §5.2.1.1
TAG: Final = 16
WRAPPED: Final = ID + NONCE + KEY + TAG
_DOMAIN: Final = b"gateway-recording/v2 "


class SessionKey:
    """The data key of one recording, and the form in which it is stored. Its repr shows no secret."""

    __slots__ = ("_secret", "blocks", "session_id", "wrapped")

    def __init__(self, session_id: str, secret: bytes, wrapped: bytes) -> None:
        self.session_id = session_id
        self.wrapped = wrapped
        self._secret = secret
        self.blocks = AESGCM(self._derived(b"spool", b""))  # for blocks of the spool, each under its own number

    def for_file(self, salt: bytes) -> AESGCM:
        """The cipher of one sealed file: another one for each salt, so that nonces may count from 0 in each."""
        return AESGCM(self._derived(b"sealed", salt))

    def _derived(self, use: bytes, salt: bytes) -> bytes:
        context = _DOMAIN + use + b"\n" + self.session_id.encode()
        return HKDF(SHA256(), KEY, salt, context).derive(self._secret)  # RFC 5869


class Keyring:
    """The KEKs of one file, which is made with one KEK when it is not there."""

    def __init__(self, path: Path) -> None:
        """PermissionError when others may read the file, ValueError when it holds something else."""
        keys = keys_of(path, "recordings cannot be read")
        self._newest = key_id(keys[-1])
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}

    def fresh(self, session_id: str) -> SessionKey:
        """A new data key."""
        secret, nonce = os.urandom(KEY), os.urandom(NONCE)
        sealed = self._ciphers[self._newest].encrypt(nonce, secret, _bound(session_id))
        return SessionKey(session_id, secret, self._newest + nonce + sealed)

    def unwrapped(self, session_id: str, wrapped: bytes) -> SessionKey:
        """RecordingLocked when the KEK is not here, RecordingShredded when only zeros are.

        MalformedRecordingError for another session's or damaged key.
        """
        if len(wrapped) != WRAPPED:
            raise MalformedRecordingError("the recording's key is damaged")
        if not any(wrapped):
            raise RecordingShredded("its key was overwritten with zeros")
        cipher = self._ciphers.get(wrapped[:ID])
        if cipher is None:
            raise RecordingLocked(f"it is encrypted under the key {wrapped[:ID].hex()}, which is not in the key file")
        try:
            secret = cipher.decrypt(wrapped[ID : ID + NONCE], wrapped[ID + NONCE :], _bound(session_id))
        except InvalidTag as error:
            raise MalformedRecordingError("the recording's key is damaged, or that of another session") from error
        return SessionKey(session_id, secret, wrapped)


def key_id(key: bytes) -> bytes:
    """What a wrapped key calls its KEK."""
    return sha256(_DOMAIN + b"kek\n" + key).digest()[:ID]


def _bound(session_id: str) -> bytes:
    return _DOMAIN + b"key\n" + session_id.encode()
