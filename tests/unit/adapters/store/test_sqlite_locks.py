"""Other programs that look at the database must not cost the gateway its locks, and with them its WAL."""

import gc
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from gateway.adapters.store import SqlStore
from gateway.adapters.store.engine import _tried
from gateway.app import journal
from tests.servers import PostgresServer
from tests.unit.app.house import House, open_house


@pytest.fixture
def house(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[House]:
    with open_house(tmp_path, postgres_server) as made:
        yield made


LOOK = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT count(*) FROM users').fetchone(); c.close()"


def look_with_another_program(house: House, path: Path) -> None:
    """As `sqlite3 gateway.db 'SELECT …'`, a backup script or a monitoring agent does."""
    subprocess.run([sys.executable, "-c", LOOK, str(path)], check=True, timeout=30)


def test_another_program_that_reads_the_database_does_not_take_its_wal_away(house: House, tmp_path: Path):
    path = tmp_path / "house.db"
    journal.record(house.ctx, "gateway:started")
    look_with_another_program(house, path)
    assert path.with_name("house.db-wal").exists()
    assert path.with_name("house.db-shm").exists()


def test_what_was_committed_is_there_for_everybody_afterwards(house: House, tmp_path: Path):
    path = tmp_path / "house.db"
    look_with_another_program(house, path)
    for _ in range(20):
        last = journal.record(house.ctx, "gateway:started")  # acknowledged: no exception
    count = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM event WHERE id=?', (sys.argv[2],)).fetchone()[0])"
    found = subprocess.run([sys.executable, "-c", count, str(path), last], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "1"


def test_waiting_for_the_lock_leaves_no_cursor_to_the_collector(sqlite_store: SqlStore, sqlite_store_url: str):
    """It would reset it in another thread, in the middle of what this connection does then."""
    with sqlite_store.begin():  # whatever is made once is made
        pass
    other = sqlite3.connect(sqlite_store_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE").close()
    gc.collect()
    gc.disable()
    try:
        giving_back = Timer(0.1, lambda: other.execute("ROLLBACK").close())
        giving_back.start()
        with sqlite_store.begin() as uow:
            uow.users.all()
        giving_back.join()
        left = [each for each in gc.get_objects() if isinstance(each, sqlite3.Cursor)]
    finally:
        gc.enable()
        other.close()
    assert left == []


def test_nothing_on_the_writer_waits_inside_sqlite(sqlite_store: SqlStore):
    """It would hold the connection's mutex meanwhile."""
    with sqlite_store._writing.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 0


class Deaf(sqlite3.Connection):
    """As a driver whose error another thread has overwritten."""

    def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:
        return super().execute("SELECT 1" if sql.startswith("BEGIN") else sql, *more)


def test_a_transaction_that_did_not_begin_is_not_taken_for_one():
    """The statements that follow would be stored one by one."""
    with closing(sqlite3.connect(":memory:", isolation_level=None, factory=Deaf)) as deaf:
        assert _tried(deaf) == sqlite3.SQLITE_BUSY
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as sound:
        assert _tried(sound) == sqlite3.SQLITE_OK
