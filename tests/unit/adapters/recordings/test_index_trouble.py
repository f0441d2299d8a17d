"""An index that cannot be written for a while lacks nothing afterwards, without a restart and with one."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest

from gateway.adapters.recordings import FileRecorder, StatementIndex, late_index
from gateway.adapters.recordings import recorder as recorder_module
from gateway.app.search_statements import StatementQuery
from gateway.core.obligation import Record
from tests.unit.adapters.recordings.stage import AT, PATIENCE, eventually, is_sealed, keyring, nothing, session

OFTEN, NEVER = timedelta(milliseconds=5), timedelta(hours=1)


class Failing(StatementIndex):
    """The real one, on a disk that is full for a while; or its process dies when it is to make up something."""

    is_full = False
    failures = 0
    dies = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.rebuilt: list[str] = []

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self.is_full:
            self.failures += 1
            raise sqlite3.OperationalError("database or disk is full")
        with super()._transaction() as database:
            yield database

    def rebuild_session(self, session_id: str, frames: Iterable[object]) -> None:
        if self.dies:
            raise Dies
        self.rebuilt.append(session_id)
        super().rebuild_session(session_id, frames)  # type: ignore[arg-type]


class Dies(BaseException):
    pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Failing]:
    made = Failing(tmp_path / "statements.sqlite")
    yield made
    made.close()


def opened(directory: Path, made: StatementIndex, every: timedelta) -> FileRecorder:
    return FileRecorder(directory, "gw1", keyring(directory), index=made, evidence_every=every)


def found(made: StatementIndex, session_id: str) -> int:
    return len(made.search(StatementQuery(session=session_id)))


def record(recorder: FileRecorder, session_id: str = "ses_1", sql: str = "select 1") -> None:
    recording = recorder.open(session(session_id), Record.REQUIRE, nothing)
    for n in range(20):
        seq = recording.append("statement", AT, json.dumps({"n": n, "sql": sql}).encode())
    recording.wait_durable(seq, PATIENCE)
    recording.seal()
    eventually(is_sealed(recorder, session_id))


def test_what_could_not_be_written_is_made_up_by_the_living_process(
    tmp_path: Path, index: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_index, "AGAIN_S", (0.01,))
    monkeypatch.setattr(recorder_module, "RETRY", 0.02)
    recorder = opened(tmp_path, index, OFTEN)
    recorder.open(session("ses_0"), Record.REQUIRE, nothing)  # it goes on
    index.is_full = True
    record(recorder)
    eventually(lambda: index.failures > 5)
    assert "ses_1" in index.behind(), "whoever searches is told"
    index.is_full = False
    eventually(lambda: index.behind() <= {"ses_0"})
    assert found(index, "ses_1") == 20
    recorder.close()
    assert index.left_behind() == []


def test_what_no_index_can_hold_is_tried_once_more_and_not_again(
    tmp_path: Path, index: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_index, "AGAIN_S", (0.01,))
    monkeypatch.setattr(recorder_module, "RETRY", 0.02)
    recorder = opened(tmp_path, index, OFTEN)
    record(recorder, sql="\ud800")
    record(recorder, "ses_2")
    eventually(lambda: found(index, "ses_2") == 20)
    for name in ("ses_3", "ses_4", "ses_5"):
        record(recorder, name)
        eventually(lambda name=name: found(index, name) == 20)  # type: ignore[misc]
    recorder.close()
    assert index.rebuilt.count("ses_1") == 1
    assert index.left_behind() == ["ses_1"]


def test_what_is_still_to_be_made_up_at_the_end_is_made_up_after_the_next_start(tmp_path: Path, index: Failing) -> None:
    recorder = opened(tmp_path, index, OFTEN)
    recorder.open(session("ses_0"), Record.REQUIRE, nothing)
    index.is_full = True
    record(recorder)
    eventually(lambda: "ses_1" in index.left_out())
    failures = index.failures
    eventually(lambda: index.failures > failures)  # it was tried
    index.is_full = False
    recorder.close()
    recorder = opened(tmp_path, index, OFTEN)
    recorder.recover()
    eventually(lambda: not index.behind())
    assert found(index, "ses_1") == 20
    recorder.close()


def test_a_process_that_dies_while_it_recovers_leaves_word_of_what_it_has_sealed(
    tmp_path: Path, index: Failing
) -> None:
    recorder = opened(tmp_path, index, NEVER)
    recording = recorder.open(session(), Record.REQUIRE, nothing)
    recording.wait_durable(recording.append("statement", AT, b'{"n": 1, "sql": "select 1"}'), PATIENCE)
    recorder.close()  # the session is not over, so it is not sealed
    index.close()
    for file in tmp_path.glob("statements.sqlite*"):
        file.unlink()
    index.dies = True
    recorder = opened(tmp_path, index, NEVER)
    with pytest.raises(Dies):
        recorder.recover()
    assert is_sealed(recorder, "ses_1")()
    recorder.close()
    with closing(StatementIndex(tmp_path / "statements.sqlite")) as reborn:
        recorder = opened(tmp_path, reborn, NEVER)
        assert recorder.recover() == []
        eventually(lambda: found(reborn, "ses_1") == 1)
        recorder.close()


def test_nothing_is_durable_for_others_before_the_index_has_it(tmp_path: Path) -> None:
    """Whoever seals a session asks the index what it has still to store."""

    class Slow(StatementIndex):
        free, has_come = Event(), Event()

        def feed(self, records: Iterable[tuple[str, str, bytes]]) -> None:
            some = list(records)
            if any(kind == "statement" for _, kind, _ in some):
                self.has_come.set()
                assert self.free.wait(PATIENCE.total_seconds())
            super().feed(some)

    made = Slow(tmp_path / "statements.sqlite")
    recorder = opened(tmp_path, made, NEVER)
    recording = recorder.open(session(), Record.REQUIRE, nothing)
    recording.append("statement", AT, b'{"n": 1, "sql": "select 1"}')
    assert made.has_come.wait(PATIENCE.total_seconds())
    assert recording.digest()[0] == 1
    made.free.set()
    recording.seal()
    eventually(is_sealed(recorder, "ses_1"))
    assert made.left_behind() == ["ses_1"], "until it is stored"
    recorder.close()
    made.close()
