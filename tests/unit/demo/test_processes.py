"""Each case runs in a process of its own: `Processes` adopts and ends everything below the process that it lives in."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.demo.processes import descendants

_PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from gateway.demo.processes import Processes, StageError, descendants
state = Path(sys.argv[1])
processes = Processes()
def start(name, script, **options):
    return processes.start(name, ["sh", "-c", script], log=state / f"{name}.log", **options)
"""


def _run(body: str, state: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PRELUDE + body, str(state)], capture_output=True, text=True, timeout=60
    )


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_stopping_leaves_nobody_not_even_those_who_ran_away(tmp_path: Path) -> None:
    done = _run(
        """
start("plain", "exec sleep 300")
start("stubborn", "trap '' TERM; echo up; (setsid sleep 300 &) ; (setsid sh -c 'trap \\"\\" TERM; sleep 300' &); exec sleep 300")
processes.await_ready("stubborn", lambda: "up" in (state / "stubborn.log").read_text() and len(descendants(os.getpid())) >= 4, 10)
before = descendants(os.getpid())
import gateway.demo.processes as module
module.STOP_S = 1.0
processes.stop_all()
print(len(before) >= 4, descendants(os.getpid()))
""",
        tmp_path,
    )
    assert done.stdout.strip() == "True []", done.stderr


@pytest.mark.parametrize(
    "begun", ["", "signal.signal(signal.SIGINT, signal.SIG_IGN); "], ids=["plain", "in the background"]
)
def test_parts_die_with_a_stage_that_is_killed(tmp_path: Path, begun: str) -> None:
    """A shell without job control starts what is in the background with SIGINT ignored (POSIX, 2.11)."""
    body = (
        begun
        + 'start("one", "exec sleep 300"); start("two", "exec sleep 300", stop_signal=signal.SIGINT); print("up", flush=True); time.sleep(300)'
    )
    stage = subprocess.Popen([sys.executable, "-c", _PRELUDE + body, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert stage.stdout is not None
    assert stage.stdout.readline() == "up\n"
    parts = descendants(stage.pid)
    assert len(parts) == 2
    os.kill(stage.pid, signal.SIGKILL)
    stage.wait(10)
    stage.stdout.close()
    end = time.monotonic() + 20
    while any(_alive(pid) for pid in parts):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("script", "timeout", "said"),
    [("echo out of order >&2; exit 3", 10, "status 3: out of order"), ("exec sleep 300", 0.3, "was not ready after")],
)
def test_a_part_that_does_not_come_up_is_named(tmp_path: Path, script: str, timeout: float, said: str) -> None:
    done = _run(
        f"""
start("part", {script!r})
try:
    processes.await_ready("part", lambda: False, {timeout})
except StageError as wrong:
    print(wrong)
processes.stop_all()
""",
        tmp_path,
    )
    assert said in done.stdout, done.stderr
    assert "part" in done.stdout


def test_a_part_that_ends_by_itself_is_noticed(tmp_path: Path) -> None:
    done = _run(
        """
start("part", "exit 4")
while not (dead := processes.first_dead()):
    time.sleep(0.02)
print(dead[0], "status 4" in dead[1])
processes.forget("part")
print(processes.first_dead(), processes.pids())
""",
        tmp_path,
    )
    assert done.stdout == "part True\nNone {}\n", done.stderr
