from dataclasses import dataclass, field

from gateway.app.identity import ClaimNames, Redeemed, Refreshed, SignedClaims, SignedLogout
from gateway.core.errors import Denied, Refusal, Unavailable
from tests.unit.edges.stage import ISSUER


@dataclass
class TrustingProvider:
    """A provider that believes every code to be the claims it was told."""

    issuer: str = ISSUER
    name: str = "oidc"
    label: str = "Corp"
    is_self_naming: bool = False
    refresh_token: str = ""
    asked: list[str] = field(default_factory=list)
    answers: list[Refreshed | Exception] = field(default_factory=list)
    names: ClaimNames = field(default_factory=ClaimNames)
    claims: dict[str, object] = field(default_factory=dict)
    refuses: bool = False
    is_down: bool = False
    is_not_known: bool = False
    seen: dict[str, str] = field(default_factory=dict)

    def authorization_url(self, *, state: str, nonce: str, challenge: str, fresh: bool = False) -> str:
        self.seen |= {"state": state, "nonce": nonce, "challenge": challenge, "fresh": str(fresh)}
        return f"{self.issuer}/authorize?state={state}"

    def names_itself(self) -> bool:
        return self.is_self_naming

    def is_reachable(self) -> bool:
        if self.is_not_known:
            raise Unavailable(Refusal("provider-not-known", "being found out", next_steps=("Try again.",)))
        return not self.is_down

    def redeem(self, *, code: str, verifier: str, nonce: str) -> Redeemed:
        self.seen |= {"verifier": verifier, "redeemed_nonce": nonce}
        if self.refuses:
            raise Denied(Refusal("code-refused", "no"))
        claims = {"iss": self.issuer, "sub": f"sub-{code}", "preferred_username": code, **self.claims}
        return Redeemed(SignedClaims(claims), self.refresh_token)

    def refresh(self, refresh_token: str) -> Refreshed:
        self.asked.append(refresh_token)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def verify_logout(self, token: str) -> SignedLogout:
        subject, sid, jti = token.split(",")
        if not jti:
            raise Denied(Refusal("logout-refused", "no"))
        return SignedLogout(subject, sid, jti)
