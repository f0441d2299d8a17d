"""People who come to the database door with a certificate of their sign-in: real psql, gw connect --certificate."""

import os
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.adapters.door_tls import ClientAuthority
from gateway.core.principal import User
from tests.e2e.stage import Stage, directory, running

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]
ENDED = "This certificate is not valid any more"


@pytest.fixture(scope="module", params=["password", "scram"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch, directory() as path:
        patch.setenv("GATEWAY_POSTGRES__CLIENT_CERTIFICATES", "true")
        patch.setenv("GATEWAY_POSTGRES__AUTHENTICATION", request.param)
        with running(path) as up:
            up.ask("orders-db", "read")
            yield up


def psql(url: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    argv = ["psql", "-wXAtc", "SELECT 40 + 2", url]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)


def by_certificate(stage: Stage, *words: str) -> str:
    told = stage.json("oncall", "connect", "orders-db", "--certificate", *words)
    assert "PGPASSWORD" not in told["env"]
    return str(told["url"])


def test_psql_with_the_certificate_of_a_sign_in(stage: Stage) -> None:
    url = by_certificate(stage)
    assert urlsplit(url).password is None
    for each in (url, by_certificate(stage, "--level", "read")):
        done = psql(each)
        assert done.stdout == "42\n", done.stderr
    key = Path(parse_qs(urlsplit(url).query)["sslkey"][0])
    assert key.stat().st_mode & 0o777 == 0o600
    shown = stage.gw("oncall", "connect", "orders-db", "--certificate").stdout
    assert "export PGSSLCERT=" in shown
    assert "\nsslkey=" in shown


def test_it_gives_nobody_another_name_target_or_level(stage: Stage) -> None:
    url = by_certificate(stage)
    assert "belongs to somebody else" in psql(url.replace("//oncall@", "//lead@")).stderr
    assert "no active grant" in psql(url.replace("/orders-db?", "/orders-db%2Fadmin?")).stderr
    assert "42" not in psql(url.replace("/orders-db?", "/web-1?")).stdout


def test_tickets_are_good_beside_it(stage: Stage) -> None:
    assert psql(stage.json("oncall", "connect", "orders-db")["url"]).stdout == "42\n"
    assert stage.gw("oncall", "psql", "orders-db", "--", "-XAtc", "SELECT 40 + 2").stdout == "42\n"


def made(authority: ClientAuthority, folder: Path, until: datetime) -> tuple[Path, Path]:
    """A certificate that says `oncall`, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    user = User("usr_1", "https://idp.test", "oncall", "oncall", "", frozenset())
    der = authority.sign(user, line, until - timedelta(hours=1), until)
    folder.mkdir(exist_ok=True)
    certificate, private = folder / "client.crt", folder / "client.key"
    certificate.write_text(ssl.DER_cert_to_PEM_cert(der))
    private.touch(0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, private


def test_what_this_gateway_did_not_sign_or_does_not_know(stage: Stage, tmp_path: Path) -> None:
    asked = parse_qs(urlsplit(by_certificate(stage)).query)
    url = by_certificate(stage)
    now = datetime.now(UTC)

    def with_files(certificate: Path, key: Path) -> subprocess.CompletedProcess[str]:
        return psql(url.replace(asked["sslcert"][0], str(certificate)).replace(asked["sslkey"][0], str(key)))

    def quoted(path: Path) -> str:
        return str(path).replace("/", "%2F")

    url = url.replace(quoted(Path(asked["sslcert"][0])), asked["sslcert"][0])
    url = url.replace(quoted(Path(asked["sslkey"][0])), asked["sslkey"][0])
    strange = with_files(*made(ClientAuthority(tmp_path / "other"), tmp_path / "a", now + timedelta(hours=1)))
    assert (strange.returncode, strange.stdout) == (2, "")
    assert ENDED not in strange.stderr  # it ended in TLS itself; libpq has several words for that
    (own,) = stage.directory.rglob("tls/clients")
    for folder, until in (("b", now + timedelta(hours=1)), ("c", now - timedelta(minutes=1))):
        done = with_files(*made(ClientAuthority(own), tmp_path / folder, until))
        assert ENDED in done.stderr, done.stderr
        assert "fetches a new one" in done.stderr


def test_it_ends_with_its_sign_in(stage: Stage) -> None:
    url = by_certificate(stage)
    assert psql(url).stdout == "42\n"
    stage.gw("oncall", "logout")
    done = psql(url)
    assert ENDED in done.stderr
    assert "gw connect TARGET --certificate" in done.stderr
