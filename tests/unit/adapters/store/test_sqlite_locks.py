"""Other programs that look at the database must not cost the gateway its locks, and with them its WAL."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
