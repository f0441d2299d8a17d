"""The `DeviceProofs` port on joserfc: a proof is a JWT of type `dpop+jwt`, signed by the key in its own header."""

import json
from datetime import UTC, datetime
from functools import lru_cache

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import Key

from gateway.adapters.jose import KEY_TYPES, OneAlgorithm, signing_key
from gateway.app.possession_ports import ForgedProofError
from gateway.core.device_proof import LONGEST_PROOF, DeviceProof

ALGORITHMS = ("EdDSA", "Ed25519", "ES256")  # asymmetric, and small enough for a header
_PUBLIC = {"OKP": ("crv", "kty", "x"), "EC": ("crv", "kty", "x", "y")}  # RFC 7638 §3.2; nothing else may be there


class SignedDeviceProofs:
    """Thread-safe. Keys are kept once read, as a device comes again."""

    def verify(self, text: str) -> DeviceProof:
        """See the port; RFC 9449 §4.3, 1 to 7. The size is bounded first."""
        if len(text) > LONGEST_PROOF or not text.isascii():
            raise ForgedProofError("too long")
        try:
            return self._verified(text.encode())
        except (JoseError, ValueError, TypeError, KeyError, RecursionError, OverflowError, OSError) as why:
            raise ForgedProofError(type(why).__name__) from why

    def _verified(self, text: bytes) -> DeviceProof:
        head = jws.extract_compact(text).protected
        algorithm, entry = head.get("alg"), head.get("jwk")
        if head.get("typ") != "dpop+jwt" or algorithm not in ALGORITHMS or not isinstance(entry, dict):
            raise ForgedProofError("not a proof")
        names = _PUBLIC.get(str(entry.get("kty")), ())
        if set(entry) - {"use", "alg", "kid"} != set(names):  # also no private half (§4.3, 7)
            raise ForgedProofError("not a public key")
        key, thumbprint = _key(json.dumps({name: entry[name] for name in names}))
        if key.key_type != KEY_TYPES[algorithm]:
            raise ForgedProofError("a key for another algorithm")
        signed = jws.deserialize_compact(text, key, registry=OneAlgorithm(algorithms=[algorithm]))
        claims = json.loads(signed.payload)
        if not isinstance(claims, dict):
            raise ForgedProofError("no claims")
        told = [claims.get(name) for name in ("htm", "htu", "jti")]
        method, url, name = (value if isinstance(value, str) else "" for value in told)
        made = claims.get("iat")
        if isinstance(made, bool) or not isinstance(made, int):
            raise ForgedProofError("no time")
        digest = claims.get("ath", "")
        digest = digest if isinstance(digest, str) else "?"
        return DeviceProof(thumbprint, method, url.partition("?")[0], datetime.fromtimestamp(made, UTC), name, digest)


@lru_cache(maxsize=1024)
def _key(entry: str) -> tuple[Key, str]:
    key = signing_key(json.loads(entry))
    if key is None:
        raise ForgedProofError("a key of another kind")
    return key, key.thumbprint()
