import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

from tests.fakes import FakeClock, RandomIds
from tests.servers import PostgresServer, running_postgres

# A slow machine is no bug, so no deadline for an example.
settings.register_profile("gateway", deadline=None)
settings.load_profile("gateway")

_PURE = tuple(Path(__file__).parent / "unit" / layer for layer in ("core", "audit", "wire"))


def _refuse_socket(*_args: object, **_kwargs: object) -> NoReturn:
    pytest.fail("a test of a pure layer opened a socket")


@pytest.fixture(autouse=True)
def _pure_layers_open_no_socket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if any(request.path.is_relative_to(layer) for layer in _PURE):
        monkeypatch.setattr(socket.socket, "__init__", _refuse_socket)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ids(clock: FakeClock) -> RandomIds:
    return RandomIds(clock)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL on a loopback port, with password logins, for the whole run."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh, empty database, gone afterwards."""
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)
