import ssl
from pathlib import Path

import pytest

from gateway.edges.cli import client
from gateway.edges.cli.output import Failure


@pytest.fixture(autouse=True)
def _no_authorities_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GW_CA_FILE", raising=False)


def test_without_tls_no_authorities_are_read_and_nobody_is_trusted():
    trust = client._trust("http://localhost:8080")
    assert (trust.verify_mode, trust.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert trust.cert_store_stats()["x509"] == 0


def test_the_systems_authorities_are_read_once():
    trust = client._trust("https://gw.example")
    assert (trust.verify_mode, trust.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert client._trust("https://gw.example/other") is trust


def test_a_file_of_authorities_that_cannot_be_used_is_said_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "ca.pem").write_text("nothing of the kind")
    monkeypatch.setenv("GW_CA_FILE", str(tmp_path / "ca.pem"))
    for _ in range(2):
        with pytest.raises(Failure, match="not a readable PEM"):
            client._trust("https://gw.example")
