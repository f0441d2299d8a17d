"""The accept side that doors share: bind, bounds on strangers, one failing connection never another's business."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import IPv6Network

_log = logging.getLogger(__name__)
_BACKLOG = 512
_PAUSE_AFTER_FAILURE_S = 0.1  # accept() fails while the process is out of file descriptors
MAX_STRANGERS = 200


class Admission:
    """One accepted connection's place among the strangers, given back once it is authenticated or gone."""

    def __init__(self, sock: socket.socket, origin: str, leave: Callable[["Admission"], None]) -> None:
        self.origin = origin
        self.may_be_evicted = True
        self._sock = sock
        self._leave = leave

    def settle(self) -> None:
        """It has said who it is: from here on it keeps its place until `release`."""
        self.may_be_evicted = False

    def release(self) -> None:
        """Idempotent."""
        self._leave(self)

    def evict(self) -> None:
        """Its place is another's. Whoever serves it finds the connection ended by its peer."""
        with suppress(OSError):  # it is closed already
            self._sock.shutdown(socket.SHUT_RDWR)
        self.release()


Serve = Callable[[socket.socket, Admission], Awaitable[None]]


class Listener:
    """Accepts connections and runs `serve(sock, admission)` as a task for each.

    `serve` owns the socket. Beyond `max_strangers` unauthenticated connections each new one takes the place of the
    oldest that came from where most come from, so that silent ones shut nobody out; while none may be evicted it is
    closed at once.
    """

    def __init__(self, serve: Serve, max_strangers: int = MAX_STRANGERS) -> None:
        self._serve = serve
        self._max_strangers = max_strangers
        self._strangers: dict[Admission, None] = {}  # oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, *, reuse_port: bool = False) -> int:
        """Bind and accept; the port that was bound. OSError when that fails."""
        family, kind, proto, _, address = (
            await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        )[0]
        listening = socket.socket(family, kind, proto)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.setblocking(False)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
        self._socket = listening
        self._accepting = asyncio.create_task(self._accept(listening))
        return int(listening.getsockname()[1])

    async def stop(self) -> None:
        """Accept no more; running connections go on."""
        if self._accepting is not None:
            self._accepting.cancel()
            with suppress(asyncio.CancelledError):
                await self._accepting
        if self._socket is not None:
            self._socket.close()

    async def wait_idle(self, timeout_s: float) -> None:
        """Wait until every connection is over, cancel what is left after that time."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=timeout_s)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError:
                _log.exception("cannot accept a connection")
                await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)
                continue
            if len(self._strangers) >= self._max_strangers and not self._make_room():
                accepted.close()
                continue
            admission = Admission(accepted, origin_of(str(address[0])), self._stranger_left)
            self._strangers[admission] = None
            task = asyncio.create_task(self._run(accepted, admission))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _make_room(self) -> bool:
        evictable = [each for each in self._strangers if each.may_be_evicted]
        if not evictable:
            return False
        ((crowd, _),) = Counter(each.origin for each in evictable).most_common(1)
        next(each for each in evictable if each.origin == crowd).evict()
        return True

    async def _run(self, accepted: socket.socket, admission: Admission) -> None:
        try:
            accepted.setblocking(False)
            await self._serve(accepted, admission)
        except Exception:  # noqa: BLE001 - one connection's bug is not the next one's trouble
            _log.exception("a connection failed")
        finally:
            admission.release()

    def _stranger_left(self, admission: Admission) -> None:
        self._strangers.pop(admission, None)


def origin_of(host: str) -> str:
    """What one person can come from: an IPv4 address, or a /64 of IPv6."""
    return str(IPv6Network((host.partition("%")[0], 64), strict=False)) if ":" in host else host
