"""An index that was deleted, or cannot be read, is made anew from the recordings by a gateway that starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.adapters.recordings import FileRecorder, StatementIndex
from gateway.adapters.recordings.late_index import LateIndex
from gateway.app.search_statements import IndexUnreadable, StatementQuery
from gateway.core.obligation import Record
from gateway.core.session import Protocol
from tests.unit.adapters.recordings.stage import AT, eventually, is_sealed, keyring, nothing, session
from tests.unit.adapters.recordings.test_index import told

ALL = frozenset({"ses_1", "ses_2", "ses_3"})
LEFT = ["select 1", "select 2"]  # of the third nothing is left


@contextmanager
def gateway(directory: Path, name: str = "gw1") -> Iterator[tuple[FileRecorder, StatementIndex]]:
    made = StatementIndex(directory / "statements.sqlite")
    recorder = FileRecorder(directory, name, keyring(directory), index=made, evidence_every=timedelta(milliseconds=5))
    yield recorder, made
    recorder.close(timedelta(seconds=5))
    made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of an index of three sessions, one of which was shredded."""
    with gateway(tmp_path) as (recorder, made):
        for n in (1, 2, 3):
            record(recorder, f"ses_{n}", f"select {n}")
        eventually(lambda: len(told(made)) == 3)
        recorder.shred("ses_3")
    return tmp_path / "statements.sqlite"


def record(recorder: FileRecorder, name: str, sql: str) -> None:
    recording = recorder.open(session(name), Record.REQUIRE, nothing)
    recording.append("statement", AT, b'{"n": 1, "sql": "%s"}' % sql.encode())
    recording.seal()
    eventually(is_sealed(recorder, name))


def delete(path: Path) -> None:
    for file in path.parent.glob("statements.sqlite*"):
        file.unlink()


def damage_all(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def damage_the_rest(path: Path) -> None:
    """Its schema can still be read."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


@pytest.mark.parametrize("harm", [delete, damage_all])
def test_it_is_made_anew_at_the_start_and_who_searches_is_told(
    path: Path, harm: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    harm(path)  # type: ignore[operator]
    with monkeypatch.context() as dies:
        dies.setattr(LateIndex, "add", lambda *_: None)  # the process ends before it has begun
        with gateway(path.parent) as (recorder, made):
            recorder.recover()
            assert told(made) == []
            assert made.behind() == ALL
    assert "made from 3 recordings in the background" in caplog.text
    with gateway(path.parent) as (recorder, made):
        recorder.recover()
        eventually(lambda: made.behind() == frozenset())
        assert sorted(told(made)) == LEFT
        record(recorder, "ses_4", "select 4")
        eventually(lambda: sorted(told(made)) == [*LEFT, "select 4"])
        assert made.left_behind() == []
    assert caplog.text.count("in the background") == 1, "once"
    assert path.stat().st_mode & 0o777 == 0o600


def test_damage_that_is_found_later_is_mended_at_the_next_start(path: Path, caplog: pytest.LogCaptureFixture):
    damage_the_rest(path)
    with gateway(path.parent) as (recorder, made):
        recorder.recover()
        with pytest.raises(IndexUnreadable):
            made.search(StatementQuery())
        record(recorder, "ses_4", "select 4")
    assert "made anew when the gateway starts again" in caplog.text
    with gateway(path.parent) as (recorder, made):
        recorder.recover()
        eventually(lambda: sorted(told(made)) == [*LEFT, "select 4"])
        assert made.behind() == frozenset()
    with gateway(path.parent) as (_, made):
        assert len(told(made)) == 3


def test_an_index_that_is_whole_is_left_as_it_is(path: Path, caplog: pytest.LogCaptureFixture):
    with gateway(path.parent) as (recorder, made):
        recorder.recover()
        assert made.behind() == frozenset()
        assert sorted(told(made)) == LEFT
    assert caplog.text == ""


def test_it_is_not_taken_away_under_another_process(path: Path):
    with gateway(path.parent) as (_, other):
        assert sorted(told(other)) == LEFT
        damage = path.with_name("statements.sqlite.damaged")
        damage.touch()
        with gateway(path.parent, "gw2") as (recorder, made):
            recorder.recover()
            assert sorted(told(made)) == LEFT
        assert damage.exists()
    with gateway(path.parent, "gw2") as (recorder, made):
        recorder.recover()
        assert not damage.exists()
        eventually(lambda: sorted(told(made)) == LEFT)


def test_what_another_process_has_made_up_is_not_made_up_again(path: Path, monkeypatch: pytest.MonkeyPatch):
    rebuilt: list[str] = []
    real = StatementIndex.rebuild_session

    def rebuild(self: StatementIndex, session_id: str, frames: object) -> None:
        rebuilt.append(session_id)
        real(self, session_id, frames)  # type: ignore[arg-type]

    monkeypatch.setattr(StatementIndex, "rebuild_session", rebuild)
    delete(path)
    waiting: list[tuple[LateIndex, str]] = []
    with gateway(path.parent) as (recorder, made):
        with monkeypatch.context() as held:
            held.setattr(LateIndex, "add", lambda *args: waiting.append(args))
            recorder.recover()
        with gateway(path.parent, "gw2") as (other, theirs):
            other.recover()
            eventually(lambda: theirs.behind() == frozenset())
        assert made.behind() == ALL
        for late, name in waiting:
            late.add(name)
        eventually(lambda: made.behind() == frozenset())
    assert sorted(rebuilt) == sorted(ALL)


def test_of_a_session_on_a_server_only_the_first_record_is_read(path: Path):
    with gateway(path.parent) as (recorder, _):
        shell = replace(session("ses_5"), protocol=Protocol.SSH)
        recording = recorder.open(shell, Record.REQUIRE, nothing)
        for _ in range(5):
            recording.append("statement", AT, b'{"n": 1, "sql": "is none"}')
        recording.seal()
        eventually(is_sealed(recorder, "ses_5"))
    delete(path)
    with gateway(path.parent) as (recorder, made):
        recorder.recover()
        eventually(lambda: made.behind() == frozenset())
        assert told(made, session="ses_5") == []
