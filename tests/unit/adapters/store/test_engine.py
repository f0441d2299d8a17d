from collections.abc import Callable, Sized
from pathlib import Path

import pytest
from sqlalchemy import event, text

from gateway.adapters.store import ReadOnlyDatabase, SqlStore
from gateway.adapters.store.columns import clean_text
from gateway.adapters.store.engine import parse_url, sqlite_path
from gateway.adapters.store.failures import WroteWhileReadingError
from gateway.adapters.store.tables import SESSIONS
from gateway.app.session_ports import Sessions
from tests.contract.store_values import fill


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgres_by_any_of_its_names(scheme: str) -> None:
    assert parse_url(f"{scheme}://gw:x@db/gw").drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///x?mode=memory",
        "mysql://gw:hunter2@db/gw",
        "postgresql+asyncpg://gw:hunter2@db/gw",
        "postgresql://gw:hunter2@db:port/gw",
    ],
)
def test_a_url_that_names_no_store_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"sqlite:///path") as caught:
        SqlStore(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_relative_file_is_pinned_when_the_store_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sqlite_path(parse_url("sqlite:///gateway.db")) == tmp_path / "gateway.db"


@pytest.mark.parametrize(
    "ask", [lambda sessions: sessions.live_views("gw-a"), lambda sessions: sessions.live_marks("gw-a")]
)
def test_live_views_are_one_query_over_the_index_of_live_sessions(
    sqlite_store: SqlStore, ask: Callable[[Sessions], Sized]
) -> None:
    fill(sqlite_store)
    asked: list[str] = []
    event.listen(sqlite_store._reading, "before_cursor_execute", lambda *a: asked.append(a[2]))
    with sqlite_store.read() as uow:
        assert len(ask(uow.sessions)) == 1
    (query,) = [statement for statement in asked if not statement.startswith("BEGIN")]
    with sqlite_store._reading.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", ("gw-a",)).all()
    steps = [row[3] for row in plan]
    assert any("USING INDEX ix_sessions_live" in step for step in steps)
    assert not any(step.startswith("SCAN") for step in steps)


def test_the_read_only_handle_selects_and_nothing_else(store: SqlStore, store_url: str) -> None:
    fill(store)
    database = ReadOnlyDatabase(store_url)
    with database.view() as connection:
        assert len(connection.execute(SESSIONS.select()).all()) == 1
    for statement in ("DELETE FROM sessions", "CREATE TABLE x (id integer)", "UPDATE users SET name = 'x'"):
        with pytest.raises(WroteWhileReadingError), database.view() as connection:
            connection.execute(text(statement))
    database.close()
    with store.read() as uow:
        assert len(uow.sessions.list()) == 1


@pytest.mark.parametrize(
    ("text", "clean"),
    [("", ""), ("plain", "plain"), ("naïve \N{SNOWMAN}", "naïve \N{SNOWMAN}"), ("a\0b", "a\ufffdb"), ("😀", "😀")],
)
def test_only_what_no_database_holds_is_replaced(text: str, clean: str) -> None:
    assert clean_text(text) == clean


def test_a_lone_surrogate_is_replaced() -> None:
    assert "\ufffd" in clean_text("a\ud800b")
    clean_text("a\ud800b").encode()
