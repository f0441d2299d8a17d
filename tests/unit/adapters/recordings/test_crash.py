import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.adapters.recordings import FileRecorder
from gateway.adapters.recordings.spool import frames_in, runs
from gateway.app.ports import RecordingFailed
from gateway.audit.recording import verify_chain
from gateway.core.obligation import Record
from tests.unit.adapters.recordings.stage import AT, PATIENCE, eventually, is_sealed, nothing, session

ROOT = Path(__file__).parents[4]


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
    recorder = FileRecorder(tmp_path, "gw1")
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
    recorder = FileRecorder(tmp_path, "gw1")
    recovered = {name: (count, digest) for name, count, digest in recorder.recover()}
    for name, (count, digest) in failed.items():
        assert recovered[name] == (int(count), digest), "what was said to be durable is, and nothing else"
    recorder.close()


# ---------------------------------------------------------------- torn and damaged spools


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """The segment that a dead process left, with three sessions in it."""
    directory = tmp_path_factory.mktemp("left")
    recorder = FileRecorder(directory, "gw1")
    recordings = [recorder.open(session(f"ses_{n}"), Record.REQUIRE, nothing) for n in range(3)]
    for n in range(12):
        recording = recordings[n % 3]
        recording.wait_durable(recording.append("out", AT, b"%d" % n), PATIENCE)
    recorder.close()
    [segment] = directory.glob("spool/*.gwspool")
    return segment.name, segment.read_bytes()


def recover(directory: Path, name: str, content: bytes) -> tuple[FileRecorder, dict[str, int], bool]:
    (directory / "spool").mkdir(parents=True)
    (directory / "spool" / name).write_bytes(content)
    recorder = FileRecorder(directory, "gw1")
    found = recorder.recover()
    for session_id, count, digest in found:
        verify_chain(session_id, recorder.read(session_id), count, digest)
    recorder.close()
    is_kept = any(directory.glob("spool/*.damaged"))
    return recorder, {session_id: count for session_id, count, _ in found}, is_kept


def whole_blocks(content: bytes, path: Path) -> dict[str, int]:
    """How many frames of each session stand in front of the cut."""
    path.write_bytes(content)
    counts: dict[str, int] = {}
    with path.open("rb") as file:
        for run in runs(file, 0, len(content)):
            counts[run.session] = counts.get(run.session, 0) + len(list(frames_in(file, run)))
    return counts


@settings(max_examples=60)
@given(cut=st.floats(0, 1), tail=st.binary(max_size=40))
def test_a_torn_tail_costs_only_itself(
    left: tuple[str, bytes], tmp_path_factory: pytest.TempPathFactory, cut: float, tail: bytes
):
    name, good = left
    directory = tmp_path_factory.mktemp("torn")
    content = good[: int(cut * len(good))]
    _, counts, is_kept = recover(directory, name, content + tail)
    assert {name: count for name, count in counts.items() if count} == whole_blocks(content, directory / "check")
    assert not is_kept or tail, "only what fills up a block looks like damage"


@settings(max_examples=60)
@given(at=st.floats(0, 0.999), flip=st.integers(1, 255))
def test_a_flipped_bit_never_passes(
    left: tuple[str, bytes], tmp_path_factory: pytest.TempPathFactory, at: float, flip: int
):
    name, good = left
    bad = bytearray(good)
    bad[int(at * len(good))] ^= flip
    recorder, counts, is_kept = recover(tmp_path_factory.mktemp("flip"), name, bytes(bad))
    for session_id in counts:
        for frame in recorder.read(session_id):
            number, written = frame.seq, frame.payload
            assert number == 0 or written == b"%d" % ((number - 1) * 3 + int(session_id[-1]))
    in_magic = int(at * len(good)) < 8
    assert sum(counts.values()) < 15 or is_kept or in_magic, "some record is missing, or the segment is kept"


def test_damage_inside_is_kept_for_examination(left: tuple[str, bytes], tmp_path: Path):
    name, good = left
    at = good.index(b'"holder_name"')
    _, counts, is_kept = recover(tmp_path, name, good[:at] + b"X" + good[at + 1 :])
    assert is_kept
    assert sorted(counts.values()) == [0, 5, 5]


def test_a_process_that_died_while_sealing(tmp_path: Path):
    recorder = FileRecorder(tmp_path, "gw1")
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
    again = FileRecorder(tmp_path, "gw1")
    assert sorted(again.recover()) == [("ses_1", count, digest), ("ses_2", *other.digest())]
    assert sealed.read_bytes() == before
    assert list(sealed.parent.glob(".*")) == []
    again.close()


def test_a_damaged_sealed_file_is_never_written_over(tmp_path: Path):
    recorder = FileRecorder(tmp_path, "gw1")
    recorder.open(session("ses_2"), Record.REQUIRE, nothing)
    recorder.open(session(), Record.REQUIRE, nothing).seal()
    eventually(is_sealed(recorder, "ses_1"))
    recorder.close()
    sealed = recorder.sealed.find("ses_1")
    assert sealed is not None
    sealed.write_bytes(b"damaged")
    again = FileRecorder(tmp_path, "gw1")
    assert ("ses_1", 0, "") in again.recover()
    assert sealed.read_bytes() == b"damaged"
    assert list(tmp_path.glob("spool/*.damaged")) != []
    again.close()


def test_what_other_dead_gateways_left_is_sealed_and_the_living_are_left_alone(tmp_path: Path):
    alive = FileRecorder(tmp_path, "gw-alive")
    living = alive.open(session("ses_living"), Record.REQUIRE, nothing)
    dead = FileRecorder(tmp_path, "gw-dead")
    dead.open(session("ses_dead"), Record.REQUIRE, nothing)
    dead.close()
    me = FileRecorder(tmp_path, "gw1")
    assert me.recover() == []
    assert [r[0] for r in me.recover_all()] == ["ses_dead"]
    living.wait_durable(living.append("out", AT, b"x"), PATIENCE)
    alive.close()
    me.close()
    with pytest.raises(RecordingFailed):
        living.append("out", AT, b"y")


def test_spools_of_others_are_not_mistaken_for_ours(tmp_path: Path):
    for name in ("gw", "gw-1"):
        recorder = FileRecorder(tmp_path, name)
        recorder.open(session(f"ses_{name}"), Record.REQUIRE, nothing)
        recorder.close()
    assert [r[0] for r in FileRecorder(tmp_path, "gw").recover()] == ["ses_gw"]
    assert (tmp_path / "spool" / "spool-gw-1-00000001.gwspool").exists()
