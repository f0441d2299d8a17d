import errno
import itertools
import stat
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread, current_thread

import pytest

from gateway.adapters.recordings import Disk, FileRecorder, SpoolLimits
from gateway.app.recording_ports import RecordingFailed
from gateway.audit.recording import MAX_PAYLOAD, BrokenRecordingError, joined, unix_ns, verify_chain
from gateway.core.obligation import Record
from tests.unit.adapters.recordings.stage import (
    AT,
    PATIENCE,
    FillingDisk,
    HeldDisk,
    eventually,
    is_sealed,
    keyring,
    nothing,
    sealed_path,
    session,
)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[FileRecorder]:
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path))
    yield recorder
    recorder.close()


def test_what_is_appended_is_durable_read_and_sealed(recorder: FileRecorder, tmp_path: Path):
    recording = recorder.open(session(), Record.REQUIRE, nothing)
    seq = [recording.append("out", AT, b"a"), recording.append("out", AT, b"b")]
    assert seq == [1, 2], "0 says whose session it is"
    recording.wait_durable(2, PATIENCE)
    live = [(f.seq, f.kind, f.payload) for f in recorder.read("ses_1")]
    assert live[1:] == [(1, "out", b"a"), (2, "out", b"b")]
    assert b'"target": "orders-db"' in live[0][2]
    count, digest = recording.digest()
    assert recording.seal() == (count, digest) == recording.seal()
    eventually(is_sealed(recorder, "ses_1"))
    assert [(f.seq, f.kind, f.payload) for f in recorder.read("ses_1")] == live
    verify_chain("ses_1", recorder.read("ses_1"), count, digest)
    assert recorder.sealed.digest("ses_1") == (count, digest)
    with pytest.raises(RecordingFailed):
        recording.append("out", AT, b"late")


def test_records_that_come_together_share_a_frame(recorder: FileRecorder):
    recording = recorder.open(session(), Record.REQUIRE, nothing)
    at_ns = unix_ns(AT)
    assert recording.append_all([("statement", at_ns, b"1"), ("result", at_ns + 5, b"2")]) == 1
    assert recording.append_all([("statement", at_ns + 6, b"3")]) == 2
    assert recording.append_all([]) == -1
    recording.wait_durable(2, PATIENCE)
    assert [f.kind for f in recorder.read("ses_1")] == ["session", "batch", "statement"]
    assert [(f.seq, f.kind, f.payload, f.at_ns - at_ns) for f in joined(recorder.read("ses_1"))][1:] == [
        (1, "statement", b"1", 0),
        (1, "result", b"2", 5),
        (2, "statement", b"3", 6),
    ]
    assert recording.seal()[0] == 3


def test_files_are_private(recorder: FileRecorder, tmp_path: Path):
    recorder.open(session(), Record.SPOOL, nothing).seal()
    eventually(is_sealed(recorder, "ses_1"))
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_large_record_is_split_and_joined(recorder: FileRecorder):
    recording = recorder.open(session(), Record.SPOOL, nothing)
    large = bytes(range(256)) * (MAX_PAYLOAD // 256 * 2 + 100)
    last = recording.append("out", AT, large)
    recording.wait_durable(last, PATIENCE)
    assert [f.payload for f in joined(recorder.read("ses_1"))][1] == large
    recording.seal()


def test_reading_begins_where_one_says(recorder: FileRecorder):
    recording = recorder.open(session(), Record.SPOOL, nothing)
    for n in range(5):
        recording.append("out", AT, b"%d" % n)
    recording.seal()
    assert [f.seq for f in recorder.read("ses_1", 3)] == [3, 4, 5]
    eventually(is_sealed(recorder, "ses_1"))
    assert [f.seq for f in recorder.read("ses_1", 3)] == [3, 4, 5]


def test_a_recording_that_is_not_there(recorder: FileRecorder):
    with pytest.raises(LookupError):
        list(recorder.read("ses_404"))
    with pytest.raises(LookupError):
        list(recorder.follow("ses_404"))
    for evil in ("../../etc/passwd", "", "a/b", "*"):
        with pytest.raises(ValueError, match="session id"):
            list(recorder.read(evil))


def test_news_comes_once_from_the_recorders_thread(recorder: FileRecorder):
    recording = recorder.open(session(), Record.SPOOL, nothing)
    told: list[tuple[bool, str]] = []
    come = Event()

    def news(ok: bool) -> None:
        told.append((ok, current_thread().name))
        come.set()

    recording.on_durable(recording.append("out", AT, b"x"), news)
    assert come.wait(20)
    recording.seal()
    assert told == [(True, "recording-writer")]
    recording.on_durable(0, news)
    recording.on_durable(99, news)
    assert [ok for ok, _ in told] == [True, True, False]


def test_a_callback_that_raises_stops_nobody(recorder: FileRecorder):
    recording = recorder.open(session(), Record.SPOOL, nothing)

    def closed_loop(ok: bool) -> None:
        raise RuntimeError("loop is closed")

    seq = recording.append("out", AT, b"x")
    recording.on_durable(seq, closed_loop)
    recording.wait_durable(recording.append("out", AT, b"y"), PATIENCE)


def test_many_records_share_a_sync(tmp_path: Path):
    disk = HeldDisk()
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), disk=disk)
    recordings = [recorder.open(session(f"ses_{n}"), Record.REQUIRE, nothing) for n in range(20)]
    before = disk.syncs
    disk.free.clear()
    last = [[r.append("out", AT, b"x") for _ in range(50)][-1] for r in recordings]
    disk.free.set()
    for recording, seq in zip(recordings, last, strict=True):
        recording.wait_durable(seq, PATIENCE)
    assert disk.syncs - before <= 3, "1000 records of 20 sessions"
    recorder.close()


def test_follow_gives_records_as_they_come_and_ends_with_the_session(recorder: FileRecorder):
    recording = recorder.open(session(), Record.REQUIRE, nothing)
    seen: list[bytes] = []
    first = Event()

    def watch() -> None:
        for frame in recorder.follow("ses_1", silence=timedelta(milliseconds=20)):
            if frame is None:
                first.set()
            else:
                seen.append(frame.payload)

    watcher = Thread(target=watch)
    watcher.start()
    assert first.wait(20), "silence is told"
    for n in range(100):
        recording.append("out", AT, b"%d" % n)
    eventually(lambda: len(seen) == 101)
    recording.append("out", AT, b"end")
    recording.seal()
    watcher.join(20)
    assert not watcher.is_alive()
    assert seen[1:] == [*(b"%d" % n for n in range(100)), b"end"]


def test_another_process_may_read_and_follow(recorder: FileRecorder, tmp_path: Path):
    recording = recorder.open(session(), Record.REQUIRE, nothing)
    recorder.open(session("ses_2"), Record.REQUIRE, nothing)
    recording.wait_durable(recording.append("out", AT, b"x"), PATIENCE)
    other = FileRecorder(tmp_path, "api", keyring(tmp_path))
    assert [f.payload for f in other.read("ses_1")][1:] == [b"x"]
    following = other.follow("ses_1", silence=timedelta(milliseconds=10))
    assert [next(following).seq for _ in range(2)] == [0, 1]  # type: ignore[union-attr]
    assert next(following) is None
    recording.append("out", AT, b"y")
    recording.seal()
    rest = [f.payload for f in following if f is not None]
    assert rest == [b"y"]


def test_segments_go_when_every_session_in_them_is_sealed(tmp_path: Path):
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), limits=SpoolLimits(segment_bytes=2000))
    long = recorder.open(session("ses_long"), Record.REQUIRE, nothing)
    for n in range(20):
        short = recorder.open(session(f"ses_{n}"), Record.REQUIRE, nothing)
        short.append("out", AT, bytes(500))
        long.wait_durable(long.append("out", AT, bytes(100)), PATIENCE)
        short.seal()
    assert len(list(tmp_path.glob("spool/*.gwspool"))) > 5
    assert len(list(recorder.read("ses_long"))) == 21
    count, digest = long.seal()
    eventually(lambda: len(list(tmp_path.glob("spool/*.gwspool"))) <= 1)
    verify_chain("ses_long", recorder.read("ses_long"), count, digest)
    recorder.close()
    assert list(tmp_path.glob("spool/*.gwspool")) == []


def test_evidence_grows_with_the_session_and_comes_at_its_end(tmp_path: Path):
    told: dict[str, list[tuple[int, str, dict[str, int]]]] = defaultdict(list)
    refused = [True]

    def evidence(session_id: str, count: int, digest: str, counters: dict[str, int]) -> None:
        if refused and session_id == "ses_2":
            refused.pop()
            raise RuntimeError("journal is busy")
        told[session_id].append((count, digest, counters))

    recorder = FileRecorder(
        tmp_path, "gw1", keyring(tmp_path), evidence=evidence, evidence_every=timedelta(milliseconds=10)
    )
    first, second = (recorder.open(session(f"ses_{n}"), Record.REQUIRE, nothing) for n in (1, 2))
    eventually(lambda: told["ses_1"] != [] and told["ses_2"] != [])
    for _ in range(2):
        first.append("statement", AT, b"{}")
    first.append_all([("statement", unix_ns(AT), b"{}"), ("result", unix_ns(AT), b"{}")])
    count, digest = first.seal()
    eventually(lambda: told["ses_1"][-1][:2] == (count, digest))
    assert told["ses_1"][-1][2]["records"] == 4
    assert (told["ses_1"][-1][2]["statement"], told["ses_1"][-1][2]["result"]) == (3, 1), "those of a batch, too"
    quiet = len(told["ses_2"])
    second.seal()
    eventually(is_sealed(recorder, "ses_2"))
    assert len(told["ses_2"]) == quiet, "nothing new, nothing told"
    recorder.close()


# ---------------------------------------------------------------- failure


def test_a_full_disk_fails_every_session_that_has_something_to_lose(tmp_path: Path):
    disk = FillingDisk()
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), disk=disk)
    failed: list[str] = []
    lose = recorder.open(session("ses_lose"), Record.REQUIRE, lambda: failed.append("lose"))
    idle = recorder.open(session("ses_idle"), Record.REQUIRE, lambda: failed.append("idle"))
    lose.wait_durable(lose.append("out", AT, b"kept"), PATIENCE)
    kept = lose.digest()
    disk.room = 10
    news: list[bool] = []
    seq = lose.append("out", AT, b"lost")
    lose.on_durable(seq, news.append)
    with pytest.raises(RecordingFailed, match="written"):
        lose.wait_durable(seq, PATIENCE)
    eventually(lambda: failed == ["lose"] and news == [False])
    with pytest.raises(RecordingFailed):
        lose.append("out", AT, b"more")
    with pytest.raises(RecordingFailed):
        lose.seal()
    with pytest.raises(RecordingFailed):
        lose.seal()
    assert lose.digest() == kept
    with pytest.raises(RecordingFailed):
        recorder.open(session("ses_new"), Record.REQUIRE, lambda: failed.append("new"))
    assert failed == ["lose"], "open raises, it does not call"
    disk.room = 1 << 40
    idle.wait_durable(idle.append("out", AT, b"goes on"), PATIENCE)
    recorder.open(session("ses_new"), Record.REQUIRE, nothing).seal()
    idle.seal()
    eventually(is_sealed(recorder, "ses_lose"))
    verify_chain("ses_lose", recorder.read("ses_lose"), *kept)
    verify_chain("ses_idle", recorder.read("ses_idle"), *idle.digest())
    recorder.close()
    assert FileRecorder(tmp_path, "gw1", keyring(tmp_path)).recover() == [], "nothing is left over"


@pytest.mark.parametrize("code", [errno.EIO, errno.EDQUOT])
def test_nothing_counts_that_a_failed_sync_left_behind(tmp_path: Path, code: int):
    disk = FillingDisk(code=code)
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), disk=disk)
    failed = Event()
    recording = recorder.open(session(), Record.REQUIRE, failed.set)
    kept = recording.digest()
    disk.fails_sync = True
    recording.append("out", AT, b"never acknowledged")
    assert failed.wait(20)
    del recorder  # as if killed: nothing was sealed
    disk.fails_sync = False
    [segment] = tmp_path.glob("spool/*.gwspool")
    assert b"never acknowledged" not in segment.read_bytes()
    assert recording.digest() == kept


def test_a_slow_disk_slows_the_session_down_and_loses_nothing(tmp_path: Path):
    disk = HeldDisk()
    limits = SpoolLimits(session_queue_bytes=10_000, append_timeout=PATIENCE)
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), disk=disk, limits=limits)
    recording = recorder.open(session(), Record.SPOOL, nothing)
    disk.free.clear()
    done = Event()
    reached: list[int] = []

    def write() -> None:
        reached.extend(recording.append("out", AT, b"%d" % n + bytes(1000)) for n in range(200))
        done.set()

    Thread(target=write).start()
    assert not done.wait(0.2), "it is held back"
    assert len(reached) < 40
    disk.free.set()
    assert done.wait(20)
    count, digest = recording.seal()
    assert count == 201
    verify_chain("ses_1", recorder.read("ses_1"), count, digest)
    recorder.close()


def test_a_disk_that_hangs_ends_the_session(tmp_path: Path):
    disk = HeldDisk()
    short = timedelta(milliseconds=50)
    limits = SpoolLimits(session_queue_bytes=10_000, append_timeout=short, seal_timeout=short)
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), disk=disk, limits=limits)
    failed = Event()
    recording = recorder.open(session(), Record.REQUIRE, failed.set)
    kept = recording.digest()
    disk.free.clear()
    with pytest.raises(RecordingFailed, match="slow"):
        all(recording.append("out", AT, bytes(1000)) for _ in range(100))
    assert failed.wait(20)
    with pytest.raises(RecordingFailed, match="slow"):
        recording.wait_durable(5, short)
    with pytest.raises(RecordingFailed, match="slow"):
        recording.seal()
    assert recording.digest() == kept
    disk.free.set()
    recorder.close()
    assert recording.digest() == kept, "what comes late does not change what was said"
    verify_chain("ses_1", recorder.read("ses_1"), *kept)


def test_nobody_waits_for_ever_for_a_disk_that_hangs(tmp_path: Path):
    disk = HeldDisk()
    limits = SpoolLimits(append_timeout=timedelta(milliseconds=200), seal_timeout=PATIENCE)
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), disk=disk, limits=limits)
    failed, idle_failed = Event(), Event()
    recording = recorder.open(session(), Record.REQUIRE, failed.set)
    idle = recorder.open(session("ses_2"), Record.REQUIRE, idle_failed.set)
    disk.free.clear()
    told: list[bool] = []
    heard = Event()

    def hear(ok: bool) -> None:
        told.append(ok)
        heard.set()

    recording.on_durable(recording.append("query", AT, b"1"), hear)
    assert heard.wait(20)
    assert told == [False]
    assert failed.wait(20)
    recording.on_durable(1, told.append)
    assert told == [False, False], "what is asked later is told at once"
    with pytest.raises(RecordingFailed, match="slow"):
        recording.append("query", AT, b"2")
    disk.free.set()
    with pytest.raises(RecordingFailed, match="slow"):
        recording.seal()
    assert recording.digest()[0] == 2, "what was on its way is kept all the same"
    assert told == [False, False]
    assert not idle_failed.is_set(), "who waits for nothing goes on"
    idle.append("query", AT, b"3")
    assert idle.seal()[0] == 2
    recorder.close()


def test_a_directory_that_cannot_be_used_opens_no_session(tmp_path: Path):
    (tmp_path / "spool").write_text("in the way")
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path))
    with pytest.raises(RecordingFailed):
        recorder.open(session(), Record.SPOOL, nothing)


def test_sealing_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway.adapters.recordings.recorder.RETRY", 0.01)
    (tmp_path / "sealed").write_text("in the way")
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path))
    recording = recorder.open(session(), Record.SPOOL, nothing)
    count, digest = recording.seal()
    verify_chain("ses_1", recorder.read("ses_1"), count, digest)
    (tmp_path / "sealed").unlink()
    eventually(is_sealed(recorder, "ses_1"))
    verify_chain("ses_1", recorder.read("ses_1"), count, digest)
    recorder.close()


def test_one_name_one_process(recorder: FileRecorder, tmp_path: Path):
    recorder.open(session(), Record.SPOOL, nothing)
    with pytest.raises(RecordingFailed, match="another process"):
        FileRecorder(tmp_path, "gw1", keyring(tmp_path)).open(session("ses_2"), Record.SPOOL, nothing)
    with pytest.raises(RecordingFailed, match="already"):
        recorder.open(session(), Record.SPOOL, nothing)
    for evil in ("", "../x", "a b", "x" * 65):
        with pytest.raises(ValueError, match="name"):
            FileRecorder(tmp_path, evil, keyring(tmp_path))


def test_a_closed_recorder_opens_nothing(tmp_path: Path):
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path))
    recorder.open(session(), Record.SPOOL, nothing)
    recorder.close()
    with pytest.raises(RecordingFailed, match="closed"):
        recorder.open(session("ses_2"), Record.SPOOL, nothing)
    assert [r[0] for r in FileRecorder(tmp_path, "gw1", keyring(tmp_path)).recover()] == ["ses_1"]


def test_a_damaged_sealed_file_is_named(recorder: FileRecorder, tmp_path: Path):
    recording = recorder.open(session(), Record.SPOOL, nothing)
    for n in range(100):
        recording.append("out", AT, b"%d" % n)
    count, digest = recording.seal()
    eventually(is_sealed(recorder, "ses_1"))
    path = sealed_path(tmp_path, "ses_1")
    good = path.read_bytes()
    for bad in (good[: len(good) // 2], good[:40] + b"XXXX" + good[44:], b"no recording", good + good, b"", good[:-1]):
        path.write_bytes(bad)
        with pytest.raises(BrokenRecordingError):
            verify_chain("ses_1", recorder.read("ses_1"), count, digest)
        assert recorder.sealed.digest("ses_1") is None


def test_two_hundred_sessions_at_once(tmp_path: Path):
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), limits=SpoolLimits(segment_bytes=200_000))
    results: dict[str, tuple[int, str]] = {}

    def run(name: str) -> None:
        recording = recorder.open(session(name), Record.REQUIRE, nothing)
        for n in range(20):
            seq = recording.append("out", AT, f"{name} {n}".encode())
        recording.wait_durable(seq, PATIENCE)
        results[name] = recording.seal()

    threads = [Thread(target=run, args=(f"ses_{n}",)) for n in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 200
    eventually(lambda: all(recorder.sealed.find(name) for name in results))
    for name, (count, digest) in results.items():
        assert count == 21
        verify_chain(name, recorder.read(name), count, digest)
    recorder.close()
    assert list(tmp_path.glob("spool/*.gwspool")) == []


def test_a_damaged_block_keeps_no_other_from_being_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway.adapters.recordings.recorder.GATHER", 0.3)
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path))
    one, two = [recorder.open(session(f"ses_{n}"), Record.REQUIRE, nothing) for n in (1, 2)]
    [spool] = tmp_path.glob("spool/*.gwspool")
    with spool.open("r+b") as file:
        file.seek(spool.read_bytes().index(b"ses_1") + len(b"ses_1"))
        file.write(bytes(8))  # the name of its key, which is now nobody's
    one.seal()
    two.seal()
    eventually(is_sealed(recorder, "ses_2"))
    recorder.open(session("ses_3"), Record.REQUIRE, nothing).seal()
    eventually(is_sealed(recorder, "ses_3"))
    assert not is_sealed(recorder, "ses_1")()
    assert spool.exists()
    recorder.close()


def test_a_spool_that_cannot_be_removed_does_not_stop_sealing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    unlink = Path.unlink
    refused = Event()

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        if path.suffix == ".gwspool" and not refused.is_set():
            refused.set()
            raise OSError(errno.EIO, "bad disk in this test")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), limits=SpoolLimits(segment_bytes=1))
    for name in ("ses_1", "ses_2", "ses_3"):
        recorder.open(session(name), Record.REQUIRE, nothing).seal()
        eventually(is_sealed(recorder, name))
    assert refused.is_set()
    recorder.close()
    assert list(tmp_path.glob("spool/*.gwspool")) == []


def test_sealing_is_tried_again_while_others_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("gateway.adapters.recordings.recorder.RETRY", 0.5)
    monkeypatch.setattr("gateway.adapters.recordings.recorder.GATHER", 0)
    (tmp_path / "sealed").write_text("in the way")
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path))
    recorder.open(session("ses_0"), Record.SPOOL, nothing).seal()
    eventually(lambda: "ses_0 could not be sealed" in caplog.text)
    (tmp_path / "sealed").unlink()
    more = itertools.count(1)

    def is_sealed_while_others_end() -> bool:
        recorder.open(session(f"ses_{next(more)}"), Record.SPOOL, nothing).seal()
        return is_sealed(recorder, "ses_0")()

    eventually(is_sealed_while_others_end)
    recorder.close()


@pytest.mark.parametrize("mode", [Record.REQUIRE, Record.BEST_EFFORT])
def test_a_mistake_of_the_writer_ends_the_sessions_it_concerns_and_no_others(tmp_path: Path, mode: Record):
    class Forgetful(Disk):
        is_so = False

        def write(self, descriptor: int, content: bytes) -> None:
            if self.is_so:
                raise MemoryError
            super().write(descriptor, content)

    disk, told, failed = Forgetful(), [], Event()
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path), disk=disk)
    recording = recorder.open(session(), mode, failed.set)
    disk.is_so = True
    recording.on_durable(recording.append("input", AT, b"lost"), told.append)
    recording.seal() if mode is Record.BEST_EFFORT else eventually(failed.is_set)
    assert told == [mode is Record.BEST_EFFORT]
    disk.is_so = False
    recorder.open(session("ses_2"), Record.REQUIRE, nothing).seal()
    eventually(is_sealed(recorder, "ses_2"))
    recorder.close()
