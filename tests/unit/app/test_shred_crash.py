"""A gateway that is killed between the order to shred a recording and its end has done it soon after its next start."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.adapters.recordings import StatementIndex
from gateway.app.log_ports import EventFilter
from gateway.app.record_evidence import Evidence
from gateway.app.replay_session import RecordingShredded
from gateway.app.search_statements import StatementQuery
from gateway.edges.supervisor import Supervisor
from tests.unit.adapters.recordings.stage import eventually
from tests.unit.adapters.recordings.test_crash import ROOT
from tests.unit.app.shredding_process import ID, WHY, running


def killed(directory: Path, at: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.app.shredding_process", str(directory), at],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "here"
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    process.wait(20)


def found(index: StatementIndex) -> int:
    return len(index.search(StatementQuery(session=ID)))


@pytest.mark.parametrize("at", ["before", "between", "after"])
def test_what_was_ordered_is_done_after_the_next_start(tmp_path: Path, at: str):
    killed(tmp_path, at)
    with running(tmp_path) as (ctx, recorder, index):

        def outcomes() -> list[str]:
            return [told.event.outcome for told in ctx.log.search(EventFilter(type="session:shredded"))][::-1]

        assert outcomes() == ["attempt"]
        assert found(index) == (0 if at == "after" else 1)
        if at == "before":
            assert list(recorder.read(ID))
        recorder.recover()
        supervisor = Supervisor(ctx, [], [], Evidence(), 60.0)
        supervisor.start()
        try:
            eventually(lambda: outcomes() == ["attempt", "ok"])
        finally:
            supervisor.stop()
        assert found(index) == 0
        assert index.behind() == frozenset()
        with pytest.raises(RecordingShredded):
            list(recorder.read(ID))
        (done, *_) = ctx.log.search(EventFilter(type="session:shredded"))
        assert (done.event.principal, done.event.data["reason"]) == ("security", WHY)
