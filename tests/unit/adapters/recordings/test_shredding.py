"""A recording that was destroyed on purpose is nowhere below the recordings directory any more."""

import gzip
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.adapters.recordings import FileRecorder, StatementIndex, index_tables, shredding
from gateway.app.replay_session import RecordingLocked, RecordingShredded
from gateway.app.shred_session import ShredFailed
from gateway.core.obligation import Record
from tests.unit.adapters.recordings.stage import AT, PATIENCE, eventually, is_sealed, keyring, nothing, session
from tests.unit.adapters.recordings.test_index import record, told

SECRET = "select zqj_ohmigod from customers"
SHARED = "select 1"
OFTEN = timedelta(milliseconds=5)


def recorder_of(directory: Path, made: StatementIndex, gateway: str = "gw1") -> FileRecorder:
    return FileRecorder(directory, gateway, keyring(directory), index=made, evidence_every=OFTEN)


def recorded(recorder: FileRecorder, name: str, *sqls: str, seals: bool = True) -> None:
    recording = recorder.open(session(name), Record.REQUIRE, nothing)
    for n, sql in enumerate(sqls):
        recording.append("statement", AT, b'{"n": %d, "sql": "%s"}' % (n, sql.encode()))
    recording.wait_durable(0, PATIENCE)
    if seals:
        recording.seal()
        eventually(is_sealed(recorder, name))


@pytest.fixture
def index(tmp_path: Path) -> Iterator[StatementIndex]:
    made = StatementIndex(tmp_path / "statements.sqlite")
    yield made
    made.close()


@pytest.fixture
def recorder(tmp_path: Path, index: StatementIndex) -> Iterator[FileRecorder]:
    made = recorder_of(tmp_path, index)
    recorded(made, "ses_0", SHARED, seals=False)  # goes on: the spool stays
    recorded(made, "ses_1", SECRET, SHARED)
    recorded(made, "ses_2", SHARED)
    eventually(lambda: len(told(index)) == 4)
    yield made
    made.close()


def everything(directory: Path) -> bytes:
    """As it lies on the disk, what is packed unpacked."""
    found = [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
    return b"".join(gzip.decompress(each) if each.startswith(b"\x1f\x8b") else each for each in found)


def test_no_key_and_no_statement_of_it_is_left(tmp_path: Path, recorder: FileRecorder, index: StatementIndex):
    key = tmp_path / "keys" / "ses_1.key"
    wrapped = key.read_bytes()
    before = everything(tmp_path)
    assert before.count(wrapped) > 1, "the spool has it, too"
    assert before.count(b"zqj") > before.count(SECRET.encode()) > 0, "as a word, too"
    assert recorder.can_shred("ses_1")
    recorder.shred("ses_1")
    after = everything(tmp_path)
    assert wrapped not in after
    assert b"zqj" not in after, "not even a piece of it, in the index of words"
    assert key.read_bytes() == bytes(len(wrapped))
    with pytest.raises(RecordingShredded):
        list(recorder.read("ses_1"))
    assert told(index, text="ohmigod") == told(index, session="ses_1") == []
    assert told(index, text=SHARED) == [SHARED, SHARED], "of the others"
    assert index.behind() == frozenset()
    assert [f.kind for f in recorder.read("ses_2")] == [f.kind for f in recorder.read("ses_0")]


def test_again_is_harmless(recorder: FileRecorder):
    for _ in range(2):
        assert recorder.can_shred("ses_1")
        recorder.shred("ses_1")


def test_what_is_not_put_away_is_not_shredded(tmp_path: Path, recorder: FileRecorder, index: StatementIndex):
    assert not recorder.can_shred("ses_0")
    assert not recorder.can_shred("ses_404")
    key = tmp_path / "keys" / "ses_0.key"
    key.write_bytes(recorder._lanes["ses_0"].key.wrapped)
    other = recorder_of(tmp_path, index, "gw2")
    assert not other.can_shred("ses_0")


def test_a_file_that_was_moved_away_is_shredded_by_its_key(tmp_path: Path, index: StatementIndex):
    recorder = recorder_of(tmp_path, index)
    recorded(recorder, "ses_1", SECRET)
    recorder.close()
    [file] = (tmp_path / "sealed").rglob("*.gwrec")
    file.rename(tmp_path / "worm.gwrec")
    recorder = recorder_of(tmp_path, index)
    assert recorder.can_shred("ses_1")
    recorder.shred("ses_1")
    file.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "worm.gwrec").rename(file)
    with pytest.raises(RecordingShredded):
        list(recorder.read("ses_1"))


def test_a_start_takes_a_shredded_recording_in_a_spool_for_no_damage(
    tmp_path: Path, index: StatementIndex, caplog: pytest.LogCaptureFixture
):
    """The process was killed, so its spool is recovered; and what shredded the recording was another."""
    recorder = recorder_of(tmp_path, index)
    recorded(recorder, "ses_0", SHARED, seals=False)
    recorded(recorder, "ses_1", SECRET)
    eventually(lambda: len(told(index)) == 2)
    recorder._lock.release()  # type: ignore[union-attr]
    recorder._lock = None
    other = recorder_of(tmp_path, index, "gw2")
    other.shred("ses_1")
    reborn = recorder_of(tmp_path, index)
    assert {name: count for name, count, _ in reborn.recover()} == {"ses_0": 2, "ses_1": 0}
    assert not list((tmp_path / "spool").glob("*.damaged"))
    assert caplog.records == []
    assert told(index) == [SHARED]
    assert index.behind() == frozenset()
    reborn.close()


def test_an_index_takes_nothing_more_in_of_it(index: StatementIndex):
    index.feed([record("statement", n=1, sql=SECRET)])
    index.store_fed()
    index.feed([record("statement", n=2, sql=SECRET)])  # waits in this process
    index.forget("ses_1")
    index.store_fed()
    assert told(index) == []
    other = ("ses_2", *record("statement", n=1, sql=SECRET)[1:])
    index.feed([other])
    assert told(index) == [SECRET]


def test_what_another_process_took_away_is_not_taken_for_known(tmp_path: Path, index: StatementIndex):
    index.feed([record("statement", n=1, sql=SECRET)])
    index.store_fed()
    with closing(StatementIndex(tmp_path / "statements.sqlite")) as other:
        other.forget("ses_1")
    index.feed([("ses_2", *record("statement", n=1, sql=SECRET)[1:])])
    assert told(index) == [SECRET]


def test_an_index_without_words_forgets_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(index_tables, "_SEARCHABLE", "CREATE VIRTUAL TABLE words USING nothing_of_that_name")
    with closing(StatementIndex(tmp_path / "statements.sqlite")) as made:
        made.feed([record("statement", n=1, sql=SECRET)])
        assert told(made) == [SECRET]
        made.forget("ses_1")
    assert b"ohmigod" not in everything(tmp_path)


def test_what_fails_is_told_and_can_be_done_again(tmp_path: Path, recorder: FileRecorder, index: StatementIndex):
    with closing(sqlite3.connect(tmp_path / "statements.sqlite")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM texts").fetchall()
        index._database.execute("PRAGMA busy_timeout = 1")  # type: ignore[union-attr]
        with pytest.raises(ShredFailed, match="its key is destroyed, but its statements"):
            recorder.shred("ses_1")
    with pytest.raises(RecordingLocked):
        list(recorder.read("ses_1"))
    recorder.shred("ses_1")
    assert b"ohmigod" not in everything(tmp_path)
    (tmp_path / "keys").rename(tmp_path / "elsewhere")
    with pytest.raises(ShredFailed, match="key cannot be overwritten"):
        recorder.shred("ses_2")


def test_a_key_is_found_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shredding, "CHUNK", 100)
    wrapped = bytes(range(1, 69))
    for start in range(0, 300, 7):
        (tmp_path / "spool-a-00000001.gwspool").write_bytes(b"x" * start + wrapped + b"y" * 50 + wrapped)
        key = tmp_path / "key"
        key.write_bytes(wrapped)
        assert shredding.is_in_spool(key, tmp_path)
        shredding.overwrite_key(key, tmp_path)
        after = (tmp_path / "spool-a-00000001.gwspool").read_bytes()
        assert after == b"x" * start + bytes(68) + b"y" * 50 + bytes(68)
        assert not shredding.is_in_spool(key, tmp_path)


def test_a_spool_that_is_called_damaged_meanwhile_is_overwritten_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    key, kept, wrapped = tmp_path / "ses_1.key", tmp_path / "spool-gw1-00000001.damaged", b"k" * 68
    key.write_bytes(wrapped)
    kept.write_bytes(b"head" + wrapped)
    monkeypatch.setattr(shredding, "_spools", lambda _: [kept.with_suffix(".gwspool")])  # as it was a moment ago
    shredding.overwrite_key(key, tmp_path)
    assert wrapped not in kept.read_bytes()
