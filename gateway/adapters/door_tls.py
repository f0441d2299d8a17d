"""A certificate for the database door when the operator brings none: a private CA that the CLI pins; and another CA,
for certificates with which people come there.

CA keys never leave their 0600 files, and no file is ever there in part; the door's leaf is renewed at start when it has
under 30 days left.
"""

import fcntl
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.adapters.credentials.ssh_ca import AcceptedKey, accepted_key
from gateway.adapters.signer import replace_private
from gateway.app.end_point import end_point_of
from gateway.core.principal import User

CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=397)
RENEW_BEFORE = timedelta(days=30)


def ensure_door_certificate(directory: Path, hosts: tuple[str, ...], at: datetime) -> tuple[Path, Path, Path]:
    """(certificate, key, CA certificate) as PEM files in a 0700 directory, made or renewed as needed."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_file, cert_file, key_file = directory / "ca.pem", directory / "door.pem", directory / "door.key"
    if not ca_file.exists():
        _make_ca(directory, "access gateway door CA")
    if not _is_current(cert_file, hosts, at):
        _make_leaf(directory, hosts, at)
    return cert_file, key_file, ca_file


def end_point_binding(cert_file: Path) -> bytes:
    """What a client binds its sign-in to; b"" where there is nothing."""
    return end_point_of(x509.load_pem_x509_certificate(cert_file.read_bytes()))


_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME


class ClientAuthority:
    """Signs what people show at the database door. Made in its own 0700 directory, apart from the door's authority."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.ca_file = directory / "ca.pem"
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # processes that start together make one
            if not self.ca_file.exists():
                _make_ca(directory, "access gateway clients CA")
        self._ca, self._key = _load_ca(directory)

    def sign(self, user: User, public_key: str, at: datetime, until: datetime) -> bytes:
        """A certificate (DER) for an OpenSSH public key line; ValueError says which keys are accepted.

        Whose it is says the row that is kept of it; the name in it is for people who look.
        """
        key = accepted_key(public_key)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user.name[:64])])
        cert = (
            _builder(name, self._ca.subject, key, at, until - at)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return cert.public_bytes(serialization.Encoding.DER)

    def admit(self, tls: ssl.SSLContext) -> None:
        """Let clients show such a certificate, and no other, in the handshake of a server's context.

        One that has expired is let through it: the use case refuses it, with a sentence instead of an alert.
        """
        tls.load_verify_locations(self.ca_file)
        tls.verify_mode = ssl.CERT_OPTIONAL
        tls.verify_flags |= ssl.VerifyFlags(ssl.VERIFY_X509_STRICT | _NO_CHECK_TIME)


def _is_current(cert_file: Path, hosts: tuple[str, ...], at: datetime) -> bool:
    if not cert_file.exists():
        return False
    cert = x509.load_pem_x509_certificate(cert_file.read_bytes())
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    held = {str(n.value) for n in names}
    return set(hosts) <= held and cert.not_valid_after_utc - at > RENEW_BEFORE


def _make_ca(directory: Path, called: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, called)])
    at = datetime.now(UTC)
    cert = (
        _builder(name, name, key.public_key(), at, CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_key(directory / "ca.key", key)
    replace_private(directory / "ca.pem", cert.public_bytes(serialization.Encoding.PEM))


def _make_leaf(directory: Path, hosts: tuple[str, ...], at: datetime) -> None:
    ca, ca_key = _load_ca(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    cert = (
        _builder(name, ca.subject, key.public_key(), at, LEAF_LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_name(h) for h in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write_key(directory / "door.key", key)
    replace_private(directory / "door.pem", cert.public_bytes(serialization.Encoding.PEM))


def _load_ca(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    ca_key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{directory / 'ca.key'} is not the key that was made there")
    return x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes()), ca_key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: AcceptedKey, at: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - timedelta(minutes=5))
        .not_valid_after(at + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    replace_private(path, pem)
