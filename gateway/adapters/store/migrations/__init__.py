"""Bringing a database to the present schema. Safe when several gateways start at once: one migrates, the others wait
and find it done.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from gateway.adapters.store.engine import MIGRATION_LOCK, open_sqlite, parse_url, sqlite_path
from gateway.adapters.store.failures import outages_as_unavailable
from gateway.core.errors import Refusal, Unavailable

WAIT_SECONDS = 60  # for another gateway's migration


def upgrade(url: str) -> None:
    """Migrate the database to the newest schema, in one transaction: all of it or nothing.

    Unavailable when the database does not answer, or was written by a newer gateway; ValueError for a wrong URL.
    """
    engine = _migration_engine(url)
    try:
        with outages_as_unavailable(), engine.begin() as connection:
            command.upgrade(configuration(connection), "head")
    except CommandError as error:
        sentence = "The gateway's database was written by a newer gateway. Start that version, or restore a backup."
        raise Unavailable(Refusal("store-newer", sentence, ("the newer gateway",))) from error
    finally:
        engine.dispose()


def configuration(connection: Connection) -> Config:
    """Alembic's settings for a connection whose transaction has begun."""
    config = Config()
    # configparser would take a % in the path for an interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _migration_engine(url: str) -> Engine:
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = sqlite_path(parsed)
        engine = create_engine(
            "sqlite://",
            creator=lambda: open_sqlite(path, read_only=False, wait_seconds=WAIT_SECONDS),
            poolclass=NullPool,
            hide_parameters=True,
        )
        event.listen(engine, "begin", _begin_exclusive)
        return engine
    options = f"-c lock_timeout={WAIT_SECONDS}s -c TimeZone=UTC"
    arguments = {"options": options, "connect_timeout": 10, "application_name": "gateway-migration"}
    engine = create_engine(parsed, connect_args=arguments, poolclass=NullPool, hide_parameters=True)
    event.listen(engine, "begin", _take_migration_lock)
    return engine


def _begin_exclusive(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN EXCLUSIVE")


def _take_migration_lock(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
