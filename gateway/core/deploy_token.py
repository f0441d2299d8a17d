"""Deploy tokens: bearer text that lets one pipeline run use named verbs on named targets, and nothing else.

`gwd_HEADER.CAVEAT.….TAG`, each part base64url: a header of facts and rights that the gateway wrote, caveats that
anybody who holds the token may add, and the last link of an HMAC-SHA256 chain over all of it (the construction of
Macaroons, Birgisson et al. 2014). The layout is in docs/formats/deploy-token.md. Rules:
- a holder can add a caveat without any key, and can neither remove nor reorder one: each link is keyed by the one
  before;
- a caveat can only narrow: several of one tag intersect, and what is left of nothing is a no;
- nothing of the content is read before the chain holds, and sizes are bounded before that;
- an unknown tag, or one that is not in its one canonical form, is a no.
"""

import hmac
import json
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256

from gateway.core.errors import Refusal
from gateway.core.principal import Workload

PREFIX = "gwd_"  # lets secret scanners find a leaked one
LONGEST_TOKEN = 8192
MOST_CAVEATS = 32
MOST_VALUES = 64
LONGEST_VALUE = 512
ROOT_KEY_BYTES = 32
_DOMAIN = b"production-access-gateway deploy token v1\n"
_TAG_CHARACTERS = 43  # of 32 bytes in base64url
_AGAIN = ("Exchange the job's own token again: POST /oauth/token.",)


class Tag(StrEnum):
    """What a caveat narrows. Stable for ever: tokens outlive a gateway's version."""

    TARGET = "target"
    VERB = "verb"
    PARAMETERS = "parameters"  # digests, see `parameters_digest`
    REPOSITORY = "repository"
    REF = "ref"
    COMMIT = "commit"
    RUN = "run"
    ENVIRONMENT = "environment"
    NOT_AFTER = "not_after"  # seconds since 1970, one value


_FACTS = (Tag.REPOSITORY, Tag.REF, Tag.COMMIT, Tag.RUN, Tag.ENVIRONMENT)


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one target."""

    target: str
    verb: str


@dataclass(frozen=True, slots=True)
class Caveat:
    """What is narrowed is one of `values`. ValueError when it has no canonical form."""

    tag: Tag
    values: frozenset[str]

    def __post_init__(self) -> None:
        if not 0 < len(self.values) <= MOST_VALUES:
            raise ValueError(f"a caveat has between 1 and {MOST_VALUES} values")
        if not all(0 < len(value) <= LONGEST_VALUE and value.isprintable() for value in self.values):
            raise ValueError(f"a caveat's value is printable and has between 1 and {LONGEST_VALUE} characters")
        if self.tag is Tag.NOT_AFTER and (len(self.values) != 1 or _seconds(*self.values) is None):
            raise ValueError("not_after is one whole number of seconds since 1970")


@dataclass(frozen=True, slots=True)
class VerifiedDeployToken:
    """A token whose chain held at the time it was verified: who carries it, and what is left of its rights.

    `parameters` are the digests of the only parameters that may be passed, None for any; `terms` those of the trust
    policy that it was minted under, "" in a token from before they were told. Not yet looked at: whether the token was
    revoked, and whether that policy still says so, which `app.verify_deploy_token` does.
    """

    id: str
    workload: Workload
    rights: frozenset[Right]
    parameters: frozenset[str] | None
    issued_at: datetime
    not_after: datetime
    terms: str

    def refusal(self, target: str, verb: str, parameters: str) -> Refusal | None:
        """Why this token does not let `verb` run on `target` with parameters of that digest; None when it does."""
        if Right(target, verb) not in self.rights:
            allowed = sorted(f"{right.verb} on {right.target}" for right in self.rights)
            said = f"This token does not allow {verb} on {target}; it allows {_listed(allowed)}."
            step = f"Let the trust policy {self.workload.trust_policy} allow it, or ask for the right at the exchange."
            return Refusal("token-not-for-this", said, (f"{verb} on {target}",), (step,))
        if self.parameters is not None and parameters not in self.parameters:
            said = f"This token was narrowed to other parameters of {verb}."
            return Refusal("token-not-for-this", said, ("the parameters that the token names",), _AGAIN)
        return None


def parameters_digest(verb: str, parameters: Mapping[str, str]) -> str:
    """The digest by which a `parameters` caveat names a verb's parameters: SHA-256 (hex) of their canonical JSON."""
    return sha256(_json([verb, dict(parameters)])).hexdigest()


def mint(
    root_key: bytes,
    *,
    id: str,
    workload: Workload,
    rights: Iterable[Right],
    issued_at: datetime,
    not_after: datetime,
    terms: str,
    caveats: Sequence[Caveat] = (),
) -> str:
    """A new token. ValueError for a weak key, no rights, or more than fits in `LONGEST_TOKEN`."""
    if len(root_key) < ROOT_KEY_BYTES:
        raise ValueError(f"a root key has at least {ROOT_KEY_BYTES} bytes")
    by_target: dict[str, set[str]] = {}
    for right in rights:
        by_target.setdefault(right.target, set()).add(right.verb)
    if not by_target:
        raise ValueError("a deploy token without rights is worth nothing")
    header = {
        "id": id,
        "iat": int(issued_at.timestamp()),
        "exp": int(not_after.timestamp()),
        "rights": {target: sorted(verbs) for target, verbs in by_target.items()},
        "terms": terms,
        "workload": asdict(workload),
    }
    first = _b64(_json(header))
    text = f"{PREFIX}{first}.{_b64(_first_link(root_key, first))}"
    for caveat in caveats:
        text = attenuate(text, caveat)
    if len(text) > LONGEST_TOKEN:
        raise ValueError(f"a deploy token has at most {LONGEST_TOKEN} characters; name fewer targets")
    return text


def attenuate(text: str, caveat: Caveat) -> str:
    """The same token, narrowed. Needs no key; ValueError when `text` is no deploy token or would grow too long."""
    parts = _parts(text)
    if parts is None:
        raise ValueError("this is not a deploy token")
    *content, tag = parts
    if len(content) > MOST_CAVEATS:
        raise ValueError(f"a deploy token has at most {MOST_CAVEATS} caveats")
    added = _b64(_caveat_bytes(caveat))
    narrowed = f"{PREFIX}{'.'.join(content)}.{added}.{_b64(_link(_unb64(tag), added))}"
    if len(narrowed) > LONGEST_TOKEN:
        raise ValueError(f"a deploy token has at most {LONGEST_TOKEN} characters")
    return narrowed


def verify(root_keys: Sequence[bytes], text: str, at: datetime) -> VerifiedDeployToken | Refusal:
    """What the token is worth at `at`, or why nothing. Any of `root_keys` may have begun its chain."""
    parts = _parts(text)
    if parts is None:
        return _NOT_OURS
    *content, tag = parts
    # Every key is tried, and compared in constant time: how long it takes tells nothing about any of them.
    if not any([hmac.compare_digest(_chain(key, content), tag) for key in root_keys]):  # noqa: C419
        return _NOT_OURS
    caveats = [_caveat_of(part) for part in content[1:]]
    known = [caveat for caveat in caveats if caveat is not None]
    if len(known) != len(caveats):
        said = "This deploy token holds a restriction that this gateway does not know."
        return Refusal("token-caveat-unknown", said, ("restrictions that this gateway knows",), _AGAIN)
    return _narrowed(json.loads(_unb64(content[0])), known, at)


_NOT_OURS = Refusal("token-invalid", "This is not a deploy token of this gateway.", ("a deploy token",), _AGAIN)


def _narrowed(header: Mapping[str, object], caveats: Sequence[Caveat], at: datetime) -> VerifiedDeployToken | Refusal:
    """The header is the gateway's own word: the chain over it held."""
    token = _minted(header)
    allowed = _intersections(caveats)
    end = min(
        [int(token.not_after.timestamp()), *(int(v) for c in caveats if c.tag is Tag.NOT_AFTER for v in c.values)]
    )
    if at.timestamp() >= end:
        return Refusal("token-over", "This deploy token has ended.", ("a token that is still good",), _AGAIN)
    for tag in _FACTS:
        if tag in allowed and getattr(token.workload, tag.value) not in allowed[tag]:
            said = f"This deploy token was narrowed to another {tag.value} than its own, so it is good for nothing."
            return Refusal("token-narrowed-away", said, (tag.value,), _AGAIN)
    rights = frozenset(
        right
        for right in token.rights
        if right.target in allowed.get(Tag.TARGET, {right.target}) and right.verb in allowed.get(Tag.VERB, {right.verb})
    )
    parameters = allowed.get(Tag.PARAMETERS)
    if not rights or parameters == frozenset():
        said = "This deploy token was narrowed until nothing was left of it."
        return Refusal("token-narrowed-away", said, ("a right",), _AGAIN)
    until = datetime.fromtimestamp(end, UTC)
    return replace(token, rights=rights, parameters=parameters, not_after=until)


def _minted(header: Mapping[str, object]) -> VerifiedDeployToken:
    """What `mint` wrote."""
    match header:
        case {"id": str(id), "iat": int(iat), "exp": int(exp), "rights": dict(by_target), "workload": dict(workload)}:
            rights = frozenset(Right(target, verb) for target, verbs in by_target.items() for verb in verbs)
            issued_at, not_after = (datetime.fromtimestamp(seconds, UTC) for seconds in (iat, exp))
            terms = str(header.get("terms", ""))
            return VerifiedDeployToken(id, Workload(**workload), rights, None, issued_at, not_after, terms)
    raise ValueError("a header under this gateway's key is not one that it wrote")


def _intersections(caveats: Iterable[Caveat]) -> dict[Tag, frozenset[str]]:
    allowed: dict[Tag, frozenset[str]] = {}
    for caveat in caveats:
        allowed[caveat.tag] = allowed.get(caveat.tag, caveat.values) & caveat.values
    return allowed


# ---------------------------------------------------------------- the chain


def _chain(root_key: bytes, content: Sequence[str]) -> str:
    link = _first_link(root_key, content[0])
    for part in content[1:]:
        link = _link(link, part)
    return _b64(link)


def _first_link(root_key: bytes, header: str) -> bytes:
    return hmac.digest(root_key, _DOMAIN + header.encode(), "sha256")


def _link(before: bytes, part: str) -> bytes:
    return hmac.digest(before, part.encode(), "sha256")


# ---------------------------------------------------------------- text


def _parts(text: str) -> list[str] | None:
    """Header, caveats and tag, of bounded size and the right alphabet; None otherwise."""
    if len(text) > LONGEST_TOKEN or not text.isascii() or not text.startswith(PREFIX):
        return None
    parts = text[len(PREFIX) :].split(".")
    if not 2 <= len(parts) <= MOST_CAVEATS + 2 or len(parts[-1]) != _TAG_CHARACTERS:
        return None
    return parts if all(part and part.replace("-", "a").replace("_", "a").isalnum() for part in parts) else None


def _caveat_bytes(caveat: Caveat) -> bytes:
    return _json([caveat.tag.value, *sorted(caveat.values)])


def _caveat_of(part: str) -> Caveat | None:
    """None for a tag that is not known or anything but the one canonical form."""
    try:
        said = json.loads(_unb64(part))
        match said:
            case [str(tag), *values] if all(isinstance(value, str) for value in values):
                caveat = Caveat(Tag(tag), frozenset(values))
            case _:
                return None
        return caveat if _b64(_caveat_bytes(caveat)) == part else None
    except (ValueError, RecursionError):  # also a JSON, UTF-8 or base64 error
        return None


def _seconds(text: str) -> int | None:
    is_canonical = text.isascii() and text.isdigit() and len(text) <= 12 and (text == "0" or text[0] != "0")
    return int(text) if is_canonical else None


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _b64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _listed(allowed: Sequence[str]) -> str:
    shown = ", ".join(allowed[:8])
    return f"{shown} and {len(allowed) - 8} more" if len(allowed) > 8 else shown
