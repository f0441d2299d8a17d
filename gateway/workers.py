"""`gw serve --workers N`: N processes behind the same ports, and one that starts them and starts them again.

The kernel spreads connections over the workers (SO_REUSEPORT). Each worker is a gateway of its own to the others: its
name is NAME-1, NAME-2 …, it has its own lock on the state directory, its own recorder's spool and its own leases. The
database is shared. The parent holds the ports (bound, not listening), so that nobody else can take them while a
worker is being started again, and reads nothing from anybody.
"""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from time import monotonic

from gateway.bootstrap import gateway_name, hold, private_directory
from gateway.settings import Settings

LOG = logging.getLogger("gateway")
READY_SECONDS = 60.0
STOP_SECONDS = 30.0
_LOOK_EVERY = 0.2
_SHORT_LIFE = 10.0  # a worker that lives no longer has failed to start
_MOST_FAILURES = 5  # in a row; then the whole gateway stops and says so


class WorkerFailedError(Exception):
    """A worker does not start; its own words are on stderr."""


@dataclass(slots=True)
class _Worker:
    number: int
    process: "subprocess.Popen[bytes]"
    since: float = field(default_factory=monotonic)
    failures: int = 0


class Workers:
    """Started, watched and stopped by one thread. `woken` is readable when it is time to stop."""

    def __init__(self, argv: Sequence[str], environments: Sequence[Mapping[str, str]], woken: int) -> None:
        self._argv = argv
        self._environments = environments
        self._woken = woken
        self._workers: list[_Worker] = []
        self.ready = b""

    def run(self, announce: "Announce") -> int:
        """Until it is time to stop; the exit status. The first worker starts alone: it makes what is missing."""
        try:
            for number in range(1, len(self._environments) + 1):
                self._workers.append(self._start(number))
            announce(self.ready)
            while not self._is_time_to_stop(_LOOK_EVERY):
                self._look_after()
        except WorkerFailedError as why:
            LOG.error("%s", why)  # noqa: TRY400 - the worker has told its story
            return 1
        else:
            return 0
        finally:
            self._stop()

    def _start(self, number: int) -> _Worker:
        process = subprocess.Popen(  # noqa: S603 - our own command line
            [*self._argv, "--worker", str(number)],
            env={**os.environ, **self._environments[number - 1]},
            stdin=subprocess.PIPE,  # its end is how a worker learns that the parent died
            stdout=subprocess.PIPE,
        )
        worker = _Worker(number, process)
        out = process.stdout
        if out is None:
            raise AssertionError("it is a pipe")
        readable, _, _ = select.select([out], [], [], READY_SECONDS)
        line = out.readline() if readable else b""
        if not line:
            process.kill()
            process.wait()
            raise WorkerFailedError(f"worker {number} does not start")
        self.ready = line
        return worker

    def _look_after(self) -> None:
        for place, worker in enumerate(self._workers):
            status = worker.process.poll()
            if status is not None:
                LOG.warning("worker %d ended with status %d; starting it again", worker.number, status)
                self._workers[place] = self._again(worker)

    def _again(self, dead: _Worker) -> _Worker:
        """A new process in a dead one's place; it ends what the dead one left open before it takes anybody in."""
        _close(dead.process)
        failures = dead.failures + 1 if monotonic() - dead.since < _SHORT_LIFE else 0
        while failures <= _MOST_FAILURES:
            try:
                worker = self._start(dead.number)
            except WorkerFailedError:
                failures += 1
            else:
                worker.failures = failures
                return worker
            if self._is_time_to_stop(min(2.0**failures, 10.0)):
                return dead
        raise WorkerFailedError(f"worker {dead.number} failed {failures} times in a row")

    def _is_time_to_stop(self, seconds: float) -> bool:
        return bool(select.select([self._woken], [], [], seconds)[0])

    def _stop(self) -> None:
        """All at once, each in its own order; what does not end is killed."""
        for worker in self._workers:
            worker.process.terminate()
        until = monotonic() + STOP_SECONDS
        for worker in self._workers:
            try:
                worker.process.wait(max(0.0, until - monotonic()))
            except subprocess.TimeoutExpired:
                LOG.error("worker %d does not stop; killing it", worker.number)  # noqa: TRY400
                worker.process.kill()
                worker.process.wait()
            _close(worker.process)


class Announce:
    """Says once that everything is ready, in the words of a worker."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def __call__(self, line: bytes) -> None:
        """Print or log."""
        if self._as_json:
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
        else:
            LOG.info("ready: %s", line.decode().strip())


def supervise(settings: Settings, config: Path | None, count: int, *, as_json: bool) -> int:
    """Run `count` workers until SIGTERM or SIGINT; the exit status.

    AlreadyRunningError when the state directory is held, OSError when a port cannot be had.
    """
    state = private_directory(settings.state_dir.expanduser())
    hold(state)
    name = gateway_name(settings, state)
    argv = [sys.executable, "-m", "gateway", "serve", "--json", *(("--config", str(config)) if config else ())]
    with ExitStack() as held, _stop_signals() as woken:
        ports = _reserved(settings, held)
        environments = [{**ports, "GATEWAY_NAME": f"{name}-{number}"} for number in range(1, count + 1)]
        return Workers(argv, environments, woken).run(Announce(as_json=as_json))


def stop_with_parent() -> None:
    """In a worker: when the parent is gone, however it went, stop as if it had said so."""

    def watch() -> None:
        with suppress(OSError):
            while os.read(0, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=watch, name="parent", daemon=True).start()


def shared_listener(host: str, port: int) -> socket.socket:
    """A bound socket that other processes of this user may bind too; not listening yet. OSError as `bind`."""
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _reserved(settings: Settings, held: ExitStack) -> dict[str, str]:
    """Take the ports; what the workers are told about them."""
    doors = [("API", settings.api.host, settings.api.port)]
    doors += [("SSH", settings.ssh.host, settings.ssh.port)] if settings.ssh.enabled else []
    doors += [("POSTGRES", settings.postgres.host, settings.postgres.port)] if settings.postgres.enabled else []
    told = {}
    for door, host, port in doors:
        if port:  # SO_REUSEPORT would let us share it silently with another gateway of this user
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            socket.create_server((host, port), family=family).close()
        sock = held.enter_context(shared_listener(host, port))
        told[f"GATEWAY_{door}__PORT"] = str(sock.getsockname()[1])
    return told


@contextmanager
def _stop_signals() -> Iterator[int]:
    """A descriptor that becomes readable with SIGTERM or SIGINT."""
    reads, writes = os.pipe()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda _number, _frame: os.write(writes, b"x") and None)
    try:
        yield reads
    finally:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        os.close(reads)
        os.close(writes)


def _close(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
