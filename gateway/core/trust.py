"""Trust policies: which claims of a pipeline's signed token become which workload, with which verbs on which targets.

Rules, each with the flaw that it answers (the attacks are listed in docs/pipelines.md):
- a rule belongs to one declared issuer, and holds only for that issuer's tokens;
- it pins the numbers by which the issuer knows repository and owner: names can be given up and registered by others;
- a claim is compared whole and with its type against a set of values: there are no patterns;
- a claim that is missing does not hold;
- what a rule leaves open is closed by default: no environment, a protected ref, no event that a fork can cause;
- two rules never hold for one token, so which one applied is never a question (`core.trust_lint` keeps them apart).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from gateway.core.deploy_token import Right

Claims = Mapping[str, object]
ABSENT = ""  # in a set of spelled values: the claim is not there
MISSING = object()


class IssuerKind(StrEnum):
    """What is known of an issuer's claims beyond OpenID Connect."""

    GITHUB = "github"
    GITLAB = "gitlab"
    OIDC = "oidc"


@dataclass(frozen=True, slots=True)
class Issuer:
    """A declared issuer of pipelines' tokens.

    `identity` are the claims that every rule must pin; `facts` the claims that tell a workload's repository, ref,
    commit, run, environment and actor. `token_life` is a deploy token's, None for as long as the job's own token lasts.
    """

    name: str
    kind: IssuerKind
    url: str
    audience: str
    algorithms: frozenset[str] = frozenset({"RS256"})
    jwks_url: str = ""  # "": where the issuer's discovery document says, on the issuer's own host
    jwks_file: str = ""
    identity: tuple[str, ...] = ("sub",)
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    longest_token: timedelta = timedelta(hours=1)
    token_life: timedelta | None = timedelta(minutes=15)
    exchanges_per_run: int = 20
    has_fork_claims: bool = True  # GitLab: job_project_id and job_namespace_id are demanded
    place: str = ""


@dataclass(frozen=True, slots=True)
class TrustRule:
    """`claims` are spelled values by claim, see `spelled`; `rights` what may be asked for; `place` is file:line.

    `terms` is the digest of what it demands, see `trust_match.terms_of`; "" is nobody's.
    """

    name: str
    issuer: str
    claims: Mapping[str, frozenset[str]]
    rights: frozenset[Right]
    description: str = ""
    place: str = ""
    terms: str = ""


@dataclass(frozen=True, slots=True)
class TrustPolicies:
    """All issuers and rules in force, with the digest of the text they were read from."""

    digest: str
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    rules: Mapping[str, TrustRule] = field(default_factory=dict)

    def issuer_of(self, url: object) -> Issuer | None:
        """The declared issuer of exactly that URL, character for character (OpenID Connect Discovery 4.3)."""
        return next((issuer for issuer in self.issuers.values() if issuer.url == url), None)


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """Whether one claim held, and why in words. Never holds a whole token."""

    claim: str
    held: bool
    said: str


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule against one token, claim by claim."""

    rule: TrustRule
    claims: tuple[ClaimResult, ...]

    def holds(self) -> bool:
        """True when every claim held."""
        return all(result.held for result in self.claims)

    def failed(self) -> tuple[str, ...]:
        """The claims that did not hold, each once."""
        return tuple(dict.fromkeys(result.claim for result in self.claims if not result.held))


# ---------------------------------------------------------------- values


def spelled(value: object) -> str:
    """One text for each value and type: "true", true and 1 differ. Lists and objects equal nothing that a rule has."""
    if isinstance(value, str | int | float):  # a bool is an int
        return json.dumps(value, ensure_ascii=False)
    return ABSENT if value is MISSING else f"a {'list' if isinstance(value, list) else 'nested value'}"


def claim_of(claims: Claims, name: str) -> object:
    """The value of a claim, `MISSING` if there is none. A name that begins with / is a JSON Pointer (RFC 6901)."""
    if not name.startswith("/"):
        return claims.get(name, MISSING)
    found: object = claims
    for step in name[1:].split("/"):
        if not isinstance(found, Mapping):
            return MISSING
        found = found.get(step.replace("~1", "/").replace("~0", "~"), MISSING)
    return found


def folded(text: str) -> str:
    """Lower case for ASCII alone: other alphabets hold look-alikes of ASCII letters that become them."""
    return text.lower() if text.isascii() else text


def text_of(claims: Claims, name: str) -> str:
    """The claim when it is text, else ""."""
    value = claim_of(claims, name)
    return value if isinstance(value, str) else ""
