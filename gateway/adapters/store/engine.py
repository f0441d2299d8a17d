"""Connections to the two databases that can hold the gateway's state, with the same promises on both.

A writing transaction is alone: SQLite by BEGIN IMMEDIATE, PostgreSQL by one advisory lock that is taken first and
kept to the end. Use cases read, judge and write in one transaction, so both databases must keep other writers out
from the first read on. PostgreSQL's SERIALIZABLE would promise the same, but by failing transactions that only their
callers could repeat, and it turns "somebody was faster" (a value, `False`) into an error; row locks cannot cover rows
that do not exist yet. What the gateway writes comes at the pace of people and sessions, so one writer at a time is
cheap, and READ COMMITTED under the lock sees everything that was committed before.

A reading transaction sees one state of the database (a WAL snapshot, REPEATABLE READ) on connections that refuse to
write.
"""

import os
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

WAIT_SECONDS = 10  # for a lock, a pooled connection or a server's answer
# One number for every gateway on this database; "gw" and a serial in ASCII.
WRITER_LOCK = 0x6777_0001
MIGRATION_LOCK = 0x6777_0002
_READERS = 8
_POLL_SECONDS = 0.0005  # between two tries to begin
_POSTGRES_WRITERS = 4
_POSTGRES_NAMES = ("postgres", "postgresql", "postgresql+psycopg")


def writing_engine(url: str) -> Engine:
    """An engine whose every transaction may write and is alone; ValueError for a URL that names no usable database."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(sqlite_path(parsed), read_only=False)
    return _postgres_engine(parsed, read_only=False)


def reading_engine(url: str) -> Engine:
    """An engine whose every transaction is one consistent view and cannot write; ValueError as `writing_engine`."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(sqlite_path(parsed), read_only=True)
    return _postgres_engine(parsed, read_only=True)


def parse_url(url: str) -> URL:
    """`sqlite:///path` or `postgresql://…` as a URL with its driver; ValueError, never quoting the URL, otherwise."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The text may hold a password, so neither it nor the cause is repeated.
        raise ValueError("the database URL cannot be read; use sqlite:///path or postgresql://host/name") from None
    if parsed.drivername in _POSTGRES_NAMES:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername != "sqlite":
        raise ValueError(f"no store for {parsed.get_backend_name()!r}; use sqlite:///path or postgresql://host/name")
    if not parsed.database or parsed.database == ":memory:" or parsed.query:
        raise ValueError("SQLite takes sqlite:///path with a file and no options")
    return parsed


def sqlite_path(url: URL) -> Path:
    """The file of a parsed SQLite URL, absolute."""
    return Path(str(url.database)).absolute()


# ---------------------------------------------------------------- SQLite


def _sqlite_engine(path: Path, *, read_only: bool) -> Engine:
    engine = create_engine(
        "sqlite://",
        creator=lambda: open_sqlite(path, read_only=True) if read_only else _open_writer(path),
        poolclass=QueuePool,
        # Writers queue for the one connection, first come first served, instead of polling for SQLite's lock.
        pool_size=_READERS if read_only else 1,
        max_overflow=0,
        pool_timeout=WAIT_SECONDS,
        hide_parameters=True,
    )
    event.listen(engine, "begin", _begin_deferred if read_only else _begin_immediate)
    return engine


def open_sqlite(path: Path, *, read_only: bool, wait_seconds: float = WAIT_SECONDS) -> sqlite3.Connection:
    """One connection in autocommit mode, so that BEGIN is ours. The file is private (0600) from its first byte."""
    if not read_only and not path.exists():
        # INVARIANT: nothing but SQLite opens the file once it exists. Closing any other descriptor of it drops this
        # process's POSIX locks (https://www.sqlite.org/howtocorrupt.html §2.2), and the next reader takes the WAL away.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={'ro' if read_only else 'rw'}",
        uri=True,
        timeout=wait_seconds,
        isolation_level=None,
        check_same_thread=False,  # the pool lends it to one thread at a time
    )
    try:
        for pragma in _pragmas(read_only=read_only):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _pragmas(*, read_only: bool) -> tuple[str, ...]:
    if read_only:
        return ("query_only = ON",)
    # In WAL mode NORMAL may forget acknowledged commits at power loss, https://www.sqlite.org/pragma.html#pragma_synchronous
    return ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "journal_size_limit = 67108864")


def _open_writer(path: Path) -> sqlite3.Connection:
    """Nothing on it waits inside SQLite: whoever holds the lock, `_begin_immediate` does the waiting."""
    connection = open_sqlite(path, read_only=False)
    connection.execute("PRAGMA busy_timeout = 0").close()
    return connection


def _begin_immediate(connection: Connection) -> None:
    """Begin as soon as another process lets go. SQLite's own waiting sleeps up to 100 ms at a time, however short the
    other transaction is (`sqliteDefaultBusyCallback` in its main.c), so that two workers write no more than one.

    INVARIANT: a lock that is taken leaves no garbage behind. SQLAlchemy's exceptions are cycles that hold frames, and
    with them cursors; the collector would reset those in any thread, which waits for the connection's own mutex and
    overwrites its last error, so that a BEGIN that failed would pass for one that worked.
    """
    until = time.monotonic() + WAIT_SECONDS
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    while (code := _tried(driver)) != sqlite3.SQLITE_OK:
        if code != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # the last try tells why not
            return
        time.sleep(_POLL_SECONDS)


def _tried(driver: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> int:
    """SQLITE_OK once a transaction has begun, else SQLite's primary code for why not."""
    try:
        driver.execute(begin).close()
    except sqlite3.Error as error:
        return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    return sqlite3.SQLITE_OK if driver.in_transaction else sqlite3.SQLITE_BUSY


def _begin_deferred(connection: Connection) -> None:
    """On the driver itself: each connection through a door begins some of these."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    if _tried(driver, "BEGIN DEFERRED") != sqlite3.SQLITE_OK:
        connection.exec_driver_sql("BEGIN DEFERRED")  # tells why not


# ---------------------------------------------------------------- PostgreSQL


def _postgres_engine(url: URL, *, read_only: bool) -> Engine:
    engine = create_engine(
        url,
        connect_args=_postgres_arguments(url, read_only=read_only),
        isolation_level="REPEATABLE READ" if read_only else "READ COMMITTED",
        pool_size=_READERS if read_only else _POSTGRES_WRITERS,
        max_overflow=0,
        pool_timeout=WAIT_SECONDS,
        pool_pre_ping=True,  # a server that restarted costs nobody a failure
        hide_parameters=True,
    )
    if not read_only:
        event.listen(engine, "begin", _take_writer_lock)
    return engine


def _postgres_arguments(url: URL, *, read_only: bool) -> dict[str, str | int]:
    settings = {
        "TimeZone": "UTC",
        "lock_timeout": f"{WAIT_SECONDS}s",
        "statement_timeout": "30s",
        # A gateway that stops in the middle of a transaction must not keep the others from writing.
        "idle_in_transaction_session_timeout": "30s",
        "default_transaction_read_only": "on" if read_only else "off",
        "synchronous_commit": "on",
    }
    given = url.query.get("options", "")
    options = [given if isinstance(given, str) else " ".join(given)]
    options += [f"-c {name}={value}" for name, value in settings.items()]
    return {
        "options": " ".join(options).strip(),
        "connect_timeout": WAIT_SECONDS,
        "application_name": "gateway",
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }


def _take_writer_lock(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")
