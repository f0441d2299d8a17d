"""The public keys of pipelines' issuers, fetched with care and kept through outages.

Only declared places are asked: the key set's URL of the trust policy, or the one that the issuer's discovery document
names on the issuer's own host. Redirects are not followed, answers are bounded in size and time, and an issuer is asked
at most once a minute whatever tokens say. A key set is read again after ten minutes, so that a withdrawn key is not
believed for long; while an issuer does not answer, its last set goes on for a day, also over a restart: it is kept in
a file of the state directory, with the time when it was fetched.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any
from urllib.parse import urlsplit

import httpx2
from joserfc.jwk import Key

from gateway.adapters.jose import demand_safe, signing_key
from gateway.adapters.one_answer import UnusableAnswerError, body_of
from gateway.adapters.signer import replace_private
from gateway.adapters.yaml_source import SourceError, read_bytes
from gateway.app.ports import Clock
from gateway.core.errors import Refusal, Unavailable
from gateway.core.trust import Issuer

FRESH_FOR = timedelta(minutes=10)
USABLE_FOR = timedelta(hours=24)
ASK_EVERY = timedelta(seconds=60)
MAX_BODY = 256 * 1024
MOST_KEYS = 100
_TOTAL_S = 5.0
_WAITERS = 8  # callers who may wait for an answer that is on its way
_WAIT_S = 8.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry:
    """`key` None is one that cannot verify here. `algorithm` is the only one that it is for, "" for any."""

    key: Key | None
    algorithm: str
    is_repeated: bool = False


@dataclass(slots=True)
class _KeySet:
    """What is known of one issuer. `asked_at` is when it was last asked, whether or not it answered."""

    by_kid: Mapping[str, _Entry] = field(default_factory=dict)
    fetched_at: datetime | None = None
    asked_at: datetime | None = None
    failure: str = "it was not asked yet"
    asking: Lock = field(default_factory=Lock)

    def age(self, at: datetime) -> timedelta | None:
        return at - self.fetched_at if self.fetched_at is not None else None

    def is_within(self, at: datetime, limit: timedelta) -> bool:
        age = self.age(at)
        return age is not None and -limit <= age <= limit

    def may_ask(self, at: datetime) -> bool:
        return self.asked_at is None or not timedelta(0) <= at - self.asked_at < ASK_EVERY


class IssuerKeys:
    """Thread-safe. One caller asks an issuer; the others go on with what is known, or wait a little."""

    def __init__(self, clock: Clock, transport: httpx2.BaseTransport | None = None, kept: Path | None = None) -> None:
        """`kept` is a directory, which exists, for the last set of each issuer; None keeps them in memory alone."""
        self._clock = clock
        self._kept = kept
        self._transport = transport or httpx2.HTTPTransport(trust_env=False)
        self._sets: dict[tuple[str, str, str], _KeySet] = {}
        self._lock = Lock()
        self._waiters = BoundedSemaphore(_WAITERS)

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._transport.close()

    def find(self, issuer: Issuer, kid: str, algorithm: str) -> Key | str:
        """The key of that id for that algorithm, or why there is none. Unavailable when no key set is known."""
        keys = self._known(issuer, kid)
        entry = keys.by_kid.get(kid)
        if entry is None:
            return "is not in the issuer's key set"
        if entry.is_repeated:
            return "names two keys in the issuer's key set, so it is not clear which one signs"
        if entry.key is None or entry.algorithm not in ("", algorithm):
            return f"names a key that is not for {algorithm} signatures"
        return entry.key

    def _known(self, issuer: Issuer, kid: str) -> _KeySet:
        at = self._clock.now()
        with self._lock:
            keys = self._sets.get(_name(issuer)) or self._sets.setdefault(_name(issuer), self._read_kept(issuer))
        is_known = kid in keys.by_kid and keys.is_within(at, USABLE_FOR)
        if not (is_known and keys.is_within(at, FRESH_FOR)):
            self._ask(issuer, keys, at, is_urgent=not is_known)
        if not keys.is_within(at, USABLE_FOR):
            raise Unavailable(_unreachable(issuer, keys.failure))
        return keys

    def _ask(self, issuer: Issuer, keys: _KeySet, at: datetime, *, is_urgent: bool) -> None:
        """Fetch unless that was done within a minute; whoever has a known key does not wait for another's fetch."""
        if not keys.asking.acquire(blocking=False):
            if is_urgent:
                self._wait(keys)
            return
        try:
            if keys.may_ask(at):
                keys.asked_at = at
                self._fetch(issuer, keys, at)
        finally:
            keys.asking.release()

    def _wait(self, keys: _KeySet) -> None:
        if self._waiters.acquire(blocking=False):
            try:
                if keys.asking.acquire(timeout=_WAIT_S):
                    keys.asking.release()
            finally:
                self._waiters.release()

    def _fetch(self, issuer: Issuer, keys: _KeySet, at: datetime) -> None:
        try:
            document = self._document(issuer)
            entries = _entries(document)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, RuntimeError):  # also no descriptor or thread left here
            keys.failure = "it does not answer as it should"
        except (ValueError, RecursionError) as why:  # what it sent is no key set; also a file that cannot be read
            is_told = isinstance(why, UnusableAnswerError | SourceError)
            keys.failure = str(why)[:200] if is_told else "its answer is no JSON"
        else:
            keys.by_kid = entries
            keys.fetched_at = at
            self._keep(issuer, document, at)

    # ------------------------------------------------------------ over a restart

    def _place(self, issuer: Issuer) -> Path | None:
        if self._kept is None or issuer.jwks_file:
            return None
        return self._kept / f"{hashlib.sha256(json.dumps(_name(issuer)).encode()).hexdigest()}.json"

    def _keep(self, issuer: Issuer, document: object, at: datetime) -> None:
        """What cannot be written is fetched again after a restart: no reason to refuse anybody now."""
        place = self._place(issuer)
        if place is None:
            return
        told = {"issuer": issuer.url, "fetched_at": at.isoformat(), "document": document}
        try:
            replace_private(place, json.dumps(told).encode())
        except OSError as why:
            log.warning("the keys of %s are not kept for a restart: %s", issuer.url, why.strerror)

    def _read_kept(self, issuer: Issuer) -> _KeySet:
        """The set of an earlier process; an empty one when there is none, or it is not whole, or of another time."""
        place = self._place(issuer)
        try:
            told = json.loads(read_bytes(place, 2 * MAX_BODY)) if place is not None and place.exists() else None
            if told is None or told["issuer"] != issuer.url:
                return _KeySet()
            fetched_at = datetime.fromisoformat(told["fetched_at"])
            if not timedelta(0) <= self._clock.now() - fetched_at <= USABLE_FOR:
                return _KeySet()
            return _KeySet(_entries(told["document"]), fetched_at)
        except (OSError, ValueError, TypeError, KeyError, RecursionError, SourceError):
            log.warning("the kept keys of %s cannot be read and are fetched anew", issuer.url)
            return _KeySet()

    # ------------------------------------------------------------ transport

    def _document(self, issuer: Issuer) -> object:
        if issuer.jwks_file:
            return json.loads(read_bytes(Path(issuer.jwks_file), MAX_BODY))
        return self._get(issuer.jwks_url or self._discovered(issuer))

    def _discovered(self, issuer: Issuer) -> str:
        document = self._get(f"{issuer.url.rstrip('/')}/.well-known/openid-configuration")
        if not isinstance(document, dict) or document.get("issuer") != issuer.url:
            raise UnusableAnswerError("its discovery document names another issuer")  # OpenID Connect Discovery §4.3
        url = document.get("jwks_uri")
        try:
            is_own = isinstance(url, str) and urlsplit(demand_safe(url)).netloc == urlsplit(issuer.url).netloc
        except ValueError:
            is_own = False
        if not is_own:
            raise UnusableAnswerError("its key set is on another host; declare it as jwks_url")
        return str(url)

    def _get(self, url: str) -> object:
        """JSON of a declared place, in one exchange."""
        headers = {"accept": "application/json"}
        return json.loads(body_of(self._transport, url, headers, most=MAX_BODY, seconds=_TOTAL_S))


def _name(issuer: Issuer) -> tuple[str, str, str]:
    """Where the keys come from: of another place, none that are known count."""
    return issuer.url, issuer.jwks_url, issuer.jwks_file


def _entries(document: object) -> dict[str, _Entry]:
    """Every entry with a key id, usable or not: an id that appears twice is ambiguous in either case."""
    keys: Any = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or len(keys) > MOST_KEYS:
        raise UnusableAnswerError("its key set is none, or has too many keys")
    named = [entry for entry in keys if isinstance(entry, dict) and isinstance(entry.get("kid"), str)]
    if not named:
        raise UnusableAnswerError("its key set has no key with an id")
    counted = Counter(entry["kid"] for entry in named)
    return {e["kid"]: _Entry(signing_key(e), _text(e.get("alg")), counted[e["kid"]] > 1) for e in named}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _unreachable(issuer: Issuer, why: str) -> Refusal:
    return Refusal(
        "issuer-unreachable",
        f"The keys of {issuer.name} ({issuer.url}) are not known here and cannot be fetched: {why}.",
        ("the issuer's key set",),
        ("Run the job again in a minute.",),
    )
