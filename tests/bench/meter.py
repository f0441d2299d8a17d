import os
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_SETTLE_S = 0.2
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Row:
    """One measurement over several paths. `value` of a path is the median of its rounds."""

    name: str
    unit: str
    is_rate: bool  # more is better
    values: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)  # of whatever stands in the middle
    cpu_unit: str = ""
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, value: float, cpu: float | None = None) -> None:
        self.values.setdefault(path, []).append(value)
        if cpu is not None:
            self.cpu.setdefault(path, []).append(cpu)

    def median(self, path: str) -> float | None:
        return statistics.median(self.values[path]) if path in self.values else None

    def cpu_mean(self, path: str) -> float | None:
        # The mean: the kernel counts in ticks of 10 ms, which only average out.
        return statistics.mean(self.cpu[path]) if path in self.cpu else None


def cpu_seconds(pid: int) -> float:
    """CPU of a process and of all children that it has waited for (proc(5): utime, stime, cutime, cstime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / _TICK


def cpu_of_tree(pid: int) -> float:
    """The same, with the children that still run."""
    total = cpu_seconds(pid)
    for child in children(pid):
        with suppress(OSError):
            total += cpu_of_tree(child)
    return total


def children(pid: int) -> list[int]:
    """Of any of its threads."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found


def memory_kib(pid: int) -> int:
    """What is its own: of pages of files, the share would change with every other process that comes or goes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Pss_Anon")


def memory_of_tree(pid: int) -> int:
    """The same, with that of its children."""
    return memory_kib(pid) + sum(memory_of_tree(child) for child in children(pid))


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def threads_of_tree(pid: int) -> int:
    """The same, with those of its children."""
    return threads(pid) + sum(threads_of_tree(child) for child in children(pid))


def interleaved(
    row: Row, paths: Mapping[str, Callable[[], float]], pids: Mapping[str, int], rounds: int, per: float = 1.0
) -> None:
    """Run every path once per round, so that a busy moment falls on all of them. `per` scales the CPU figure."""
    for _ in range(rounds):
        for path, once in paths.items():
            pid = pids.get(path)
            before = cpu_of_tree(pid) if pid else 0.0
            value = once()
            if pid:
                time.sleep(_SETTLE_S)  # a session's process is counted once its parent has noticed the end
            row.add(path, value, (cpu_of_tree(pid) - before) * per if pid else None)


def timed(action: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
