"""Trust rules against the signed claims of one token, claim by claim."""

import json
from collections.abc import Iterable
from hashlib import sha256
from urllib.parse import quote

from gateway.core.deploy_token import LONGEST_VALUE
from gateway.core.principal import Workload
from gateway.core.trust import (
    ABSENT,
    ClaimResult,
    Claims,
    Issuer,
    RuleResult,
    TrustPolicies,
    TrustRule,
    claim_of,
    folded,
    spelled,
    text_of,
)
from gateway.core.trust_shapes import DEFAULTS, FOLDED, SHAPES

_LONGEST_SHOWN = 120


def check(issuer: Issuer, rule: TrustRule, claims: Claims) -> RuleResult:
    """Every expectation of the rule against signed claims of its issuer, and whether they agree among themselves."""
    wanted = expectations(issuer, rule)
    results = [_compared(issuer, name, values, claims) for name, values in sorted(wanted.items())]
    results += SHAPES[issuer.kind](issuer, rule, claims)
    results += _facts_usable(issuer, claims)
    return RuleResult(rule, tuple(results))


def expectations(issuer: Issuer, rule: TrustRule) -> dict[str, frozenset[str]]:
    """What each claim may be: the rule's word, and the default where it says nothing."""
    return {**DEFAULTS[issuer.kind], **rule.claims}


def terms_of(issuer: Issuer, rule: TrustRule) -> str:
    """A digest of all that a rule and its issuer demand of a token: two that differ may hold for different tokens.

    Not of what is compared by itself wherever a deploy token is used: rights and `token_life`.
    """
    demanded = {claim: sorted(values) for claim, values in expectations(issuer, rule).items()}
    keys = [issuer.audience, sorted(issuer.algorithms), issuer.jwks_url, issuer.jwks_file]
    age = [issuer.longest_token.total_seconds(), issuer.has_fork_claims]
    facts = {fact: list(names) for fact, names in issuer.facts.items()}
    # A rule without `job_workflow_ref` wants the run's own workflow: `demanded` lacks the name then, so it differs.
    said = [issuer.name, issuer.kind.value, issuer.url, *keys, *age, list(issuer.identity), facts, rule.name, demanded]
    return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def _compared(issuer: Issuer, name: str, values: frozenset[str], claims: Claims) -> ClaimResult:
    value = claim_of(claims, name)
    is_folded = name in FOLDED[issuer.kind] and isinstance(value, str)
    seen = spelled(folded(str(value)) if is_folded else value)
    if seen in values:
        return ClaimResult(name, True, f"is {_shown(seen)}")
    wanted = " or ".join(sorted(_shown(text) for text in values))
    return ClaimResult(name, False, f"is {_shown(seen)}, and the rule wants {wanted}")


def _shown(text: str) -> str:
    if text == ABSENT:
        return "missing"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _facts_usable(issuer: Issuer, claims: Claims) -> list[ClaimResult]:
    """What is written into the token and the log must be there, short and printable."""
    needed = [name for fact, names in issuer.facts.items() if fact not in ("environment", "actor") for name in names]
    results = []
    for name in dict.fromkeys([*issuer.identity, *needed]):
        value = claim_of(claims, name)
        is_usable = _is_usable(value)
        results.append(
            ClaimResult(name, is_usable, "is usable" if is_usable else "is missing, too long or unprintable")
        )
    return [result for result in results if not result.held]


def _is_usable(value: object) -> bool:
    is_scalar = isinstance(value, str | int) and not isinstance(value, bool)
    return is_scalar and 0 < len(str(value)) <= LONGEST_VALUE // 4 and str(value).isprintable()


def match(policies: TrustPolicies, issuer: Issuer, claims: Claims) -> tuple[RuleResult, ...]:
    """Every rule of the issuer against the claims, the one that came nearest first: at most one holds."""
    results = [check(issuer, rule, claims) for rule in policies.rules.values() if rule.issuer == issuer.name]
    return tuple(sorted(results, key=lambda r: (not r.holds(), not knows(issuer, r), len(r.failed()), r.rule.name)))


def knows(issuer: Issuer, result: RuleResult) -> bool:
    """True when the rule is about this very repository, whatever else did not hold: its owner may be told why not."""
    return not set(issuer.identity) & set(result.failed())


def workload_of(issuer: Issuer, rule: TrustRule, claims: Claims, mark: str) -> Workload:
    """The workload that a rule which holds makes of the claims. `mark` tells this token from others of its run."""
    facts = {fact: [claim_of(claims, name) for name in names] for fact, names in issuer.facts.items()}
    ids = "/".join(quote(str(claim_of(claims, name)), safe=":@") for name in issuer.identity)
    subject, run = text_of(claims, "sub"), _joined(facts.get("run", ())) or mark
    repository = _joined(facts.get("repository", ()))
    return Workload(
        id=f"workload/{rule.name}/{ids}",
        name=f"{repository or subject} ({rule.name})",
        trust_policy=rule.name,
        issuer=issuer.url,
        subject=subject[:LONGEST_VALUE],
        repository=repository,
        ref=_joined(facts.get("ref", ())),
        commit=_joined(facts.get("commit", ())),
        run=f"{issuer.name}/{run}",
        environment=folded(_joined(facts.get("environment", ()))),
        actor=_joined(facts.get("actor", ())),
    )


def _joined(values: Iterable[object]) -> str:
    return "/".join(str(value) for value in values if _is_usable(value))
