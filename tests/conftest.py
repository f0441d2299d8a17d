import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

from gateway.adapters.store import SqlStore, upgrade
from tests.fakes import FakeClock, RandomIds
from tests.servers import PostgresServer, running_postgres

pytest_plugins = ("tests.client_table",)
# A slow machine is no bug, so no deadline for an example.
# Continuous integration tries the same examples each time, so that a red run is about the change; at a desk they vary.
settings.register_profile("gateway", deadline=None, derandomize=os.environ.get("CI") == "true")
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


@pytest.fixture(scope="session")
def _migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "template.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def _migrated_database(postgres_server: PostgresServer) -> str:
    name = postgres_server.create_database()
    upgrade(postgres_server.url(name))
    return name


@pytest.fixture
def sqlite_store_url(_migrated_file: Path, tmp_path: Path) -> str:
    """A migrated SQLite database without rows."""
    path = shutil.copy(_migrated_file, tmp_path / "gateway.db")
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_store_url(postgres_server: PostgresServer, _migrated_database: str) -> Iterator[str]:
    """A migrated PostgreSQL database without rows, gone afterwards."""
    name = postgres_server.create_database(template=_migrated_database)
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty, migrated store: the test runs once on each database."""
    return str(request.getfixturevalue(f"{request.param}_store_url"))


@pytest.fixture
def store(store_url: str) -> Iterator[SqlStore]:
    """An empty store, once on each database."""
    opened = SqlStore(store_url)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_store(sqlite_store_url: str) -> Iterator[SqlStore]:
    """An empty store on SQLite alone, for tests that are about something else."""
    opened = SqlStore(sqlite_store_url)
    yield opened
    opened.close()
