"""The stage's processes: started in order, stopped in reverse, and nobody left behind.

Three nets, each for what the one before misses: every child gets a death signal (the stage was killed), the
stage is a subreaper (sshd's sessions outlive their parent), and stopping goes over all descendants.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
STOP_S = 10.0


class StageError(Exception):
    """A part of the stage did not come up; the text says which and where its log is."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The system account that a process runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    stop_signal: signal.Signals
    log: Path


class Processes:
    """What the stage has started."""

    def __init__(self) -> None:
        self._children: list[_Child] = []
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        owner: Owner | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        stdout: Path | None = None,
    ) -> int:
        """Run a program with its output in `log`; its process id. It gets `stop_signal` when the stage dies."""
        with log.open("ab") as output, (stdout or log).open("ab") as answer:
            process = subprocess.Popen(
                list(argv),
                env=dict(env) if env is not None else None,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches the stage, which stops its parts in order
                user=owner.uid if owner else None,
                group=owner.gid if owner else None,
                extra_groups=[] if owner else None,
                preexec_fn=_dies_with(os.getpid(), stop_signal),  # noqa: PLW1509  short; the stage has no threads
            )
        self._children.append(_Child(name, process, stop_signal, log))
        return process.pid

    def await_ready(self, name: str, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until the named process serves; StageError when it died or took too long."""
        child = next(c for c in reversed(self._children) if c.name == name)
        end = time.monotonic() + timeout_s
        while not is_ready():
            if child.process.poll() is not None:
                raise StageError(
                    f"{name} stopped with status {child.process.returncode}: {_last_line(child.log)} ({child.log})"
                )
            if time.monotonic() > end:
                raise StageError(f"{name} was not ready after {timeout_s:.0f} s; its log is {child.log}")
            time.sleep(0.05)

    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {child.name: child.process.pid for child in self._children}

    def first_dead(self) -> tuple[str, str] | None:
        """(name, sentence) of a process that ended by itself, None while all live."""
        for child in self._children:
            if child.process.poll() is not None:
                return (
                    child.name,
                    f"{child.name} stopped with status {child.process.returncode}; its log is {child.log}",
                )
        return None

    def forget(self, name: str) -> None:
        """Take a dead process off the list."""
        self._children = [c for c in self._children if c.name != name or c.process.poll() is None]

    def stop_all(self) -> None:
        """Stop everything in reverse order, then whatever they left."""
        while self._children:
            child = self._children.pop()
            _end(child, child.stop_signal)
        _end_descendants()


def _dies_with(parent: int, death_signal: signal.Signals) -> Callable[[], None] | None:
    if _LIBC is None:
        return None

    def set_death_signal() -> None:
        signal.signal(death_signal, signal.SIG_DFL)  # `gw demo &` in a script ignores SIGINT, and so would its parts
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # the stage died before the call took hold
            os._exit(1)

    return set_death_signal


def _end(child: _Child, stop_signal: signal.Signals) -> None:
    if child.process.poll() is None:
        child.process.send_signal(stop_signal)
    try:
        child.process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.process.kill()
        child.process.wait(STOP_S)


def _end_descendants() -> None:
    """Orphans of our children became ours (subreaper): ask them, then make them."""
    for death in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + STOP_S / 5
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, death)
        while descendants(os.getpid()) and time.monotonic() < end:
            _reap()
            time.sleep(0.02)
    _reap()


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def descendants(pid: int) -> list[int]:
    """Process ids of all that descend from `pid`, dead but unreaped ones left out. Linux only, else empty."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # proc(5): the name may hold spaces and parentheses, so read from its last one
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(stat.parent.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


def listens(host: str, port: int) -> bool:
    """True when something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
