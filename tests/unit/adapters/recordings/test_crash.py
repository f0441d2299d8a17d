import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.adapters.recordings import FileRecorder, Keyring
from gateway.adapters.recordings.spool import SEGMENT_MAGIC, Disk, Segment, frames_in, runs
from gateway.app.recording_ports import RecordingFailed
from gateway.audit.recording import verify_chain
from gateway.core.obligation import Record
from tests.unit.adapters.recordings.stage import AT, PATIENCE, eventually, is_sealed, keyring, nothing, session

ROOT = Path(__file__).parents[4]
Left = tuple[str, bytes, Keyring]


def start(directory: Path, file_limit: int = 0) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.unit.adapters.recordings.writing_process", str(directory), str(file_limit)],
        cwd=ROOT, stdout=subprocess.PIPE,
    )  # fmt: skip


def run_until(process: "subprocess.Popen[bytes]", lines: int) -> list[list[str]]:
    """Kill it in mid-flight once it has said so many lines; everything it said, but for a torn last line."""
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    said += process.stdout.read().splitlines(keepends=True)
    process.stdout.close()
    process.wait(20)
    return [line.decode().split() for line in said if line.endswith(b"\n")]


@pytest.mark.parametrize("lines", [2, 40, 700, 3000])
def test_after_a_kill_everything_that_was_acknowledged_is_there(tmp_path: Path, lines: int):
    said = run_until(start(tmp_path), lines + random.randrange(50))
    acknowledged: dict[str, int] = {}
    for name, seq in (line for line in said if len(line) == 2):
        acknowledged[name] = max(int(seq), acknowledged.get(name, 0))
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path))
    recovered = {name: (count, digest) for name, count, digest in recorder.recover()}
    for name, seq in acknowledged.items():
        assert recovered[name][0] > seq
    for name, (count, digest) in recovered.items():
        verify_chain(name, recorder.read(name), count, digest)
        for frame in recorder.read(name):
            n = frame.seq
            assert n == 0 or frame.payload == f"{name} {n} ".encode() * (1 + n % 50)
    [[_, count, digest]] = [line for line in said if line[0] == "sealed"]
    verify_chain("ses_short", recorder.read("ses_short"), int(count), digest)
    assert list(tmp_path.glob("spool/*.gwspool")) == []
    assert list(tmp_path.glob("spool/*.damaged")) == []
    assert recorder.recover() == []
    recorder.open(session("ses_next"), Record.REQUIRE, nothing).seal()
    recorder.close()


def test_a_file_system_that_takes_no_more(tmp_path: Path):
    process = start(tmp_path, file_limit=300_000)
    out, _ = process.communicate(timeout=60)
    failed = {line.split()[1]: line.split()[2:] for line in out.decode().splitlines() if line.startswith("failed")}
    assert len(failed) == 8, "each is told"
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path))
    recovered = {name: (count, digest) for name, count, digest in recorder.recover()}
    for name, (count, digest) in failed.items():
        assert recovered[name] == (int(count), digest), "what was said to be durable is, and nothing else"
    recorder.close()


# ---------------------------------------------------------------- torn and damaged spools


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """The segment that a dead process left, with three sessions in it."""
    directory = tmp_path_factory.mktemp("left")
    recorder = FileRecorder(directory, "gw1", keyring(directory))
    recordings = [recorder.open(session(f"ses_{n}"), Record.REQUIRE, nothing) for n in range(3)]
    for n in range(12):
        recording = recordings[n % 3]
        recording.wait_durable(recording.append("out", AT, b"%d" % n), PATIENCE)
    recorder.close()
    [segment] = directory.glob("spool/*.gwspool")
    return segment.name, segment.read_bytes(), keyring(directory)


def recover(left: Left, directory: Path, content: bytes) -> tuple[FileRecorder, dict[str, int], bool]:
    (directory / "spool").mkdir(parents=True)
    (directory / "spool" / left[0]).write_bytes(content)
    recorder = FileRecorder(directory, "gw1", left[2])
    found = [each for each in recorder.recover() if each[2]]
    for session_id, count, digest in found:
        verify_chain(session_id, recorder.read(session_id), count, digest)
    recorder.close()
    is_kept = any(directory.glob("spool/*.damaged"))
    return recorder, {session_id: count for session_id, count, _ in found}, is_kept


def whole_blocks(content: bytes, path: Path, keys: Keyring) -> dict[str, int]:
    """How many frames of each session stand in front of the cut."""
    path.write_bytes(content)
    counts: dict[str, int] = {}
    with path.open("rb") as file:
        for run in runs(file, 0, len(content)):
            counts[run.session] = counts.get(run.session, 0) + len(
                list(frames_in(file, run, keys.unwrapped(run.session, run.wrapped)))
            )
    return counts


@settings(max_examples=60)
@given(cut=st.floats(0, 1), tail=st.binary(max_size=40), blank=st.sampled_from([0, 0, 5000]))
def test_a_torn_tail_costs_only_itself(
    left: Left, tmp_path_factory: pytest.TempPathFactory, cut: float, tail: bytes, blank: int
):
    _, good, keys = left
    directory = tmp_path_factory.mktemp("torn")
    content = good[: int(cut * len(good))]
    _, counts, is_kept = recover(left, directory, content + tail + bytes(blank))
    assert {name: count for name, count in counts.items() if count} == whole_blocks(content, directory / "check", keys)
    assert not is_kept or tail or blank, "only what fills up a block looks like damage"


@pytest.mark.parametrize(("of_last", "whole"), [(None, 15), (0, 14), (10, 14), (100, 14), (-17, 14)])
def test_zeros_written_ahead_are_no_damage(left: Left, tmp_path: Path, of_last: int | None, whole: int):
    _, good, _ = left
    last = good.rindex(b"GWB2")
    there = good if of_last is None else good[:last] + good[last:][:of_last]
    _, counts, is_kept = recover(left, tmp_path, there + bytes(1 << 20))
    assert (sum(counts.values()), is_kept) == (whole, False)


def test_only_the_length_of_what_was_kept_is_left(tmp_path: Path):
    segment = Segment(tmp_path, "gw1", 1, Disk())
    segment.append(b"frames")
    assert segment.path.stat().st_size > segment.size + len(b"frames")
    segment.retire()
    assert segment.path.read_bytes() == SEGMENT_MAGIC + b"frames"


@settings(max_examples=60)
@given(at=st.floats(0, 0.999), flip=st.integers(1, 255))
def test_a_flipped_bit_never_passes(left: Left, tmp_path_factory: pytest.TempPathFactory, at: float, flip: int):
    _, good, _ = left
    bad = bytearray(good)
    bad[int(at * len(good))] ^= flip
    recorder, counts, is_kept = recover(left, tmp_path_factory.mktemp("flip"), bytes(bad))
    for session_id in counts:
        for frame in recorder.read(session_id):
            number, written = frame.seq, frame.payload
            assert number == 0 or written == b"%d" % ((number - 1) * 3 + int(session_id[-1]))
    in_magic = int(at * len(good)) < 8
    assert sum(counts.values()) < 15 or is_kept or in_magic, "some record is missing, or the segment is kept"


def test_damage_inside_is_kept_for_examination_and_named(left: Left, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    _, good, _ = left
    at = good.index(b"ses_1") + 200  # in the ciphertext of its first block
    _, counts, is_kept = recover(left, tmp_path, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    assert is_kept
    assert sorted(counts.values()) == [0, 5, 5]
    assert "block 0 of ses_1 was changed" in caplog.text


def test_a_spool_whose_key_is_not_there_is_kept(left: Left, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    name, good, _ = left
    _, counts, is_kept = recover((name, good, keyring(tmp_path)), tmp_path, good)
    assert (counts, is_kept) == ({}, True)
    assert "not in the key file" in caplog.text
    assert list(tmp_path.glob("sealed/*/*/*")) == []


def test_a_process_that_died_while_sealing(tmp_path: Path):
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path))
    recording = recorder.open(session(), Record.REQUIRE, nothing)
    other = recorder.open(session("ses_2"), Record.REQUIRE, nothing)
    recording.wait_durable(recording.append("out", AT, b"x"), PATIENCE)
    count, digest = recording.seal()
    eventually(is_sealed(recorder, "ses_1"))
    recorder.close()
    sealed = recorder.sealed.find("ses_1")
    assert sealed is not None
    before = sealed.read_bytes()
    (sealed.parent / ".ses_2.draft").write_bytes(b"half")
    again = FileRecorder(tmp_path, "gw1", keyring(tmp_path))
    assert sorted(again.recover()) == [("ses_1", count, digest), ("ses_2", *other.digest())]
    assert sealed.read_bytes() == before
    assert list(sealed.parent.glob(".*")) == []
    again.close()


def test_a_damaged_sealed_file_is_never_written_over(tmp_path: Path):
    recorder = FileRecorder(tmp_path, "gw1", keyring(tmp_path))
    recorder.open(session("ses_2"), Record.REQUIRE, nothing)
    recorder.open(session(), Record.REQUIRE, nothing).seal()
    eventually(is_sealed(recorder, "ses_1"))
    recorder.close()
    sealed = recorder.sealed.find("ses_1")
    assert sealed is not None
    sealed.write_bytes(b"damaged")
    again = FileRecorder(tmp_path, "gw1", keyring(tmp_path))
    assert ("ses_1", 0, "") in again.recover()
    assert sealed.read_bytes() == b"damaged"
    assert list(tmp_path.glob("spool/*.damaged")) != []
    again.close()


def test_what_other_dead_gateways_left_is_sealed_and_the_living_are_left_alone(tmp_path: Path):
    alive = FileRecorder(tmp_path, "gw-alive", keyring(tmp_path))
    living = alive.open(session("ses_living"), Record.REQUIRE, nothing)
    dead = FileRecorder(tmp_path, "gw-dead", keyring(tmp_path))
    dead.open(session("ses_dead"), Record.REQUIRE, nothing)
    dead.close()
    me = FileRecorder(tmp_path, "gw1", keyring(tmp_path))
    assert me.recover() == []
    assert [r[0] for r in me.recover_all()] == ["ses_dead"]
    living.wait_durable(living.append("out", AT, b"x"), PATIENCE)
    alive.close()
    me.close()
    with pytest.raises(RecordingFailed):
        living.append("out", AT, b"y")


def test_spools_of_others_are_not_mistaken_for_ours(tmp_path: Path):
    for name in ("gw", "gw-1"):
        recorder = FileRecorder(tmp_path, name, keyring(tmp_path))
        recorder.open(session(f"ses_{name}"), Record.REQUIRE, nothing)
        recorder.close()
    assert [r[0] for r in FileRecorder(tmp_path, "gw", keyring(tmp_path)).recover()] == ["ses_gw"]
    assert (tmp_path / "spool" / "spool-gw-1-00000001.gwspool").exists()
