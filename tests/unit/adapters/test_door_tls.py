import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from gateway.adapters.door_tls import ensure_door_certificate

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
