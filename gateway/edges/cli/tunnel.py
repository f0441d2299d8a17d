"""For clients without TLS: they speak plainly to this side, on their own machine, and it does verified TLS to the door.

psql gets a unix socket in a fresh 0700 directory, so only the same user can reach it; others a port of the loopback
address, where everybody on the machine needs a ticket as at the door. What leaves the machine is TLS.
One event loop in one thread: an SSL object must not be read and written by two threads at once.
"""

import asyncio
import os
import shutil
import socket
import ssl
import struct
import tempfile
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import TracebackType

from gateway.edges.cli import output

PORT = 5432  # only names the socket file: .s.PGSQL.5432
_SSL_REQUEST = struct.pack(">II", 8, 80877103)  # PostgreSQL protocol, message SSLRequest
_ASK_FOR_CRYPTO = (_SSL_REQUEST, struct.pack(">II", 8, 80877104))  # the latter is GSSENCRequest
LOOPBACK = "127.0.0.1"
_CHUNK = 64 * 1024
_CONNECT_S = 10.0
_CLOSE_S = 1.0
_BOUND = b"SCRAM-SHA-256-PLUS\0"
_MOST_GREETING = 8192  # bytes in one message before sign-in


class Tunnel:
    """`with Tunnel(host, port, ca) as folder:` gives the PGHOST for psql; everything is gone afterwards.

    `binds` says that the door offers sign-in bound to its certificate: a psql that sees no TLS refuses such an offer.
    With `near_port` it listens on that port (any for 0) of the loopback address instead: `near_port` is which.
    """

    def __init__(
        self, host: str, port: int, ca_file: Path, *, binds: bool = False, near_port: int | None = None
    ) -> None:
        self.near_port = near_port
        self._door = (host, port)
        self._binds = binds
        self._tls = ssl.create_default_context(cafile=str(ca_file))  # verifies chain and host name
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._folder = ""
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    def __enter__(self) -> str:
        self._folder = tempfile.mkdtemp(prefix="gw-")  # 0700
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(_CONNECT_S)
        except OSError as why:
            self.__exit__(None, None, None)
            cause = os.strerror(why.errno or 0)
            raise output.Failure(f"Port {self.near_port} of this machine cannot be had: {cause}.") from why
        return self._folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_CONNECT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CONNECT_S)
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _listen(self) -> None:
        if self.near_port is not None:
            self._server = await asyncio.start_server(self._serve, LOOPBACK, self.near_port, limit=_CHUNK)
            self.near_port = self._server.sockets[0].getsockname()[1]
            return
        path = str(Path(self._folder) / f".s.PGSQL.{PORT}")
        self._server = await asyncio.start_unix_server(self._serve, path, limit=_CHUNK)

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        task, ends = asyncio.current_task(), [near_out]
        assert task is not None, "asyncio's server runs this as a task"
        self._serving.add(task)
        try:
            with suppress(asyncio.CancelledError):  # by `_end`, which waits; asyncio would report it as a failure
                await self._carry(near_in, near_out, ends)
            await _closed(ends)
        finally:
            self._serving.discard(task)

    async def _carry(
        self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter, ends: list[asyncio.StreamWriter]
    ) -> None:
        first = await _startup(near_in, near_out) if self.near_port is not None else b""
        if first is None:
            return
        try:
            far_in, far_out = await self._reach()
        except OSError as why:  # ssl errors are OSErrors
            output.say(f"gw: the database door cannot be reached: {output.safe(why)}", err=True)
            return
        ends.append(far_out)
        far_out.write(first)
        back = _pump_greeting(far_in, near_out) if self._binds else _pump(far_in, near_out)
        pumps = [asyncio.create_task(_pump(near_in, far_out)), asyncio.create_task(back)]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raw = await asyncio.to_thread(self._ask_for_tls)
        try:
            return await asyncio.open_connection(
                sock=raw, ssl=self._tls, server_hostname=self._door[0], limit=_CHUNK, ssl_handshake_timeout=_CONNECT_S
            )
        except BaseException:
            raw.close()
            raise

    def _ask_for_tls(self) -> socket.socket:
        """Connected, with the door's consent: one byte, read alone, so nothing slips in before TLS (CVE-2021-23222)."""
        raw = socket.create_connection(self._door, _CONNECT_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            raw.sendall(_SSL_REQUEST)
            consent = raw.recv(1)
        except OSError:
            raw.close()
            raise
        if consent != b"S":
            raw.close()
            raise ConnectionError("the door does not speak TLS")
        raw.setblocking(False)
        return raw


async def _closed(ends: list[asyncio.StreamWriter]) -> None:
    """Close them; what is buffered still goes out, for a moment. They are closed afterwards, whoever is in a hurry."""
    for end in ends:
        end.close()
    closing = [asyncio.create_task(end.wait_closed()) for end in ends]
    with suppress(asyncio.CancelledError):
        await asyncio.wait(closing, timeout=_CLOSE_S)
    for end in ends:
        end.transport.abort()  # nothing, for one that is closed
    await asyncio.gather(*closing, return_exceptions=True)


async def _startup(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> bytes | None:
    """The head of the client's first packet that asks for no encryption: there is none on this side."""
    with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        async with asyncio.timeout(_CONNECT_S):
            for _ in range(len(_ASK_FOR_CRYPTO) + 1):
                first = await source.readexactly(len(_SSL_REQUEST))
                if first not in _ASK_FOR_CRYPTO:
                    return first
                sink.write(b"N")
    return None


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copy until either side ends; a slow reader slows the writer."""
    with suppress(OSError):
        while part := await source.read(_CHUNK):
            sink.write(part)
            await sink.drain()


async def _pump_greeting(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """The door's messages up to its offer of sign-in, less the bound one, and then everything as it is.

    That takes nothing from anybody: this side has checked the certificate, and psql could not bind to it.
    """
    with suppress(OSError, asyncio.IncompleteReadError):
        kind = b""
        while kind not in (b"R", b"E"):
            kind, length = await source.readexactly(1), int.from_bytes(await source.readexactly(4))
            if not 4 <= length <= _MOST_GREETING:
                return
            body = await source.readexactly(length - 4)
            if kind == b"R":
                body = body.replace(_BOUND, b"")
            sink.write(kind + (len(body) + 4).to_bytes(4) + body)
        await sink.drain()
        await _pump(source, sink)
