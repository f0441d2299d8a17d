import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.adapters.recordings import FileRecorder, SpoolLimits, SpoolRecording
from gateway.adapters.recordings import gap as gap_module
from gateway.adapters.recordings.spool import SEGMENT_MAGIC, runs
from gateway.app.recording_ports import RecordingFailed
from gateway.audit.recording import MAX_PAYLOAD, joined, unix_ns, verify_chain
from gateway.core.obligation import Record
from tests.unit.adapters.recordings.stage import AT, FillingDisk, HeldDisk, eventually, is_sealed, keyring, session

ROOM = 1 << 40


@dataclass
class Scene:
    disk: FillingDisk
    recorder: FileRecorder = field(init=False)
    told: list[dict[str, object]] = field(default_factory=list)
    refusals: int = 0

    def tell(self, session_id: str, gap: dict[str, object]) -> None:
        assert session_id == "ses_1"
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError("the log is not there")
        self.told.append(gap)

    def open(self) -> SpoolRecording:
        return self.recorder.open(session(), Record.BEST_EFFORT, _never)

    def lose(self, recording: SpoolRecording, payload: bytes) -> None:
        """Append while the disk is full, until the recorder has noticed."""
        self.disk.room = 0
        recording.wait_durable(recording.append("out", AT, payload), timedelta(seconds=20))

    def states(self) -> list[tuple[object, object]]:
        return [(gap["state"], gap["records"]) for gap in self.told]

    def sealed(self, recording: SpoolRecording) -> list[tuple[str, bytes]]:
        count, digest = recording.seal()
        eventually(is_sealed(self.recorder, "ses_1"))
        verify_chain("ses_1", self.recorder.read("ses_1"), count, digest)
        return [(f.kind, f.payload) for f in joined(self.recorder.read("ses_1"))]


def _never() -> None:
    raise AssertionError("a best-effort session is not told to end")


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(gap_module, "RETRY", 0.0)
    monkeypatch.setattr("gateway.adapters.recordings.recorder.RETRY", 0.01)
    disk = FillingDisk()
    made = Scene(disk)
    made.recorder = FileRecorder(
        tmp_path, "gw1", keyring(tmp_path), disk=disk, evidence_every=timedelta(milliseconds=5), gaps=made.tell
    )
    yield made
    disk.room = ROOM
    made.recorder.close()


def test_a_full_disk_is_a_gap_and_the_session_goes_on(scene: Scene):
    recording = scene.open()
    recording.append("out", AT, b"before")
    recording.wait_durable(1, timedelta(seconds=20))
    scene.lose(recording, b"lost")
    eventually(lambda: scene.states() == [("begun", 1)])
    scene.disk.room = ROOM
    recording.append("out", AT, b"after")
    kept = scene.sealed(recording)
    assert [kind for kind, _ in kept] == ["session", "out", "gap", "out"]
    told = json.loads(kept[2][1])
    assert (told["records"], told["after"], told["since"]) == (1, 2, AT.isoformat())
    assert "no room" in told["why"]
    assert kept[3][1] == b"after"
    assert scene.states() == [("begun", 1), ("over", 1)]


def test_while_it_lasts_the_disk_is_asked_seldom_and_everything_is_counted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gap_module, "RETRY", 3600.0)
    recording = scene.open()
    scene.lose(recording, b"lost")
    for _ in range(50):
        recording.append("out", AT, b"lost too")
    scene.disk.room = ROOM
    assert json.loads(scene.sealed(recording)[-1][1])["records"] == 51, "told by the last record"
    assert scene.states()[-1] == ("over", 51)


def test_what_shared_a_frame_is_counted_one_by_one(scene: Scene):
    recording = scene.open()
    scene.disk.room = 0
    at_ns = unix_ns(AT)
    recording.append_all([("out", at_ns + n, b"lost") for n in range(5)])
    eventually(lambda: scene.states() == [("begun", 5)])
    scene.disk.room = ROOM
    told = json.loads(scene.sealed(recording)[-1][1])
    assert (told["records"], told["since"]) == (5, AT.isoformat())


def test_a_gap_to_the_end_is_in_the_log(scene: Scene):
    recording = scene.open()
    scene.lose(recording, b"lost")
    scene.lose(recording, b"lost again")
    scene.refusals = 1
    count, digest = recording.seal()
    assert count == 1
    scene.disk.room = ROOM  # for the sealed file, which has its own
    eventually(lambda: scene.states()[-1:] == [("to-the-end", 2)])
    eventually(is_sealed(scene.recorder, "ses_1"))
    verify_chain("ses_1", scene.recorder.read("ses_1"), count, digest)


def test_a_session_that_begins_on_a_full_disk_says_later_whose_it_is(scene: Scene):
    scene.disk.room = 0
    recording = scene.open()
    recording.append("out", AT, b"lost")
    scene.disk.room = ROOM
    eventually(lambda: recording.append("out", AT, b"x") > 2)
    kept = scene.sealed(recording)
    assert [kind for kind, _ in kept[:3]] == ["session", "gap", "out"]
    assert json.loads(kept[0][1])["mode"] == "best-effort"


def test_the_rest_of_a_record_that_was_cut_by_a_gap_is_not_glued_to_something_else(scene: Scene):
    recording = scene.open()
    scene.disk.room = MAX_PAYLOAD + 2000
    recording.append("out", AT, b"a" * MAX_PAYLOAD + b"b" * MAX_PAYLOAD)
    eventually(lambda: scene.told != [] or recording.digest()[0] == 3)
    scene.disk.room = ROOM
    recording.append("in", AT, b"after")
    kept = scene.sealed(recording)
    assert kept[-1] == ("in", b"after")
    assert ("gap" in dict(kept)) == (scene.told != [])
    assert all(json.loads(payload) for kind, payload in kept if kind == "gap")


def test_other_sessions_still_end(scene: Scene):
    strict = scene.recorder.open(session("ses_strict"), Record.REQUIRE, lambda: None)
    recording = scene.open()
    scene.disk.room = 0
    with pytest.raises(RecordingFailed):
        strict.wait_durable(strict.append("out", AT, b"x"), timedelta(seconds=20))
    scene.lose(recording, b"lost")
    with pytest.raises(RecordingFailed):
        strict.seal()
    scene.disk.room = ROOM
    assert scene.sealed(recording)[-1][0] == "gap"


def test_no_block_number_is_used_twice_for_it_is_the_nonce(scene: Scene, tmp_path: Path):
    recording = scene.open()
    written: list[bytes] = []
    write = scene.disk.write

    def watched(descriptor: int, content: bytes) -> None:
        written.append(content)
        write(descriptor, content)

    scene.disk.write = watched  # type: ignore[method-assign]
    for n in range(5):
        scene.lose(recording, b"lost %d" % n)
        scene.disk.room = ROOM
        kept = recording.digest()[0]
        recording.append("out", AT, b"%d" % n)
        eventually(lambda kept=kept: recording.digest()[0] > kept)  # type: ignore[misc]
    (tmp_path / "all").write_bytes(SEGMENT_MAGIC + b"".join(each for each in written if each != SEGMENT_MAGIC))
    with (tmp_path / "all").open("rb") as file:
        numbers = [run.number for run in runs(file, 0, (tmp_path / "all").stat().st_size)]
    assert len(numbers) >= 10, "also those that did not arrive"
    assert numbers == sorted(set(numbers))


def test_nobody_waits_for_a_best_effort_record(scene: Scene):
    recording = scene.open()
    scene.disk.room = 0
    news: list[bool] = []
    recording.on_durable(recording.append("out", AT, b"lost"), news.append)
    assert news == [True]


def test_a_disk_that_hangs_is_a_gap_too(tmp_path: Path):
    disk = HeldDisk()
    short = timedelta(milliseconds=20)
    limits = SpoolLimits(session_queue_bytes=10_000, append_timeout=short, seal_timeout=short)
    told: list[dict[str, object]] = []
    recorder = FileRecorder(
        tmp_path, "gw1", keyring(tmp_path), disk=disk, limits=limits, gaps=lambda _, gap: told.append(gap)
    )
    disk.free.clear()
    recording = recorder.open(session(), Record.BEST_EFFORT, _never)  # whose first record takes longer than the limit
    disk.free.set()
    eventually(lambda: recording.digest()[0] == 1)
    kept = recording.digest()
    disk.free.clear()
    for _ in range(100):
        recording.append("out", AT, bytes(1000))
    assert recording.seal() == kept == recording.seal()
    assert [gap["state"] for gap in told] == ["begun", "to-the-end"]
    assert told[1]["records"] == 100
    disk.free.set()
    recorder.close()
    verify_chain("ses_1", recorder.read("ses_1"), *kept)
