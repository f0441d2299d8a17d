"""A person's credential is worth nothing without the key of the device or browser that it was issued to.

The key is made there and never leaves it. A sign-in keeps the key's thumbprint from its first request on
(RFC 9449 §5), and what a terminal asks, or a browser's form, proves the key anew. Whoever has copied the secret alone
is told no, and an event says so. A proof for something that changes anything counts once for all workers, gateways
and restarts; one for a look counts once in each process.
"""

from base64 import urlsafe_b64encode
from collections import Counter, deque
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from threading import Lock

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.identity import NotSignedIn
from gateway.app.people_ports import Credential
from gateway.app.possession_ports import ForgedProofError
from gateway.app.refuse_stranger import refuse_stranger
from gateway.core.device_proof import FRESH_FOR, LONGEST_ID, LONGEST_PROOF, NO_PROOF, Asked, DeviceProof, why_not
from gateway.core.errors import GatewayError, Refusal
from gateway.core.principal import User

KEY = "key"  # under which a credential's data has the thumbprint
_LOGIN = ("Run gw login",)
_READS = frozenset({"GET", "HEAD"})
USED_PROOF = "proof"  # the purpose under which the store remembers one
MISSING = Refusal(
    NO_PROOF,
    "This sign-in belongs to one device, and this request does not prove that it comes from there.",
    ("a proof by the device's key",),
    ("Run gw login on this machine; a credential that was copied from another one is of no use here.",),
)
_FORGED = Refusal("proof-broken", "Your device's proof cannot be verified.", ("a proof by the device's key",), _LOGIN)
OTHER_KEY = Refusal(
    "proof-of-another-device",
    "This sign-in was made on another device, or this one's key was replaced since.",
    ("a proof by the key that signed in",),
    ("Run gw login on this machine.",),
)
_ANOTHER_BROWSER = (
    "Open the page again, with scripts allowed for this site.",
    "If that does not help, sign in again in this browser.",
)
_SEEN = Refusal("proof-reused", "Your device's proof was used before.", ("a new proof",), ("Try again.",))
_FULL = Refusal("too-many-attempts", "Too many requests of this device at once.", next_steps=("Wait a minute.",))
_OLD = Refusal(
    "sign-in-unbound",
    "This sign-in is from before sign-ins were bound to a device; please sign in once more.",
    ("a sign-in that is bound to this device",),
    _LOGIN,
)


class SeenProofs:
    """The proofs that this process has taken while they are fresh, so that none is taken twice. Thread-safe.

    Only proofs by the key of a known credential come here: anybody can make keys, and would fill it with theirs.
    Bounded: beyond `most`, or `most_of_one` of one key, new ones are refused rather than old ones forgotten.
    """

    def __init__(self, most: int = 100_000, most_of_one: int = 10_000) -> None:
        self._most, self._most_of_one = most, most_of_one
        self._lock = Lock()
        self._seen: set[bytes] = set()
        self._order: deque[tuple[datetime, bytes, str]] = deque()
        self._of_key: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._seen)

    def refusal(self, proof: DeviceProof, at: datetime) -> Refusal | None:
        """None for one that is new; it is remembered for as long as it could be fresh."""
        mark = sha256(f"{proof.key} {proof.id}".encode()).digest()
        with self._lock:
            while self._order and self._order[0][0] < at:
                _, gone, key = self._order.popleft()
                self._seen.discard(gone)
                self._of_key[key] -= 1
                if not self._of_key[key]:
                    del self._of_key[key]
            if mark in self._seen:
                return _SEEN
            if len(self._seen) >= self._most or self._of_key[proof.key] >= self._most_of_one:
                return _FULL
            self._seen.add(mark)
            self._of_key[proof.key] += 1
            self._order.append((at + 2 * FRESH_FOR, mark, proof.key))  # made up to FRESH_FOR ahead of now
        return None


def read_proof(ctx: Context, told: list[str], asked: Asked) -> DeviceProof | Refusal:
    """What a request's one `DPoP` header proves, by whatever key it names, or why it proves nothing."""
    if not told:
        return MISSING
    if len(told) != 1 or not 0 < len(told[0]) <= LONGEST_PROOF:
        return _FORGED
    try:
        proof = ctx.device_proofs.verify(told[0])
    except ForgedProofError:
        return _FORGED
    if not 0 < len(proof.id) <= LONGEST_ID:
        return _FORGED
    return why_not(proof, asked, ctx.clock.now()) or proof


def demand_possession(
    ctx: Context, credential: Credential, user: User, proof: DeviceProof | Refusal, seen: SeenProofs, client: str
) -> None:
    """NotSignedIn, with its event, unless the request has proven the key that the credential was issued to.

    `client` is where it comes from (address).
    """
    bound = (credential.data or {}).get(KEY, "")
    if not bound:
        raise NotSignedIn(_OLD)
    if isinstance(proof, Refusal):
        no: Refusal | None = proof
    elif proof.key != bound:
        no = OTHER_KEY
    else:
        no = seen.refusal(proof, ctx.clock.now())
        if no is None and proof.method not in _READS and not _claim(ctx, proof):
            no = _SEEN
    if no is not None:
        raise refuse_proof(ctx, user, no, client, credential.purpose)


def _claim(ctx: Context, proof: DeviceProof) -> bool:
    """False when any process has taken this proof before. It is remembered for as long as it could be fresh."""
    at, mark = ctx.clock.now(), digest_of(f"{proof.key} {proof.id}")
    with ctx.store.begin() as uow:
        if uow.credentials.find(mark, USED_PROOF) is not None:
            return False
        until = at + 2 * FRESH_FOR
        uow.credentials.add(Credential(mark, USED_PROOF, proof.key, at, until, single_use=True, used_at=at))
    return True


def token_digest(secret: str) -> str:
    """The claim `ath` for a secret (RFC 9449 §4.2)."""
    return urlsafe_b64encode(sha256(secret.encode()).digest()).rstrip(b"=").decode()


def refuse_proof(ctx: Context, user: User, no: Refusal, client: str, via: str) -> GatewayError:
    """The "no" to a credential that came without the proof of its key, stored; `via` is `cli` or `web`."""
    about: journal.About = {"principal": user.name}
    told = replace(no, next_steps=_ANOTHER_BROWSER) if via == "web" else no
    return refuse_stranger(ctx, client, "login:unproven", told, NotSignedIn, {"via": via}, about=about)
