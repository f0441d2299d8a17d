"""The runs that this process executes: their threads, what they say, and how they are told to end. Thread-safe.

What a run says is kept for its callers in a buffer of bounded size. Whoever reads too slowly misses the oldest pieces
and is told how much; the run never waits for a reader, and its recording has everything that its limit lets through.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from threading import Condition, Lock, Thread

from gateway.app.deploy_ports import Output, Runner, SqlAccess, Stop
from gateway.core.errors import Refusal, Unavailable

MOST_AT_ONCE = 32
MOST_BUFFERED = 512 * 1024
_COST = 128  # of a piece, whatever it holds
_BUSY = Refusal(
    "too-many-runs",
    f"This gateway runs {MOST_AT_ONCE} deploys already.",
    next_steps=("Try again in a moment.",),
)


class Feed:
    """What one run says, from its beginning or from where the buffer still reaches back to."""

    def __init__(self) -> None:
        self._changed = Condition(Lock())
        self._pieces: deque[Output] = deque()
        self._first = 0  # number of the oldest piece that is kept
        self._size = 0
        self._is_over = False
        self._listeners: dict[int, Callable[[], None]] = {}
        self._next_listener = 0

    def put(self, piece: Output) -> None:
        """Say something. Never waits for a reader."""
        with self._changed:
            self._pieces.append(piece)
            self._size += _COST + len(piece.data)
            while self._size > MOST_BUFFERED and len(self._pieces) > 1:
                self._size -= _COST + len(self._pieces.popleft().data)
                self._first += 1
            self._tell()

    def close(self) -> None:
        """Nothing more will be said."""
        with self._changed:
            self._is_over = True
            self._tell()

    def since(self, number: int) -> tuple[list[Output], int, int, bool]:
        """(pieces from `number` on, number of the next one, how many were missed, whether that was all)."""
        with self._changed:
            missed = max(0, self._first - number)
            start = max(0, number - self._first)
            pieces = [piece for place, piece in enumerate(self._pieces) if place >= start]
            return pieces, self._first + len(self._pieces), missed, self._is_over

    def wait(self, number: int, seconds: float) -> bool:
        """True once there is a piece `number` or an end."""
        with self._changed:
            there = lambda: self._is_over or self._first + len(self._pieces) > number  # noqa: E731
            return self._changed.wait_for(there, seconds)

    def listen(self, told: Callable[[], None]) -> Callable[[], None]:
        """`told` is called at every change, from the run's thread, and returns at once. Call the result to end it."""
        with self._changed:
            number = self._next_listener
            self._next_listener += 1
            self._listeners[number] = told

        def end() -> None:
            with self._changed:
                self._listeners.pop(number, None)

        return end

    def _tell(self) -> None:
        self._changed.notify_all()
        for told in self._listeners.values():
            told()


@dataclass(slots=True)
class _Live:
    feed: Feed
    deadline: datetime
    thread: Thread | None = None
    stop: Stop | None = None
    why: str = ""
    is_cancelled: bool = False


class LiveRuns:
    """The registry of one process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._runs: dict[str, _Live] = {}

    def reserve(self, run_id: str, deadline: datetime) -> Feed:
        """A place for a run that is about to be stored; Unavailable when all are taken."""
        with self._lock:
            if len(self._runs) >= MOST_AT_ONCE:
                raise Unavailable(_BUSY)
            live = _Live(Feed(), deadline)
            self._runs[run_id] = live
            return live.feed

    def start(self, run_id: str, work: Callable[[], None]) -> None:
        """Execute in a thread of its own; the place is given back when it ends, however it ends. Raises Unavailable."""

        def guarded() -> None:
            try:
                work()
            finally:
                self.discard(run_id)

        thread = Thread(target=guarded, name=run_id, daemon=True)
        with self._lock:
            self._runs[run_id].thread = thread
        try:
            thread.start()
        except RuntimeError as why:  # the process has no room for one more; the run's books are closed by `RunWatch`
            self.discard(run_id)
            raise Unavailable(_BUSY) from why

    def discard(self, run_id: str) -> None:
        """Give a place back."""
        with self._lock:
            live = self._runs.pop(run_id, None)
        if live is not None:
            live.feed.close()

    def feed(self, run_id: str) -> Feed | None:
        """What a run of this process says; None when it is over or another's."""
        with self._lock:
            live = self._runs.get(run_id)
            return live.feed if live else None

    def ids(self) -> frozenset[str]:
        """What runs here."""
        with self._lock:
            return frozenset(self._runs)

    def begun(self) -> frozenset[str]:
        """What runs here and was stored: a place is taken before that, and storing may have to wait."""
        with self._lock:
            return frozenset(run_id for run_id, live in self._runs.items() if live.thread is not None)

    def expect_end(self, run_id: str, deadline: datetime) -> None:
        """When what a run does now must be over."""
        with self._lock:
            if run_id in self._runs:
                self._runs[run_id].deadline = deadline

    def overdue(self, at: datetime) -> tuple[str, ...]:
        """What should be over by now; known without the store."""
        with self._lock:
            return tuple(run_id for run_id, live in self._runs.items() if live.deadline <= at)

    def stop(self, run_id: str, why: str, *, is_cancelled: bool = True) -> None:
        """End a run: its command now, and no further step. The first reason stands."""
        with self._lock:
            live = self._runs.get(run_id)
            if live is None:
                return
            if not live.why:
                live.why, live.is_cancelled = why, is_cancelled
            stop = live.stop
        if stop is not None:
            stop()

    def stop_all(self, why: str, seconds: float) -> None:
        """The process ends: stop every run and wait for its end to be stored, for a while."""
        with self._lock:
            threads = {run_id: live.thread for run_id, live in self._runs.items()}
        for run_id in threads:
            self.stop(run_id, why)
        for thread in threads.values():
            if thread is not None:
                thread.join(seconds)

    def stopped(self, run_id: str) -> tuple[str, bool]:
        """(why a run is to end, whether somebody wanted it to); ("", False) while it may go on."""
        with self._lock:
            live = self._runs.get(run_id)
            return (live.why, live.is_cancelled) if live else ("it is not held here any more", False)

    def on_stop(self, run_id: str, stop: Stop | None) -> None:
        """What ends the command that runs now. Called at once when the run is to end already."""
        with self._lock:
            live = self._runs.get(run_id)
            if live is None:
                return
            live.stop = stop
            is_over = bool(live.why)
        if is_over and stop is not None:
            stop()


@dataclass(frozen=True, slots=True)
class DeployMeans:
    """What deploys need beside the rest of the context. `runner` None where this process cannot reach targets."""

    live: LiveRuns
    runner: Runner | None = None
    sql: SqlAccess | None = None
    sql_runner: Runner | None = None

    def for_sql(self) -> "tuple[Runner, SqlAccess]":
        """Both parts of a migration; Unavailable without them."""
        if self.sql_runner is None or self.sql is None:
            raise Unavailable(_NOT_HERE)
        return self.sql_runner, self.sql

    def for_commands(self) -> Runner:
        """The runner; Unavailable without one."""
        if self.runner is None:
            raise Unavailable(_NOT_HERE)
        return self.runner


_NOT_HERE = Refusal("deploys-closed", "This gateway process does not run deploys.")


def no_means() -> DeployMeans:
    """Stands in where nothing is deployed."""
    return DeployMeans(LiveRuns())


def noted(at: datetime, text: str, target: str = "") -> Output:
    """A sentence of the gateway's own."""
    return Output("note", at, target, facts={"text": text})
