from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlmodel import SQLModel

from gateway.adapters.store import SqlStore, upgrade
from gateway.adapters.store.engine import writing_engine
from gateway.core.errors import Unavailable
from tests.contract.store_values import ONCALL

_SPAWN = get_context("spawn")


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that nobody has migrated."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty 100%.db'}"
    return str(request.getfixturevalue("postgres_url"))


def test_migrating_makes_exactly_the_tables_that_the_code_has(store_url: str) -> None:
    engine = writing_engine(store_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []
        tables = set(inspect(connection).get_table_names())
    engine.dispose()
    assert tables == {*SQLModel.metadata.tables, "alembic_version"}


def test_migrating_twice_keeps_what_is_there(empty_url: str) -> None:
    upgrade(empty_url)
    store = SqlStore(empty_url)
    with store.begin() as uow:
        uow.users.upsert(ONCALL)
    upgrade(empty_url)
    with store.read() as uow:
        assert uow.users.get(ONCALL.id) == ONCALL
    store.close()


def test_gateways_that_start_at_once_migrate_once(empty_url: str) -> None:
    with ProcessPoolExecutor(4, mp_context=_SPAWN) as pool:
        for done in [pool.submit(upgrade, empty_url) for _ in range(8)]:
            done.result(timeout=90)
    upgrade(empty_url)


def test_a_database_of_a_newer_gateway_is_left_alone(store_url: str) -> None:
    engine = writing_engine(store_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Unavailable, match="newer gateway"):
        upgrade(store_url)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
    engine.dispose()


def test_a_migration_that_fails_leaves_nothing(empty_url: str) -> None:
    engine = writing_engine(empty_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE grants (id integer)"))  # in the way of the first migration
    with pytest.raises(Exception, match="already exists"):
        upgrade(empty_url)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["grants"]
    engine.dispose()


def test_no_database_is_a_sentence_without_the_url() -> None:
    with pytest.raises(Unavailable) as caught:
        upgrade("postgresql://gw:hunter2@127.0.0.1:1/gw")
    assert "hunter2" not in str(caught.value)
    assert "cannot be reached" in str(caught.value)
