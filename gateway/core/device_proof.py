"""Proof that a request comes from the device that signed in (RFC 9449, DPoP), judged at one fixed time.

The rules, in order (RFC 9449 §4.3): the proof is for this method and this address; it was made now; it is about this
secret; and it is by the key that the sign-in began with. That its signature is right was found out before.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from gateway.core.errors import Refusal

FRESH_FOR = timedelta(seconds=60)  # a device's clock may be off by as much, either way
LONGEST_PROOF = 8192  # it names the whole path
LONGEST_ID = 100
NO_PROOF = "proof-missing"


@dataclass(frozen=True, slots=True)
class DeviceProof:
    """What a proof says, its signature verified. `key` is the SHA-256 thumbprint (RFC 7638) of the key that signed.

    `method` and `url` are the request's, `token_digest` the base64url SHA-256 of the secret ("" for none), `id` is new
    in each proof.
    """

    key: str
    method: str
    url: str
    issued_at: datetime
    id: str
    token_digest: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that a proof must be for. `url` has no query; `token_digest` "" while there is no secret yet."""

    method: str
    url: str
    token_digest: str = ""


def why_not(proof: DeviceProof, asked: Asked, at: datetime) -> Refusal | None:
    """What is wrong with a proof for this request; whose key it is by is the caller's question."""
    if proof.method != asked.method:
        return _not_for_this(f"It is for {proof.method[:10]} and not for {asked.method}.")
    if proof.url != asked.url:
        return _wrong_place(proof.url, asked.url)
    if abs(at - proof.issued_at) > FRESH_FOR:
        off = round((proof.issued_at - at).total_seconds())
        side = "ahead" if off > 0 else "behind"
        return Refusal(
            "proof-stale",
            f"Your device's proof is of another time: its clock is {abs(off)} s {side}, or the proof is an old one.",
            ("a proof of now",),
            ("Set this machine's clock and try again.",),
        )
    if proof.token_digest != asked.token_digest:
        return _not_for_this("It is about another secret.")
    return None


def _not_for_this(detail: str) -> Refusal:
    return Refusal(
        "proof-wrong", f"Your device's proof is for another request. {detail}", ("a proof for this request",),
        ("Try again. If it goes on: gw login",),
    )  # fmt: skip


def _wrong_place(told: str, ours: str) -> Refusal:
    try:
        theirs, here = (urlsplit(url) for url in (told, ours))
        is_same_host = (theirs.scheme, theirs.netloc) == (here.scheme, here.netloc)
    except ValueError:
        is_same_host = True
    if is_same_host:
        return _not_for_this("It is for another address.")
    place = f"{here.scheme}://{here.netloc}"
    return Refusal(
        "proof-elsewhere",
        f"Your device's proof is for another place: this gateway is called {place}.",
        ("a proof for this gateway",),
        (f"gw login --url {place} (or set GW_URL to it)",),
    )
