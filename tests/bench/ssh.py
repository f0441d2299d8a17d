import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.bench.meter import Row, interleaved, memory_kib, threads, timed
from tests.bench.servers import SshPaths

TIMEOUT_S = 300


def measure(paths: SshPaths, payload: Path, *, quick: bool) -> list[Row]:
    megabytes = payload.stat().st_size / 1e6
    per_gb = 1000 / megabytes
    logins = Row("`ssh host true`", "ms", is_rate=False, cpu_unit="ms")
    down = Row(f"`cat` down, {megabytes:.0f} MB", "MB/s", is_rate=True, cpu_unit="s/GB")
    up = Row(f"`cat` up, {megabytes:.0f} MB", "MB/s", is_rate=True, cpu_unit="s/GB")
    interleaved(logins, _each(paths, _login), paths.pids, 3 if quick else 11, per=1000)
    for row, once in ((down, _down), (up, _up)):
        runs = _each(paths, lambda config, host, once=once: megabytes / once(config, host, payload))
        interleaved(row, runs, paths.pids, 1 if quick else 3, per=per_gb)
    copy = Row(f"`scp` down, {megabytes:.0f} MB", "MB/s", is_rate=True, cpu_unit="s/GB")
    with tempfile.TemporaryDirectory(dir=payload.parent) as place:
        runs = _each(paths, lambda config, host: megabytes / _scp(config, host, payload, Path(place) / "copy"))
        interleaved(copy, runs, paths.pids, 1 if quick else 3, per=per_gb)
    keys = 100 if quick else 400
    return [logins, down, up, copy, *_echo(paths, keys), *_echo_under_load(paths, payload, keys)]


def _each(paths: SshPaths, once: Callable[[Path, str], float]) -> dict[str, Callable[[], float]]:
    return {name: lambda host=host: once(paths.config, host) for name, host in paths.hosts.items()}


def _ssh(config: Path, host: str, *words: str) -> list[str]:
    return ["ssh", "-F", str(config), host, *words]


def _login(config: Path, host: str) -> float:
    return 1000 * timed(lambda: _run(_ssh(config, host, "true")))


def _down(config: Path, host: str, payload: Path) -> float:
    return timed(lambda: _run(_ssh(config, host, f"cat {payload}")))


def _up(config: Path, host: str, payload: Path) -> float:
    with payload.open("rb") as source:
        return timed(lambda: _run(_ssh(config, host, "cat > /dev/null"), stdin=source))


def _scp(config: Path, host: str, payload: Path, copy: Path) -> float:
    return timed(lambda: _run(["scp", "-q", "-F", str(config), f"{host}:{payload}", str(copy)]))


def _run(argv: list[str], stdin: object = subprocess.DEVNULL) -> None:
    subprocess.run(argv, stdin=stdin, stdout=subprocess.DEVNULL, check=True, timeout=TIMEOUT_S)  # type: ignore[call-overload]


# ---------------------------------------------------------------- keystrokes


def _echo(paths: SshPaths, keys: int) -> list[Row]:
    """Round trip of one typed byte through a raw terminal, with nothing else going on."""
    rows = [Row("keystroke echo p50", "ms", is_rate=False), Row("keystroke echo p99", "ms", is_rate=False)]
    for _ in range(3):
        for name, host in paths.hosts.items():
            times = _echo_times(paths.config, host, keys)
            cuts = statistics.quantiles(times, n=100)
            rows[0].add(name, 1000 * cuts[49])
            rows[1].add(name, 1000 * cuts[98])
    return rows


def _echo_under_load(paths: SshPaths, payload: Path, keys: int) -> list[Row]:
    """The same while two others read as fast as they can, through the same path."""
    names = ("keystroke echo p50, two bulk streams", "keystroke echo p99, two bulk streams")
    rows = [Row(name, "ms", is_rate=False) for name in names]
    for name, host in paths.hosts.items():
        argv = _ssh(paths.config, host, f"while :; do cat {payload}; done")
        readers = [subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for _ in range(2)]
        try:
            cuts = statistics.quantiles(_echo_times(paths.config, host, keys), n=100)
        finally:
            for reader in readers:
                reader.kill()
                reader.wait()
        for row, at in zip(rows, (49, 98), strict=True):
            row.add(name, 1000 * cuts[at])
    return rows


def _echo_times(config: Path, host: str, keys: int) -> list[float]:
    argv = _ssh(config, host, "-tt", "stty raw -echo; printf ready; exec cat")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        got, writes = client.stdout.fileno(), client.stdin.fileno()
        seen = b""
        while not seen.endswith(b"ready"):
            seen += os.read(got, 100) or _gone(host)
        times = []
        for _ in range(keys):
            start = time.perf_counter()
            os.write(writes, b"x")
            os.read(got, 1) or _gone(host)
            times.append(time.perf_counter() - start)
            time.sleep(0.002)  # a person's pace, sped up; back to back would measure throughput
        client.kill()
    return times


def _gone(host: str) -> bytes:
    raise RuntimeError(f"{host} closed the connection")


# ---------------------------------------------------------------- memory


def memory(paths: SshPaths, counts: tuple[int, ...]) -> list[Row]:
    """Memory of the gateway per idle terminal session (KiB, proportional set size)."""
    pid, host = paths.pids["gateway"], paths.hosts["gateway"]
    before = memory_kib(pid)
    rows = []
    with ExitStack() as stack:
        clients: list[subprocess.Popen[bytes]] = []
        stack.callback(lambda: [client.kill() for client in clients])
        for count in counts:
            while len(clients) < count:
                clients += [_idle(paths.config, host) for _ in range(min(10, count - len(clients)))]
                for client in clients[-10:]:
                    _await_prompt(client, host)
            row = Row(f"SSH, {count} idle sessions, {threads(pid)} threads", "KiB each", is_rate=False)
            row.add("gateway", (memory_kib(pid) - before) / count)
            rows.append(row)
    return rows


def _idle(config: Path, host: str) -> subprocess.Popen[bytes]:
    argv = _ssh(config, host, "-tt", "printf ready; exec cat")
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _await_prompt(client: subprocess.Popen[bytes], host: str) -> None:
    assert client.stdout is not None
    seen = b""
    while b"ready" not in seen:
        seen += os.read(client.stdout.fileno(), 100) or _gone(host)
