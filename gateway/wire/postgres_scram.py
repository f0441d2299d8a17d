"""SCRAM-SHA-256(-PLUS) (RFC 5802, RFC 7677): the client's side, and the verifier that PostgreSQL stores.

Everything that a server says is bounded before it is used: a hostile one may ask for 2^31 iterations
(CVE-2026-42198) or send a nonce of any length (CVE-2026-6665).
"""

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Collection

from gateway.wire.buffer import ProtocolViolation

MECHANISM = "SCRAM-SHA-256"
PLUS = MECHANISM + "-PLUS"
BINDING = "tls-server-end-point"  # RFC 5929 section 4
MIN_ITERATIONS = 4096  # RFC 7677 section 4
MAX_ITERATIONS = 1_000_000
MAX_MESSAGE = 2048
MAX_NONCE = 256
MAX_SALT = 256
MOST_KNOWN = 256


def verifier(password: str, salt: bytes, iterations: int = MIN_ITERATIONS) -> str:
    """`SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` as in pg_authid.rolpassword, of an ASCII password."""
    client_key, server_key = _keys(password, salt, iterations)
    stored = hashlib.sha256(client_key).digest()
    return f"{MECHANISM}${iterations}:{_b64(salt)}${_b64(stored)}:{_b64(server_key)}"


class ScramClient:
    """One login. `nonce` is printable ASCII without comma, fresh for each; call the steps in turn.

    `binding` is the hash of the server's TLS certificate, b"" where there is none to bind to.
    """

    def __init__(self, password: str, nonce: str, binding: bytes = b"") -> None:
        self._binding = binding
        self._header = "n,,"
        self._password = password
        self._nonce = nonce
        # PostgreSQL takes the user from the startup packet and ignores this name.
        self._first_bare = f"n=,r={nonce}"
        self._server_signature = b""

    def choose(self, offered: Collection[bytes]) -> str:
        """The mechanism: bound to the certificate if that can be. ProtocolViolation when nothing fits."""
        if self._binding and PLUS.encode() in offered:
            self._header = f"p={BINDING},,"
            return PLUS
        if MECHANISM.encode() not in offered:
            raise ProtocolViolation(f"the target offers no {MECHANISM}")
        if self._binding:  # a server that has offered PLUS, which somebody took out, refuses this (RFC 5802 section 6)
            self._header = "y,,"
        return MECHANISM

    def first(self) -> bytes:
        """client-first-message."""
        return (self._header + self._first_bare).encode()

    def knows(self, server_first: bytes) -> bool:
        """True when `final` has nothing to hash for this: another login with the same password did it."""
        try:
            _, salt, iterations = self._parse_first(_bounded(server_first))
        except ProtocolViolation:
            return False
        return (self._password, salt, iterations) in _known

    def final(self, server_first: bytes) -> bytes:
        """client-final-message with the proof. Costs up to MAX_ITERATIONS hashes: call it off the event loop."""
        text = _bounded(server_first)
        nonce, salt, iterations = self._parse_first(text)
        client_key, server_key = _keys(self._password, salt, iterations)
        bound = self._header.encode() + (self._binding if self._header.startswith("p=") else b"")
        without_proof = f"c={_b64(bound)},r={nonce}"
        auth = f"{self._first_bare},{text},{without_proof}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), auth, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._server_signature = hmac.digest(server_key, auth, "sha256")
        return f"{without_proof},p={_b64(proof)}".encode()

    def verify(self, server_final: bytes) -> None:
        """ProtocolViolation unless the server proves that it knows the verifier too."""
        text = _bounded(server_final)
        if not self._server_signature or not text.startswith("v="):
            raise ProtocolViolation("the server's proof is missing")
        if not hmac.compare_digest(decode(text[2:].split(",")[0]), self._server_signature):
            raise ProtocolViolation("the server's proof is wrong")

    def _parse_first(self, text: str) -> tuple[str, bytes, int]:
        parts = text.split(",")
        if len(parts) < 3 or [p[:2] for p in parts[:3]] != ["r=", "s=", "i="]:
            raise ProtocolViolation("server-first-message without nonce, salt and iterations")
        nonce, salt = parts[0][2:], decode(parts[1][2:])
        if not nonce.startswith(self._nonce) or not len(self._nonce) < len(nonce) <= MAX_NONCE:
            raise ProtocolViolation("the server's nonce does not continue ours, or is too long")
        if not 1 <= len(salt) <= MAX_SALT:
            raise ProtocolViolation("the server's salt is empty or too long")
        return nonce, salt, _iterations(parts[2][2:])


def _iterations(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise ProtocolViolation("the server's iteration count is not a number")
    count = int(text)
    if not MIN_ITERATIONS <= count <= MAX_ITERATIONS:
        raise ProtocolViolation(
            f"the server asks for {count} iterations; {MIN_ITERATIONS} to {MAX_ITERATIONS} are allowed"
        )
    return count


_known: dict[tuple[str, bytes, int], tuple[bytes, bytes]] = {}


def _keys(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """A role is made for a grant, which has many connections; its password dies with it. The newest are kept."""
    of = (password, salt, iterations)
    found = _known.get(of)
    if found is None:
        if len(_known) >= MOST_KNOWN:
            _known.pop(list(_known)[0], None)  # noqa: RUF015 - several threads: a list is made at one go
        found = _known[of] = keys_of(password, salt, iterations)
    return found


def keys_of(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """ClientKey and ServerKey of an ASCII password. Costs as many hashes as there are iterations."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, iterations)
    return hmac.digest(salted, b"Client Key", "sha256"), hmac.digest(salted, b"Server Key", "sha256")


def _bounded(raw: bytes) -> str:
    if len(raw) > MAX_MESSAGE or not raw.isascii():
        raise ProtocolViolation("SCRAM message too long or not ASCII")
    return raw.decode("ascii")


def _b64(raw: bytes) -> str:
    return b64encode(raw).decode("ascii")


def decode(text: str) -> bytes:
    """Base64 in its one canonical form (RFC 4648 section 3.5), ProtocolViolation when it is none."""
    try:
        raw = b64decode(text, validate=True)
    except ValueError:  # binascii.Error, and its parent for what is not ASCII
        raise ProtocolViolation("SCRAM value is not base64") from None
    if _b64(raw) != text:
        raise ProtocolViolation("SCRAM value is not base64 as it is written")
    return raw
