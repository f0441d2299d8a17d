"""A ticket shown by SCRAM at the database door: by libpq, by hand, by somebody in between."""

import select
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from gateway.adapters.door_tls import end_point_binding, ensure_door_certificate
from gateway.core.target import Target
from gateway.wire import postgres_messages as pg
from tests.e2e.postgres_stage import TICKET, WITHIN, Stage, database, door_tls, leased, running_door
from tests.e2e.postgres_wire import encrypted, rest_of
from tests.servers import PostgresServer


@pytest.fixture(scope="module")
def target(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with database(postgres_server, tmp_path_factory.mktemp("target")) as made:
        yield made


@pytest.fixture(scope="module")
def stage(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("tls")
    context, ca = door_tls(folder)
    with (
        leased(target, "gw_scram") as login,
        running_door(
            Stage(target, login, ca), context, uses_scram=True, binding=end_point_binding(folder / "door.pem")
        ) as running,
    ):
        yield running


@pytest.mark.parametrize("binding", ["require", "prefer", "disable"])
def test_libpq_proves_its_ticket(stage: Stage, binding: str) -> None:
    with stage.connect(require_auth="scram-sha-256", channel_binding=binding) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_psql_and_pipelined_start(stage: Stage) -> None:
    done = stage.psql("-c", "SELECT 41 + 1", channel_binding="require")
    assert (done.stdout, done.stderr) == ("42\n", "")


def test_a_client_that_wants_to_show_its_password_is_not_asked_for_it(stage: Stage) -> None:
    with pytest.raises(psycopg.OperationalError, match="authentication method requirement"):
        stage.connect(require_auth="password")


@pytest.mark.parametrize(("name", "value"), [("password", "gwt_wrong"), ("user", "nobody")])
def test_a_wrong_proof_is_a_wrong_ticket(stage: Stage, name: str, value: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"This ticket is not valid\.") as caught:
        psycopg.connect(stage.url(), **{name: value})
    assert "gw connect prints a new one" in str(caught.value)


def test_who_exists_cannot_be_asked(stage: Stage) -> None:
    """The same answer for the same name, and none that could not be calculated without asking."""
    answers = {}
    for name in ("oncall", "nobody", "oncall"):
        with encrypted(stage) as client:
            client.sendall(pg.startup({"user": name, "database": "orders-db"}))
            offered = pg.authentication_sasl(("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"))
            assert client.recv(len(offered)) == offered
            client.sendall(pg.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abc"))
            said = client.recv(1000)
            assert said[:1] == b"R"
            salt = said.split(b"s=")[1].split(b",")[0]
            assert answers.setdefault(name, salt) == salt
    assert answers["oncall"] != answers["nobody"]


@pytest.mark.parametrize(
    "sent",
    [
        pg.message(b"p", b"ticket-for-tests\0"),
        pg.sasl_initial_response("SCRAM-SHA-1", b"n,,n=,r=abc"),
        pg.message(b"Q", b"SELECT 1\0"),
    ],
)
def test_anything_else_ends_it(stage: Stage, sent: bytes) -> None:
    with encrypted(stage) as client:
        client.sendall(pg.startup({"user": "oncall", "database": "orders-db"}) + sent)
        assert b"08P01" in rest_of(client)


@pytest.mark.parametrize(
    "final", [b"c=\xc3\xa9,r=%s,p=%s", b"c=biws,r=%s\xc3\xa9,p=%s", b"c=biws,r=%s,m=1,p=AA%s", b"c=biws,r=%s,p=\xff%s"]
)
def test_a_final_message_that_makes_no_sense_is_answered(stage: Stage, final: bytes) -> None:
    with encrypted(stage) as client:
        nonce = _exchange(client, b"n,,n=,r=abc")
        client.sendall(pg.sasl_response(final % (nonce, b64encode(bytes(32)))))
        assert b"08P01" in rest_of(client)


@pytest.mark.parametrize(("flag", "binding"), [(b"n", b"eSws"), (b"y", b"eSws")])
def test_somebody_in_between_is_named(stage: Stage, flag: bytes, binding: bytes) -> None:
    """The client's word for what it was offered, changed on the way; and a client that was not shown everything."""
    with encrypted(stage) as client:
        nonce = _exchange(client, flag + b",,n=,r=abc")
        client.sendall(pg.sasl_response(b"c=%s,r=%s,p=%s" % (binding, nonce, b64encode(bytes(32)))))
        said = rest_of(client)
        assert b"C28000" in said
        assert b"Somebody is in between." in said


def _exchange(client: ssl.SSLSocket, first: bytes) -> bytes:
    """Up to the server's first message; the nonce of both."""
    client.sendall(pg.startup({"user": "oncall", "database": "orders-db"}))
    offered = pg.authentication_sasl(("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"))
    assert client.recv(len(offered)) == offered
    client.sendall(pg.sasl_initial_response("SCRAM-SHA-256", first))
    return client.recv(1000).split(b"r=")[1].split(b",")[0]


def test_a_relay_with_a_certificate_of_its_own_gets_nothing(stage: Stage, tmp_path: Path) -> None:
    """A client that does not check certificates, and an attacker who opens its TLS and hands everything on."""
    cert, key, _ = ensure_door_certificate(tmp_path / "relay", ("127.0.0.1",), datetime.now(UTC))
    with relaying(stage, cert, key) as port:
        url = f"postgresql://oncall@127.0.0.1:{port}/orders-db?sslmode=require&connect_timeout=10"
        with pytest.raises(psycopg.OperationalError, match="Somebody is in between"):
            psycopg.connect(url, password=TICKET)


@contextmanager
def relaying(stage: Stage, cert: Path, key: Path) -> Iterator[int]:
    """One connection opened and handed on as it is; the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(WITHIN)

    def relay() -> None:
        raw, _ = listening.accept()
        raw.settimeout(WITHIN)
        assert raw.recv(8) == pg.ssl_request()
        raw.sendall(b"S")
        with context.wrap_socket(raw, server_side=True) as client, encrypted(stage) as door:
            hand_on(client, door)

    with ThreadPoolExecutor(1) as pool, listening:
        ran = pool.submit(relay)
        yield int(listening.getsockname()[1])
        ran.result(WITHIN)


def hand_on(client: ssl.SSLSocket, door: ssl.SSLSocket) -> None:
    """Both directions in one thread: OpenSSL forbids reading and writing one connection at once from two."""
    ends = {client: door, door: client}
    with suppress(OSError):
        while ready := select.select(ends, [], [], WITHIN)[0]:
            for source in ready:
                source.settimeout(0)
                with suppress(ssl.SSLWantReadError):
                    # What one readable moment holds may be several TLS records, of which select knows nothing.
                    while got := source.recv(65536):
                        ends[source].settimeout(WITHIN)
                        ends[source].sendall(got)
                    ends[source].shutdown(socket.SHUT_RDWR)
                    return
