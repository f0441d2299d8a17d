from datetime import UTC, datetime, timedelta
from pathlib import Path
from ssl import PEM_cert_to_DER_cert

import pytest

from gateway.adapters.door_tls import end_point_binding, ensure_door_certificate
from gateway.edges.proxy.postgres_upstream import _binding_of

AT = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=1)


def test_a_login_is_bound_to_the_certificate(tmp_path: Path) -> None:
    ensure_door_certificate(tmp_path, ("localhost",), AT)
    file = tmp_path / "door.pem"
    der = PEM_cert_to_DER_cert(file.read_text().partition("-----END")[0] + "-----END CERTIFICATE-----\n")
    assert _binding_of(der) == end_point_binding(file) != b""


@pytest.mark.parametrize("change", [(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01"), (b"\x30\x82", b"\x30\x84")])
def test_a_certificate_that_cannot_be_read_is_nothing_to_bind_to(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    """As of version 2, which OpenSSL takes."""
    ensure_door_certificate(tmp_path, ("localhost",), AT)
    text = (tmp_path / "door.pem").read_text()
    der = PEM_cert_to_DER_cert(text.partition("-----END")[0] + "-----END CERTIFICATE-----\n")
    assert _binding_of(der.replace(*change, 1)) == b""
