import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.meter import Row, interleaved, memory_kib, threads, timed
from tests.bench.servers import SshPaths

TIMEOUT_S = 300


BULK = ("cat", "scp")
PARTS = ("login", *BULK, "echo", "load")


def measure(paths: SshPaths, payload: Path, parts: Sequence[str], *, quick: bool) -> Iterator[Row]:
    """Row by row, as they are ready. `parts` are of PARTS."""
    keys = 100 if quick else 400
    rounds = 1 if quick else 3
    if "login" in parts:
        logins = Row("`ssh host true`", "ms", is_rate=False, cpu_unit="ms")
        interleaved(logins, _each(paths, _login), paths.pids, 3 if quick else 11, per=1000)
        yield logins
    if "cat" in parts:
        yield _bulk("`cat` down", _down, paths, payload, rounds)
        yield _bulk("`cat` up", _up, paths, payload, rounds)
    if "scp" in parts:
        yield _bulk("`scp` down", _scp_down, paths, payload, rounds)
        yield _bulk("`scp` up", _scp_up, paths, payload, rounds)
    if "echo" in parts:
        yield from _echo(paths, keys)
    if "load" in parts:
        yield from _echo_under_load(paths, payload, keys, rounds)


def _bulk(name: str, once: Callable[[Path, str, Path], float], paths: SshPaths, payload: Path, rounds: int) -> Row:
    megabytes = payload.stat().st_size / 1e6
    row = Row(f"{name}, {megabytes:.0f} MB", "MB/s", is_rate=True, cpu_unit="s/GB")
    runs = _each(paths, lambda config, host: megabytes / once(config, host, payload))
    interleaved(row, runs, paths.pids, rounds, per=1000 / megabytes)
    return row


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


def _scp_down(config: Path, host: str, payload: Path) -> float:
    with tempfile.TemporaryDirectory(dir=payload.parent) as place:
        return timed(lambda: _run(["scp", "-q", "-F", str(config), f"{host}:{payload}", place]))


def _scp_up(config: Path, host: str, payload: Path) -> float:
    with tempfile.TemporaryDirectory(dir=payload.parent) as place:
        Path(place).chmod(0o777)  # the account on the target is another one
        return timed(lambda: _run(["scp", "-q", "-F", str(config), str(payload), f"{host}:{place}/copy"]))


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


def _echo_under_load(paths: SshPaths, payload: Path, keys: int, rounds: int) -> list[Row]:
    """The same while two others read as fast as they can, through the same path."""
    names = ("keystroke echo p50, two bulk streams", "keystroke echo p99, two bulk streams")
    rows = [Row(name, "ms", is_rate=False) for name in names]
    for _ in range(rounds):
        for name, host in paths.hosts.items():
            cuts = statistics.quantiles(_loaded_echo_times(paths.config, host, payload, keys), n=100)
            for row, at in zip(rows, (49, 98), strict=True):
                row.add(name, 1000 * cuts[at])
    return rows


def _loaded_echo_times(config: Path, host: str, payload: Path, keys: int) -> list[float]:
    argv = _ssh(config, host, f"while cat {payload}; do :; done")
    readers = [subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for _ in range(2)]
    try:
        return _echo_times(config, host, keys)
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()


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
