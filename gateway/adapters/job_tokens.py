"""The `JobTokens` port on joserfc: pipelines' tokens are JWTs that an issuer's published key signed."""

import json

from joserfc import jws
from joserfc.errors import JoseError

from gateway.adapters.issuer_keys import IssuerKeys
from gateway.adapters.jose import KEY_TYPES, OneAlgorithm
from gateway.app.identity import SignedClaims
from gateway.app.workload_ports import UnverifiedToken
from gateway.core.job_token import LONGEST_TOKEN
from gateway.core.trust import ClaimResult, Issuer

_NOT_SIGNED = ClaimResult("signature", held=False, said="is of no key of the issuer")


class SignedJobTokens:
    """Thread-safe; `close` it at the end."""

    def __init__(self, keys: IssuerKeys) -> None:
        self._keys = keys

    def close(self) -> None:
        """Close the connections to issuers."""
        self._keys.close()

    def read(self, text: str) -> UnverifiedToken | None:
        """See the port. The size is bounded first."""
        if len(text) > LONGEST_TOKEN or not text.isascii():
            return None
        try:
            compact = jws.extract_compact(text.encode())
            claims = json.loads(compact.payload or b"")
        except (JoseError, ValueError, TypeError, RecursionError):
            return None
        return UnverifiedToken(text, compact.protected, claims) if isinstance(claims, dict) else None

    def verify(self, issuer: Issuer, token: UnverifiedToken) -> SignedClaims | ClaimResult:
        """See the port. The key is the issuer's of that id; the algorithm is one that the trust policy allows."""
        algorithm, kid = token.unverified_header.get("alg"), token.unverified_header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in issuer.algorithms or algorithm not in KEY_TYPES:
            return ClaimResult("alg", held=False, said="is not allowed")
        if not isinstance(kid, str):
            return ClaimResult("kid", held=False, said="is missing")
        key = self._keys.find(issuer, kid, algorithm)
        if isinstance(key, str):
            return ClaimResult("kid", held=False, said=key)
        if key.key_type != KEY_TYPES[algorithm]:  # HS256 with a public key as secret: CVE-2024-37568
            return ClaimResult("kid", held=False, said=f"names a key that is not for {algorithm} signatures")
        try:
            jws.deserialize_compact(token.text, key, registry=OneAlgorithm(algorithms=[algorithm]))
        except (JoseError, ValueError, TypeError):
            return _NOT_SIGNED
        return SignedClaims(token.unverified_claims)  # of the very text whose signature was verified
