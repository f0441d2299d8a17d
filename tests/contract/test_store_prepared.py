"""Statements on the driver's own cursor: the same values and the same failures as SQLAlchemy's."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError

from gateway.adapters.store import SqlStore
from gateway.adapters.store.prepared import Prepared
from gateway.adapters.store.tables import USERS
from gateway.core.errors import Unavailable
from tests.servers import PostgresServer

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
PERSON = {
    "id": "usr_1", "issuer": "https://idp.test", "subject": "s\0ubject", "name": "née \ud800", "email": "",
    "groups": ["a", "b\0"], "disabled_at": AT,
}  # fmt: skip
ADD = Prepared(insert(USERS), tuple(PERSON))
FIND = Prepared(select(USERS).where(USERS.c.id == bindparam("of")).limit(1))
RENAME = Prepared(update(USERS).where(USERS.c.id == bindparam("of")).values(name=bindparam("now")))


def test_it_stores_and_reads_what_sqlalchemy_would(store: SqlStore):
    with store.writing.begin() as connection:
        assert ADD.run(connection, PERSON, PERSON | {"id": "usr_2", "name": "other", "subject": "other"}) == 2
    with store.writing.begin() as connection:
        (row,) = FIND.find(connection, of="usr_1")
        plain = connection.execute(select(USERS).where(USERS.c.id == "usr_1")).mappings().one()
        assert row == {column: plain[column] for column in USERS.columns}
        assert (row[USERS.c.disabled_at], row[USERS.c.groups]) == (AT, ["a", "b\N{REPLACEMENT CHARACTER}"])
        assert RENAME.run(connection, {"of": "usr_1", "now": "x"}) == 1
        assert RENAME.run(connection, {"of": "nobody", "now": "x"}) == 0
        assert FIND.find(connection, of="nobody") == []


def test_a_broken_rule_of_the_database_is_an_integrity_error_without_the_values(store: SqlStore):
    with pytest.raises(IntegrityError) as refused, store.writing.begin() as connection:
        ADD.run(connection, PERSON, PERSON)
    assert "idp.test" not in str(refused.value)


def test_a_parameter_that_is_missing_is_never_null(store: SqlStore):
    with pytest.raises(KeyError), store.writing.begin() as connection:
        RENAME.run(connection, {"of": "usr_1"})


def test_a_connection_that_is_known_to_be_lost_is_not_used_again(store: SqlStore):
    with store.writing.connect() as connection:
        connection.begin()
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.close()
        with pytest.raises(DBAPIError) as lost:
            FIND.find(connection, of="usr_1")
        assert (lost.value.connection_invalidated, connection.invalidated) == (True, True)
    with store.writing.begin() as connection:
        assert FIND.find(connection, of="usr_1") == []


def test_a_server_that_cut_the_connection_is_unavailable_once(postgres_store_url: str, postgres_server: PostgresServer):
    store = SqlStore(postgres_store_url)
    of_it = f"datname = '{make_url(postgres_store_url).database}'"

    def ask() -> None:
        with store.begin() as uow:
            postgres_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {of_it}")
            uow.users.get("usr_1")

    try:
        with pytest.raises(Unavailable):
            ask()
        with store.begin() as uow:
            assert uow.users.get("usr_1") is None
    finally:
        store.close()
