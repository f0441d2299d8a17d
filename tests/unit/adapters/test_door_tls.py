import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from errno import ENOSPC
from hashlib import new
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.adapters import door_tls
from gateway.adapters.door_tls import ClientAuthority, end_point_binding, ensure_door_certificate
from gateway.core.principal import User

AT = datetime.now(UTC)


def test_the_chain_is_one_that_a_strict_client_accepts(tmp_path: Path):
    cert, key, ca = ensure_door_certificate(tmp_path / "tls", ("127.0.0.1", "gw.example"), AT)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    client = ssl.create_default_context(cafile=str(ca))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    a_in, a_out, b_in, b_out = (ssl.MemoryBIO() for _ in range(4))
    near = client.wrap_bio(a_in, a_out, server_hostname="gw.example")
    far = server.wrap_bio(b_in, b_out, server_side=True)
    done = set()
    for _ in range(10):
        for side in (near, far):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
        b_in.write(a_out.read())
        a_in.write(b_out.read())
    assert done == {near, far}


def test_keys_are_private_and_a_second_start_keeps_them(tmp_path: Path):
    cert, key, _ = ensure_door_certificate(tmp_path / "tls", ("127.0.0.1",), AT)
    first = cert.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "tls" / "ca.key").stat().st_mode & 0o777 == 0o600
    ensure_door_certificate(tmp_path / "tls", ("127.0.0.1",), AT)
    assert cert.read_bytes() == first


def test_a_certificate_near_its_end_or_for_other_hosts_is_renewed_under_the_same_ca(tmp_path: Path):
    cert, _, ca = ensure_door_certificate(tmp_path / "tls", ("127.0.0.1",), AT)
    first, authority = cert.read_bytes(), ca.read_bytes()
    ensure_door_certificate(tmp_path / "tls", ("127.0.0.1",), AT + timedelta(days=380))
    second = cert.read_bytes()
    assert second != first
    ensure_door_certificate(tmp_path / "tls", ("127.0.0.1", "gw.example"), AT + timedelta(days=380))
    third = x509.load_pem_x509_certificate(cert.read_bytes())
    assert cert.read_bytes() != second
    assert ca.read_bytes() == authority
    names = third.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gw.example"]


RSA = rsa.generate_private_key(65537, 2048)
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)


def self_signed(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey,
    algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None,
    rsa_padding: padding.PSS | None = None,
) -> x509.Certificate:
    name = x509.Name([])
    made = x509.CertificateBuilder(name, name, key.public_key(), 7, AT, AT + timedelta(days=1))
    return made.sign(key, algorithm, rsa_padding=rsa_padding)


@pytest.mark.parametrize(
    ("cert", "by"),
    [
        (self_signed(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()), "sha256"),
        (self_signed(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()), "sha384"),
        (self_signed(RSA, hashes.SHA512()), "sha512"),
        (self_signed(RSA, hashes.SHA384(), PSS), "sha384"),
    ],
)
def test_a_binding_is_the_certificate_s_hash_by_the_algorithm_of_its_signature(
    cert: x509.Certificate, by: str, tmp_path: Path
) -> None:
    """RFC 5929 section 4.1. The first in the file is what the door shows."""
    file = tmp_path / "door.pem"
    other = self_signed(RSA, hashes.SHA256())
    file.write_bytes(cert.public_bytes(Encoding.PEM) + other.public_bytes(Encoding.PEM))
    assert end_point_binding(file) == new(by, cert.public_bytes(Encoding.DER)).digest()


@pytest.mark.parametrize("weak", [hashes.MD5(), hashes.SHA1()])
def test_a_weak_hash_is_replaced_as_the_rfc_says(
    weak: hashes.HashAlgorithm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert = self_signed(RSA, hashes.SHA256())

    class Weak:
        signature_hash_algorithm = weak
        fingerprint = staticmethod(cert.fingerprint)

    monkeypatch.setattr(x509, "load_pem_x509_certificate", lambda _: Weak())
    (tmp_path / "door.pem").write_bytes(b"")
    assert end_point_binding(tmp_path / "door.pem") == cert.fingerprint(hashes.SHA256())


def test_a_signature_without_a_hash_has_no_binding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "door.pem"
    file.write_bytes(self_signed(ed25519.Ed25519PrivateKey.generate(), None).public_bytes(Encoding.PEM))
    assert end_point_binding(file) == b""

    class Unknown:
        @property
        def signature_hash_algorithm(self) -> None:
            raise UnsupportedAlgorithm("of the future")

    monkeypatch.setattr(x509, "load_pem_x509_certificate", lambda _: Unknown())
    assert end_point_binding(file) == b""


PERSON = User("usr_1", "https://idp.test", "oncall", "o" * 90, "", frozenset())
KEY = rsa.generate_private_key(65537, 3072)
LINE = KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_a_client_s_certificate_is_for_clients_alone_and_ends(tmp_path: Path) -> None:
    authority = ClientAuthority(tmp_path / "clients")
    cert = x509.load_der_x509_certificate(authority.sign(PERSON, LINE, AT, AT + timedelta(hours=1)))
    assert list(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert cert.not_valid_after_utc == (AT + timedelta(hours=1)).replace(microsecond=0)
    assert cert.public_key() == KEY.public_key()
    assert (tmp_path / "clients" / "ca.key").stat().st_mode & 0o777 == 0o600
    again = ClientAuthority(tmp_path / "clients")
    assert again.ca_file.read_bytes() == authority.ca_file.read_bytes()
    cert.verify_directly_issued_by(x509.load_pem_x509_certificate(again.ca_file.read_bytes()))


def test_a_disk_that_fills_while_an_authority_is_made_leaves_none_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_private = door_tls.replace_private

    def full(path: Path, content: bytes) -> None:
        if path.name == "ca.pem":
            raise OSError(ENOSPC, "No space left on device")
        replace_private(path, content)

    monkeypatch.setattr(door_tls, "replace_private", full)
    with pytest.raises(OSError, match="No space"):
        ClientAuthority(tmp_path / "clients")
    assert not (tmp_path / "clients" / "ca.pem").exists()
    monkeypatch.undo()
    authority = ClientAuthority(tmp_path / "clients")
    cert = x509.load_der_x509_certificate(authority.sign(PERSON, LINE, AT, AT + timedelta(hours=1)))
    cert.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.ca_file.read_bytes()))


def test_processes_that_start_together_make_one_authority(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: ClientAuthority(tmp_path / "clients"), range(8)))
    serials = {x509.load_der_x509_certificate(each.sign(PERSON, LINE, AT, AT)).issuer for each in made}
    assert len({each._ca.serial_number for each in made}) == len(serials) == 1


def handshake(authority: ClientAuthority, tmp_path: Path, der: bytes | None) -> bytes | None:
    """What the server holds for the client's certificate, once both are done; ssl.SSLError when they are not."""
    cert, key, ca = ensure_door_certificate(tmp_path / "tls", ("gw.example",), AT)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    authority.admit(server)
    client = ssl.create_default_context(cafile=str(ca))
    if der is not None:
        file = tmp_path / "client.pem"
        file.write_text(
            ssl.DER_cert_to_PEM_cert(der)
            + KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        )
        client.load_cert_chain(file)
    a_in, a_out, b_in, b_out = (ssl.MemoryBIO() for _ in range(4))
    near = client.wrap_bio(a_in, a_out, server_hostname="gw.example")
    far = server.wrap_bio(b_in, b_out, server_side=True)
    for _ in range(10):
        for side in (near, far):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        b_in.write(a_out.read())
        a_in.write(b_out.read())
    return far.getpeercert(binary_form=True)


def test_a_handshake_with_a_certificate_with_none_and_with_one_that_has_expired(tmp_path: Path) -> None:
    authority = ClientAuthority(tmp_path / "clients")
    der = authority.sign(PERSON, LINE, AT, AT + timedelta(hours=1))
    old = authority.sign(PERSON, LINE, AT - timedelta(days=2), AT - timedelta(days=1))
    assert [handshake(authority, tmp_path, each) for each in (der, None, old)] == [der, None, old]


def test_a_certificate_of_another_authority_or_for_a_server_ends_the_handshake(tmp_path: Path) -> None:
    authority, other = ClientAuthority(tmp_path / "clients"), ClientAuthority(tmp_path / "others")
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        handshake(authority, tmp_path, other.sign(PERSON, LINE, AT, AT + timedelta(hours=1)))
    own = self_signed(KEY, hashes.SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        handshake(authority, tmp_path, own)
