import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.adapters.store import SqlStore
from gateway.core.principal import User

_WRITER = """
import sys
from gateway.adapters.store import SqlStore
from gateway.core.principal import User

store = SqlStore(sys.argv[1])
for number in range(int(sys.argv[2]), 1_000_000):
    with store.begin() as uow:
        uow.users.upsert(User(f"usr_{number}", "issuer", str(number), f"name-{number}", "x" * 500))
    print(number, flush=True)  # the acknowledgement
"""


@pytest.mark.parametrize("seed", range(4))
def test_what_was_acknowledged_survives_sigkill(store: SqlStore, store_url: str, seed: int) -> None:
    chance = random.Random(seed)
    acknowledged: list[int] = []
    for first in (0, 100_000):
        acknowledged += _acknowledged_before_sigkill(store_url, first, chance.randrange(5, 60))
    with store.read() as uow:
        stored = {int(user.subject) for user in uow.users.all()}
    assert acknowledged
    assert stored.issuperset(acknowledged)
    assert len(stored - set(acknowledged)) <= 2  # at most the commit in flight at each kill
    if store_url.startswith("sqlite"):
        with sqlite3.connect(store_url.removeprefix("sqlite:///")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
    with store.begin() as uow:  # and the dead writer blocks nobody
        uow.users.upsert(User("usr_after", "issuer", "999999", "after"))


def _acknowledged_before_sigkill(url: str, first: int, kill_after: int) -> list[int]:
    said: list[int] = []
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, url, str(first)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    with writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            said.append(int(line))
            if len(said) == kill_after:
                writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    return said


def test_the_file_and_its_companions_are_private(sqlite_store: SqlStore, sqlite_store_url: str, tmp_path: Path) -> None:
    Path(sqlite_store_url.removeprefix("sqlite:///")).unlink()
    fresh = tmp_path / "fresh.db"
    previous = os.umask(0)
    try:
        from gateway.adapters.store import upgrade

        upgrade(f"sqlite:///{fresh}")
        store = SqlStore(f"sqlite:///{fresh}")
        with store.begin() as uow:
            uow.users.upsert(User("usr_1", "issuer", "1", "one"))
        files = sorted(tmp_path.glob("fresh.db*"))
        assert len(files) == 3  # with its log and the log's index
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        store.close()
    finally:
        os.umask(previous)


def test_sqlite_syncs_every_commit(sqlite_store: SqlStore) -> None:
    with sqlite_store._writing.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
