"""A ticket shown by SCRAM at the database door: by libpq, by scramp's client, by impostors."""

from collections.abc import Iterator

import psycopg
import pytest

from gateway.adapters.door_tls import end_point_binding
from gateway.core.target import Target
from gateway.wire import postgres_messages as pg
from tests.e2e.postgres_stage import Stage, database, door_tls, leased, running_door
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
        pg.sasl_initial_response("SCRAM-SHA-256", b"y,,n=,r=abc"),
        pg.sasl_initial_response("SCRAM-SHA-1", b"n,,n=,r=abc"),
        pg.message(b"Q", b"SELECT 1\0"),
    ],
)
def test_anything_else_ends_it(stage: Stage, sent: bytes) -> None:
    with encrypted(stage) as client:
        client.sendall(pg.startup({"user": "oncall", "database": "orders-db"}) + sent)
        assert b"08P01" in rest_of(client)
