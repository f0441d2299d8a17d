"""A process that is killed has sealed sessions whose statements it had not indexed yet."""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.adapters.recordings import FileRecorder, StatementIndex
from gateway.app.search_statements import StatementQuery
from tests.unit.adapters.recordings.stage import eventually, keyring
from tests.unit.adapters.recordings.test_crash import ROOT

NEVER = 3_600_000


def killed(directory: Path, index_every_ms: int, lines: int) -> list[str]:
    """What it said was sealed, and in no spool, before it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.adapters.recordings.ending_process", str(directory), str(index_every_ms)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = [process.stdout.readline().strip() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    process.wait(20)
    return said


@contextmanager
def after_it(directory: Path) -> Iterator[tuple[FileRecorder, StatementIndex]]:
    made = StatementIndex(directory / "statements.sqlite")
    recorder = FileRecorder(directory, "gw1", keyring(directory), index=made)
    yield recorder, made
    recorder.close()
    made.close()


def found(made: StatementIndex, session: str) -> int:
    return len(made.search(StatementQuery(session=session)))


def test_what_was_sealed_and_not_indexed_is_indexed_after_the_start(tmp_path: Path):
    gone = set(killed(tmp_path, NEVER, 5))
    with after_it(tmp_path) as (recorder, made):
        assert made.search(StatementQuery()) == []
        assert gone <= made.behind(), "whoever searches is told"
        recovered = {session for session, _, _ in recorder.recover()}
        assert not recovered & gone, "its spool does not have it any more"
        eventually(lambda: not made.behind())
        assert_whole(recorder, made)
        assert made.left_behind() == []


def assert_whole(recorder: FileRecorder, made: StatementIndex) -> None:
    for session in recorder.sealed.sessions():
        assert found(made, session) == sum(frame.kind == "statement" for frame in recorder.read(session)), session


@pytest.mark.parametrize("index_every_ms", [20, 300, 1000])
def test_whenever_it_was_killed_all_that_is_sealed_is_found(tmp_path: Path, index_every_ms: int):
    killed(tmp_path, index_every_ms, random.randrange(1, 30))
    with after_it(tmp_path) as (recorder, made):
        recorder.recover()
        eventually(lambda: not made.behind())
        assert_whole(recorder, made)
