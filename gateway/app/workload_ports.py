"""What the use cases of pipelines need from outside, beside `ports`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.app.identity import SignedClaims
from gateway.core.errors import Refusal, Unavailable
from gateway.core.trust import ClaimResult, Issuer, TrustPolicies


class DeployKeys(Protocol):
    """The keys that deploy tokens are minted under and verified with. All gateways on one database share them."""

    def root_keys(self) -> Sequence[bytes]:
        """All that verify, the one that mints first; none where deploy tokens are closed."""
        ...


class TrustSource(Protocol):
    """The trust policies in force."""

    def current(self) -> TrustPolicies: ...
    def reload(self) -> str | None:
        """As `Policy.reload`."""
        ...


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """What a token says of itself, before anybody has vouched for it."""

    text: str = field(repr=False)
    unverified_header: Mapping[str, object]
    unverified_claims: Mapping[str, object]


class JobTokens(Protocol):
    """Pipelines' own tokens: their shape and their issuers' signatures."""

    def read(self, text: str) -> UnverifiedToken | None:
        """The parts of a signed token of bounded size; None for anything else."""
        ...

    def verify(self, issuer: Issuer, token: UnverifiedToken) -> SignedClaims | ClaimResult:
        """Its claims when a key of the issuer signed it, else what did not hold.

        Unavailable when no key of the issuer is known and it does not answer.
        """
        ...


class NoDeployKeys:
    """Stands in where no deploy tokens are minted: none verifies."""

    def root_keys(self) -> Sequence[bytes]:
        """None."""
        return ()


class NoTrust:
    """Stands in where nobody is trusted."""

    def current(self) -> TrustPolicies:
        """An empty set."""
        return TrustPolicies("")

    def reload(self) -> str | None:
        """Nothing to read."""
        return None


class NoJobTokens:
    """Stands in where no pipeline is known."""

    def read(self, text: str) -> UnverifiedToken | None:
        """None is ever worth reading."""
        del text
        return None

    def verify(self, issuer: Issuer, token: UnverifiedToken) -> SignedClaims | ClaimResult:
        """Never."""
        del token
        raise Unavailable(Refusal("issuer-unreachable", f"No keys of {issuer.name} are known here."))
