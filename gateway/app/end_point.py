"""What SCRAM is bound to, at the door and at a target: the TLS server's certificate."""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import Certificate


def end_point_of(cert: Certificate) -> bytes:
    """`tls-server-end-point` (RFC 5929 section 4.1): the certificate's hash by the algorithm of its signature, by
    SHA-256 where that is MD5 or SHA-1. b"" for a signature without one (Ed25519), for which the RFC defines nothing,
    and for one that is not known here.
    """
    try:
        algorithm = cert.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return b""
    if algorithm is None:
        return b""
    return cert.fingerprint(SHA256() if algorithm.name in ("md5", "sha1") else algorithm)
