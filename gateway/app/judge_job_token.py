"""One pipeline's token against the trust policies, claim by claim: for the exchange, and to explain it to people."""

from dataclasses import dataclass
from datetime import datetime

from gateway.app.workload_ports import JobTokens
from gateway.core.job_token import judge_claims, judge_header
from gateway.core.trust import ClaimResult, Claims, Issuer, RuleResult, TrustPolicies
from gateway.core.trust_match import match


@dataclass(frozen=True, slots=True)
class Judged:
    """`token` is about the token itself, `rules` about each rule of its issuer, the nearest first.

    `claims` are signed exactly when `is_signed`; `issuer` None is one that no trust policy declares.
    """

    issuer: Issuer | None
    claims: Claims
    token: tuple[ClaimResult, ...]
    rules: tuple[RuleResult, ...]
    is_signed: bool

    def is_good(self) -> bool:
        """True when the token itself holds, whoever it is of."""
        return self.is_signed and all(result.held for result in self.token)

    def rule(self) -> RuleResult | None:
        """The one rule that holds for a good token."""
        nearest = self.rules[0] if self.rules else None
        return nearest if nearest is not None and self.is_good() and nearest.holds() else None

    def failed(self) -> tuple[str, ...]:
        """The names of the claims that did not hold, of the token or else of the nearest rule."""
        own = tuple(dict.fromkeys(result.claim for result in self.token if not result.held))
        return own or (self.rules[0].failed() if self.rules else ("trust policy",))


def judge(policies: TrustPolicies, tokens: JobTokens, text: str, at: datetime) -> Judged:
    """Everything that can be said of a token at `at`. Unavailable when its issuer's keys cannot be had."""
    token = tokens.read(text)
    if token is None:
        return Judged(None, {}, (_NO_TOKEN,), (), is_signed=False)
    issuer = policies.issuer_of(token.unverified_claims.get("iss"))
    if issuer is None:
        return Judged(None, token.unverified_claims, (_UNKNOWN_ISSUER,), (), is_signed=False)
    header = tuple(judge_header(issuer, token.unverified_header))
    if not all(result.held for result in header):
        return Judged(issuer, token.unverified_claims, header, (), is_signed=False)
    claims = tokens.verify(issuer, token)
    if isinstance(claims, ClaimResult):
        return Judged(issuer, token.unverified_claims, (*header, claims), (), is_signed=False)
    signature = ClaimResult("signature", held=True, said="is the issuer's")
    own = (*header, signature, *judge_claims(issuer, claims, at))
    return Judged(issuer, claims, own, match(policies, issuer, claims), is_signed=True)


_NO_TOKEN = ClaimResult("token", held=False, said="is no signed token")
_UNKNOWN_ISSUER = ClaimResult("iss", held=False, said="is no issuer that a trust policy declares")
