"""Keys of recordings: a random data key per session, kept wrapped by a key-encryption key (KEK) from a 0600 file.

Every line of that file is a KEK, base64 of 32 bytes: all of them unwrap, the last one wraps. Taking a session's wrapped
key away makes its recording unreadable wherever copies of it lie. Layouts: docs/formats/recording.md.
"""

import base64
import binascii
import logging
import os
import stat
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.app.replay_session import RecordingLocked
from gateway.audit.recording import MalformedRecordingError

log = logging.getLogger(__name__)
KEY: Final = 32  # bytes: AES-256
ID: Final = 8
NONCE: Final = 12  # bytes, NIST SP 800-38D §5.2.1.1
TAG: Final = 16
WRAPPED: Final = ID + NONCE + KEY + TAG
MOST_KEYS: Final = 1000
_LONGEST_FILE: Final = MOST_KEYS * 64
_DOMAIN: Final = b"gateway-recording/v2 "
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


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
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _create(path)
        keys = _read(path)
        self._newest = key_id(keys[-1])
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}

    def fresh(self, session_id: str) -> SessionKey:
        """A new data key."""
        secret, nonce = os.urandom(KEY), os.urandom(NONCE)
        sealed = self._ciphers[self._newest].encrypt(nonce, secret, _bound(session_id))
        return SessionKey(session_id, secret, self._newest + nonce + sealed)

    def unwrapped(self, session_id: str, wrapped: bytes) -> SessionKey:
        """RecordingLocked when the KEK is not here; MalformedRecordingError for another session's or damaged key."""
        if len(wrapped) != WRAPPED:
            raise MalformedRecordingError("the recording's key is damaged")
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


def _create(path: Path) -> None:
    """O_EXCL: of two processes that start at once, one makes the key and both use it."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(os.urandom(KEY)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # a key that a crash takes away takes every recording with it
    finally:
        os.close(directory)
    log.info("made the key of recordings, %s: back it up apart from the recordings", path)


def _read(path: Path) -> list[bytes]:
    if path.stat().st_mode & _OTHERS:
        raise PermissionError(f"{path} may be read by others; chmod 600 it")
    with path.open("rb") as file:
        content = file.read(_LONGEST_FILE + 1)
    keys = [_key(line, path, number) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    if not keys or len(content) > _LONGEST_FILE:
        raise ValueError(f"{path} holds no keys; restore it from a backup, without it recordings cannot be read")
    return keys


def _key(line: bytes, path: Path, number: int) -> bytes:
    try:
        key = base64.b64decode(line.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY:
        raise ValueError(f"{path}:{number}: not base64 of {KEY} bytes (openssl rand -base64 {KEY} makes one)")
    return key
