"""Checkpoints: C2SP signed notes (https://c2sp.org/signed-note, /tlog-checkpoint, /tlog-cosignature) with Ed25519.

Signatures of unknown keys are ignored; one bad signature of a known key rejects the whole note.
"""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.audit.merkle import HASH_SIZE, MAX_SIZE

ED25519: Final = 0x01
COSIGNATURE: Final = 0x04
MAX_NOTE: Final = 65_536
_MAX_SIGNATURES: Final = 100
_MARK: Final = "\N{EM DASH} "
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")


class BadNoteError(ValueError):
    """A note, key or checkpoint that does not deserve trust; the text says why."""


# ---------------------------------------------------------------- keys


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with the name it signs under. `type` is ED25519 (the log) or COSIGNATURE (a witness)."""

    name: str
    type: int
    public: bytes

    def id(self) -> bytes:
        """Four bytes that tell keys of one name apart; no security rests on them."""
        return sha256(self.name.encode() + b"\n" + bytes([self.type]) + self.public).digest()[:4]

    def text(self) -> str:
        """The vkey encoding: `name+hash+base64`."""
        return f"{self.name}+{self.id().hex()}+{_b64(bytes([self.type]) + self.public)}"


def parse_vkey(text: str) -> VerifierKey:
    """Read `name+hash+base64`; BadNoteError when it is malformed or of an unknown type."""
    parts = text.strip().split("+", 2)
    if len(parts) != 3 or len(text) > 1024:
        raise BadNoteError("a verifier key looks like name+12345678+base64")
    name, key_id, encoded = parts
    _require_name(name)
    key = _unb64(encoded)
    if len(key) != 33 or key[0] not in (ED25519, COSIGNATURE):
        raise BadNoteError("the verifier key is not an Ed25519 key")
    verifier = VerifierKey(name, key[0], key[1:])
    if verifier.id().hex() != key_id:
        raise BadNoteError("the verifier key does not match its own hash: it was mistyped or altered")
    return verifier


def verifier_of(name: str, private: Ed25519PrivateKey, type: int = ED25519) -> VerifierKey:
    """The public half of a signing key; BadNoteError for a name that no note can carry."""
    _require_name(name)
    return VerifierKey(name, type, private.public_key().public_bytes_raw())


def _require_name(name: str) -> None:
    if not name or "+" in name or not name.isprintable() or any(c.isspace() for c in name):
        raise BadNoteError("the name of a key has neither spaces nor a plus sign")


# ---------------------------------------------------------------- notes


def sign_note(text: str, name: str, private: Ed25519PrivateKey) -> str:
    """The note of a text that ends with a newline, signed once."""
    _require_text(text)
    key = verifier_of(name, private)
    return f"{text}\n{_signature_line(key, private.sign(text.encode()))}"


def cosignature(text: str, name: str, private: Ed25519PrivateKey, unix_time: int) -> str:
    """A witness's signature line over a checkpoint's text, to be put under the note."""
    key = verifier_of(name, private, COSIGNATURE)
    signature = private.sign(_cosigned(text, unix_time))
    return _signature_line(key, unix_time.to_bytes(8, "big") + signature)


@dataclass(frozen=True, slots=True)
class Note:
    """A text and the known keys whose signatures hold. `times` are the witnesses' (unix seconds), by name."""

    text: str
    signers: tuple[VerifierKey, ...]
    times: tuple[tuple[str, int], ...] = ()


def open_note(note: str, known: Sequence[VerifierKey]) -> Note:
    """Split and verify; BadNoteError unless at least one known key signed and no known key's signature is bad."""
    text, lines = _split_note(note)
    signers: list[VerifierKey] = []
    times: list[tuple[str, int]] = []
    for name, payload in lines:
        key = next((k for k in known if k.name == name and k.id() == payload[:4]), None)
        if key is None or key in signers:
            continue
        time = _verify(key, text, payload[4:])
        signers.append(key)
        if time is not None:
            times.append((name, time))
    if not signers:
        raise BadNoteError("no known key has signed this note")
    return Note(text, tuple(signers), tuple(times))


def _split_note(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    if len(note) > MAX_NOTE:
        raise BadNoteError("the note is too long")
    body, separator, tail = note.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise BadNoteError("the note is malformed")
    _require_text(body + "\n")
    lines = tail[:-1].split("\n")
    if len(lines) > _MAX_SIGNATURES:
        raise BadNoteError("the note has too many signatures")
    return body + "\n", [_parse_line(line) for line in lines]


def _parse_line(line: str) -> tuple[str, bytes]:
    name, _, encoded = line.removeprefix(_MARK).partition(" ")
    if not line.startswith(_MARK):
        raise BadNoteError("a signature line is malformed")
    _require_name(name)
    payload = _unb64(encoded)
    if len(payload) < 5:
        raise BadNoteError("a signature is too short")
    return name, payload


def _verify(key: VerifierKey, text: str, signature: bytes) -> int | None:
    """The time of a cosignature, None for a plain signature; BadNoteError when it does not hold."""
    time, message = None, text.encode()
    if key.type == COSIGNATURE:
        time, signature = int.from_bytes(signature[:8], "big"), signature[8:]
        message = _cosigned(text, time)
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
    except InvalidSignature as error:
        raise BadNoteError(f"the signature of {key.name} does not hold") from error
    return time


def _cosigned(text: str, unix_time: int) -> bytes:
    return f"cosignature/v1\ntime {unix_time}\n{text}".encode()


def _signature_line(key: VerifierKey, signature: bytes) -> str:
    return f"{_MARK}{key.name} {_b64(key.id() + signature)}\n"


def _require_text(text: str) -> None:
    if not text.endswith("\n") or any(c < " " and c != "\n" for c in text):
        raise BadNoteError("a note's text ends with a newline and has no other control characters")


# ---------------------------------------------------------------- checkpoints


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log commits to: which log, how many leaves, which root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The signed text."""
        return f"{self.origin}\n{self.size}\n{_b64(self.root)}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint's text (extension lines are allowed and ignored); BadNoteError when malformed."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise BadNoteError("the checkpoint is malformed")
    origin, size, root = lines[:3]
    if _NUMBER.fullmatch(size) is None or int(size) > MAX_SIZE:
        raise BadNoteError("the checkpoint's size is not a number")
    root_hash = _unb64(root)
    if len(root_hash) != HASH_SIZE:
        raise BadNoteError("the checkpoint's root is not a SHA-256 hash")
    return Checkpoint(origin, int(size), root_hash)


def open_checkpoint(note: str, log: VerifierKey, witnesses: Sequence[VerifierKey] = ()) -> tuple[Checkpoint, Note]:
    """A checkpoint that the log itself has signed, under its own name as origin; BadNoteError otherwise."""
    opened = open_note(note, (log, *witnesses))
    if log not in opened.signers:
        raise BadNoteError("the pinned key has not signed this checkpoint")
    checkpoint = parse_checkpoint(opened.text)
    if checkpoint.origin != log.name:
        raise BadNoteError("the checkpoint is of another log")
    return checkpoint, opened


def sign_checkpoint(checkpoint: Checkpoint, private: Ed25519PrivateKey) -> str:
    """The log's signed note; its key bears the name of the origin."""
    return sign_note(checkpoint.text(), checkpoint.origin, private)


def _b64(value: bytes) -> str:
    return b64encode(value).decode()


def _unb64(text: str) -> bytes:
    """RFC 4648 §4 with padding; only the one encoding that we would write ourselves."""
    try:
        value = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadNoteError("something that should be base64 is not") from error
    if _b64(value) != text:
        raise BadNoteError("something is not canonical base64")
    return value
