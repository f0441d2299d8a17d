from dataclasses import dataclass, field

from gateway.app.identity import ClaimNames, Redeemed, SignedClaims
from gateway.core.errors import Denied, Refusal
from tests.unit.edges.stage import ISSUER


@dataclass
class TrustingProvider:
    """A provider that believes every code to be the claims it was told."""

    issuer: str = ISSUER
    name: str = "oidc"
    label: str = "Corp"
    is_self_naming: bool = False
    refresh_token: str = ""
    names: ClaimNames = field(default_factory=ClaimNames)
    claims: dict[str, object] = field(default_factory=dict)
    refuses: bool = False
    seen: dict[str, str] = field(default_factory=dict)

    def authorization_url(self, *, state: str, nonce: str, challenge: str) -> str:
        self.seen |= {"state": state, "nonce": nonce, "challenge": challenge}
        return f"{self.issuer}/authorize?state={state}"

    def names_itself(self) -> bool:
        return self.is_self_naming

    def redeem(self, *, code: str, verifier: str, nonce: str) -> Redeemed:
        self.seen |= {"verifier": verifier, "redeemed_nonce": nonce}
        if self.refuses:
            raise Denied(Refusal("code-refused", "no"))
        claims = {"iss": self.issuer, "sub": f"sub-{code}", "preferred_username": code, **self.claims}
        return Redeemed(SignedClaims(claims), self.refresh_token)
