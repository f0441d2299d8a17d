# ruff: noqa: PT012 - what raises is a whole transaction
import sqlite3
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from gateway.adapters.store import SqlStore, engine, upgrade
from gateway.adapters.store.failures import outages_as_unavailable
from gateway.core.errors import Unavailable
from gateway.core.principal import User
from gateway.demo.ports import free_port
from tests.contract.store_values import ONCALL, T0, TICKET
from tests.servers import PostgresServer

SECRETIVE = replace(TICKET, digest="swordfish", data={"nonce": "swordfish"})


def _write(store: SqlStore, number: int = 1) -> None:
    with store.begin() as uow:
        uow.users.upsert(User(f"usr_{number}", "issuer", str(number), f"name-{number}", "x" * 20_000))


def _on_the_writer(store: SqlStore, pragma: str) -> None:
    """SQLite's writer is one pooled connection, so what is set on it stays."""
    with store._writing.connect() as connection:
        connection.connection.driver_connection.execute(pragma)


def test_a_full_disk_is_a_sentence_and_leaves_the_store_usable(sqlite_store: SqlStore) -> None:
    with sqlite_store._reading.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    _on_the_writer(sqlite_store, f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable, match="no disk space"):
        _write(sqlite_store)
    _on_the_writer(sqlite_store, "PRAGMA max_page_count = 1000000")
    _write(sqlite_store)
    with sqlite_store.read() as uow:
        assert len(uow.users.all()) == 1


def test_a_lock_that_is_never_given_back_is_a_sentence(
    sqlite_store: SqlStore, sqlite_store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "WAIT_SECONDS", 0.05)
    other = sqlite3.connect(sqlite_store_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="busy"):
        _write(sqlite_store)
    other.execute("ROLLBACK")
    other.close()
    _write(sqlite_store)


def test_a_writer_inside_a_writer_is_busy_and_not_a_deadlock(
    sqlite_store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store._writing.pool, "_timeout", 0.05)
    with sqlite_store.begin() as outer:
        outer.users.upsert(ONCALL)
        with pytest.raises(Unavailable, match="busy"):
            _write(sqlite_store)
    with sqlite_store.read() as uow:
        assert uow.users.all() == [ONCALL]


@pytest.mark.parametrize(
    "use", [upgrade, lambda url: SqlStore(url).begin().__enter__(), lambda url: SqlStore(url).read().__enter__()]
)
def test_a_file_that_cannot_be_opened_is_a_sentence(tmp_path: Path, use: Callable[[str], object]) -> None:
    with pytest.raises(Unavailable, match="file cannot be opened"):
        use(f"sqlite:///{tmp_path}/missing/gateway.db")


def test_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    path.write_bytes(b"this is no database, however long it may be" * 100)
    with pytest.raises(Unavailable, match="damaged"):
        upgrade(f"sqlite:///{path}")


def test_wrong_sql_is_a_bug_and_not_an_outage(store: SqlStore) -> None:
    with (
        pytest.raises(Exception, match="nowhere") as caught,
        outages_as_unavailable(),
        store._writing.begin() as connection,
    ):
        connection.execute(text("SELECT * FROM nowhere"))
    assert not isinstance(caught.value, Unavailable)


def test_a_server_that_is_away_is_a_sentence_without_secrets() -> None:
    store = SqlStore(f"postgresql://gw:hunter2@127.0.0.1:{free_port()}/gw")
    for work in (store.begin, store.read):
        with pytest.raises(Unavailable, match="cannot be reached") as caught:
            work().__enter__()
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    store.close()


def test_a_refused_login_is_a_sentence_without_secrets(postgres_server: PostgresServer) -> None:
    store = SqlStore(postgres_server.url(user="postgres", password="hunter2"))
    with pytest.raises(Unavailable, match="cannot be reached") as caught, store.begin():
        pass
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_values_stay_out_of_errors(store: SqlStore) -> None:
    with pytest.raises(Exception, match=r"(?i)unique") as caught, store.begin() as uow:
        uow.gateways.beat("gw-a", T0)
        for _ in range(2):
            uow.credentials.add(SECRETIVE)
    assert "swordfish" not in "".join(traceback.format_exception(caught.value))


def test_a_connection_that_breaks_in_the_middle_is_a_sentence_and_the_next_works(
    postgres_server: PostgresServer, postgres_store_url: str
) -> None:
    store = SqlStore(postgres_store_url)
    with pytest.raises(Unavailable, match="cannot be reached"), store.begin() as uow:
        uow.users.upsert(ONCALL)
        _cut_off(postgres_server, postgres_store_url)
        uow.users.all()
    with store.read() as uow:
        assert uow.users.all() == []
    _write(store)
    store.close()


def test_a_connection_that_breaks_while_saving_does_not_claim_to_know(
    postgres_server: PostgresServer, postgres_store_url: str
) -> None:
    store = SqlStore(postgres_store_url)
    with pytest.raises(Unavailable, match="may or may not have been done"), store.begin() as uow:
        uow.users.upsert(ONCALL)
        _cut_off(postgres_server, postgres_store_url)
    store.close()


def test_a_writer_lock_that_is_never_given_back_is_a_sentence(postgres_store_url: str) -> None:
    store = SqlStore(postgres_store_url)
    with store._writing.begin() as connection:
        connection.exec_driver_sql("SET lock_timeout = '50ms'")
    stuck = SqlStore(postgres_store_url)
    with stuck.begin() as holder:
        holder.users.upsert(ONCALL)
        with pytest.raises(Unavailable, match="busy"):
            _write(store)
    _write(store)
    store.close()
    stuck.close()


def _cut_off(server: PostgresServer, url: str) -> None:
    database = url.rpartition("/")[2]
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (database,)
        )


def test_an_operational_error_of_our_own_making_passes() -> None:
    wrong = sqlite3.OperationalError("no such column")
    wrong.sqlite_errorcode = 1
    with pytest.raises(OperationalError), outages_as_unavailable():
        raise OperationalError("SELECT x", {}, wrong)
