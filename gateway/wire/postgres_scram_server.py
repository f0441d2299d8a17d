"""SCRAM-SHA-256(-PLUS) as the server (RFC 5802, RFC 7677, channel binding RFC 5929), for secrets made by chance.

Which secret the client has is not known when the salt has to be named: it belongs to the name that the client gave, and
the proof is held against each secret that this name may have. A name that nobody has gets a salt in the same way, so
that nothing is learned from it.
"""

import hashlib
import hmac
from base64 import b64encode
from dataclasses import dataclass, field

from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_scram import BINDING, MAX_MESSAGE, MECHANISM, MIN_ITERATIONS, PLUS, decode, keys_of

_MAX_NONCE = 256
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Verifier:
    """What is kept of a secret: enough to check a proof, not to make one. `text` is of PostgreSQL's own form."""

    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: str, salt: bytes) -> "Verifier":
        """Costs MIN_ITERATIONS hashes: off the event loop. `secret` is ASCII."""
        client_key, server_key = keys_of(secret, salt, MIN_ITERATIONS)
        return cls(hashlib.sha256(client_key).digest(), server_key)

    @classmethod
    def parse(cls, text: str) -> "Verifier":
        """ValueError unless it is what `text` gave."""
        try:
            stored, server = map(decode, text.split(":"))
        except ProtocolViolation as why:
            raise ValueError(str(why)) from why
        if len(stored) != _KEY_BYTES or len(server) != _KEY_BYTES:
            raise ValueError("keys of the wrong length")
        return cls(stored, server)

    def text(self) -> str:
        """`<StoredKey>:<ServerKey>`, each in base64."""
        return f"{_encode(self.stored_key)}:{_encode(self.server_key)}"


@dataclass(frozen=True, slots=True)
class Proof:
    """What a client has shown of its secret in one exchange; worth nothing in another."""

    auth_message: bytes = field(repr=False)
    proof: bytes = field(repr=False)

    def is_of(self, verifier: Verifier) -> bool:
        """True when it was made with the secret behind `verifier`."""
        signature = hmac.digest(verifier.stored_key, self.auth_message, "sha256")
        client_key = bytes(a ^ b for a, b in zip(self.proof, signature, strict=True))
        return hmac.compare_digest(hashlib.sha256(client_key).digest(), verifier.stored_key)

    def answer(self, verifier: Verifier) -> bytes:
        """The server-final-message: proves to the client that its secret is known here."""
        return b"v=" + b64encode(hmac.digest(verifier.server_key, self.auth_message, "sha256"))


@dataclass(frozen=True, slots=True)
class Misbound:
    """The client is bound to another TLS certificate than this door's, or did not see all that was offered here.

    Somebody is in between: an attacker, or a proxy that opens TLS. No proof is looked at then.
    """


class ScramServer:
    """One exchange: `first`, then `proof`. `nonce` is printable ASCII without comma, fresh for each.

    `binding` is the hash of this side's TLS certificate (RFC 5929 section 4.1), b"" where there is none: it decides
    which mechanisms are offered. ProtocolViolation for anything but what the RFC lets a client say.
    """

    def __init__(self, salt: bytes, nonce: str, binding: bytes = b"") -> None:
        self._salt = salt
        self._nonce = nonce
        self._binding = binding
        self._header = ""
        self._was_stripped = False
        self._expected = ""
        self._first_bare = ""
        self._server_first = ""

    def mechanisms(self) -> tuple[str, ...]:
        """The best first."""
        return (PLUS, MECHANISM) if self._binding else (MECHANISM,)

    def first(self, mechanism: str, client_first: bytes) -> bytes:
        """The server-first-message."""
        if mechanism not in self.mechanisms():
            raise ProtocolViolation("a sign-in mechanism that was not offered")
        flag, authzid, bare = _split_first(_text(client_first))
        if authzid:
            raise ProtocolViolation("nobody signs in for somebody else here")
        self._check_flag(flag, mechanism)
        self._header = f"{flag},,"
        nonce = _client_nonce(bare)
        self._expected = nonce + self._nonce
        self._first_bare = bare
        self._server_first = f"r={self._expected},s={_encode(self._salt)},i={MIN_ITERATIONS}"
        return self._server_first.encode()

    def _check_flag(self, flag: str, mechanism: str) -> None:
        if flag == f"p={BINDING}":
            if mechanism != PLUS:
                raise ProtocolViolation(f"channel binding without {PLUS}")
        elif mechanism == PLUS:
            raise ProtocolViolation(f"{PLUS} without the channel binding {BINDING}")
        elif flag == "y":
            # The client could bind and was told that this door cannot: somebody took PLUS out of the offer. It must
            # fail (RFC 5802 section 6), and does so with the proof, where it is told and noted who it was about.
            self._was_stripped = bool(self._binding)
        elif flag != "n":
            raise ProtocolViolation("a channel binding that is not known here")

    def proof(self, client_final: bytes) -> Proof | Misbound:
        """What the client-final-message shows. Whose it is, the caller finds out."""
        text = _text(client_final)
        without_proof, found, proof_text = text.rpartition(",p=")
        parts = without_proof.split(",")
        if not found or len(parts) < 2 or parts[0][:2] != "c=" or parts[1][:2] != "r=":
            raise ProtocolViolation("client-final-message without binding, nonce and proof")
        if not self._expected or parts[1][2:] != self._expected:
            raise ProtocolViolation("the client's nonce is not that of this exchange")
        binding, proof = decode(parts[0][2:]), decode(proof_text)
        if len(proof) != _KEY_BYTES:
            raise ProtocolViolation("a proof of the wrong length")
        # cbind-input (RFC 5802 section 7): what the client has sent as header, and the certificate if that said so.
        expected = self._header.encode() + (self._binding if self._header.startswith("p=") else b"")
        if self._was_stripped or binding != expected:
            return Misbound()
        return Proof(f"{self._first_bare},{self._server_first},{without_proof}".encode(), proof)


def _split_first(text: str) -> tuple[str, str, str]:
    """gs2-cbind-flag, authzid, client-first-message-bare (RFC 5802 section 7)."""
    parts = text.split(",", 2)
    if len(parts) != 3:
        raise ProtocolViolation("client-first-message without its header")
    return parts[0], parts[1], parts[2]


def _client_nonce(bare: str) -> str:
    parts = bare.split(",")
    # The name is PostgreSQL's startup parameter; what stands here is ignored, as it is there.
    if len(parts) < 2 or parts[0][:2] != "n=" or parts[1][:2] != "r=":
        raise ProtocolViolation("client-first-message without name and nonce")
    nonce = parts[1][2:]
    if not 1 <= len(nonce) <= _MAX_NONCE or not all("!" <= char <= "~" for char in nonce):
        raise ProtocolViolation("the client's nonce is empty, too long or not printable")
    return nonce


def _text(raw: bytes) -> str:
    if len(raw) > MAX_MESSAGE:
        raise ProtocolViolation("SCRAM message too long")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ProtocolViolation("SCRAM message is not UTF-8") from None


def _encode(raw: bytes) -> str:
    return b64encode(raw).decode("ascii")
