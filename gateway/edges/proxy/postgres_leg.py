"""One connection of the database door, to the client or to the target: read by a coroutine first, then relayed."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from enum import IntFlag
from typing import cast

WRITE_HIGH = 1 << 20  # bytes that may wait for a slow reader before the other side is paused
SCRATCH = (1 << 18) - (1 << 12)  # encrypted, too, it stays below what `gw serve` has the C library map apart
_FLUSH_S = 1.0


class LegClosed(ConnectionError):
    """The other side has closed the connection, or it broke."""


class Pause(IntFlag):
    """Why a leg is not read from; it is read when no reason is left."""

    INBOX = 1
    SLOW_PEER = 2
    NOT_DURABLE = 4
    CROWDED = 8
    ENDING = 16
    SPOOL = 32
    CUT = 64
    CANCELLING = 128
    TURN = 256


class Leg(asyncio.BufferedProtocol):
    """`scratch` is the read buffer shared by all legs of one loop: bytes are copied out before the next read."""

    def __init__(self, scratch: memoryview) -> None:
        self._scratch = scratch
        self._transport: asyncio.Transport | None = None
        self._inbox = bytearray()
        # Made when somebody waits: an asyncio.Event is 760 bytes, and thousands of idle sessions have two legs each.
        self._arrival: asyncio.Future[None] | None = None
        self._loss: asyncio.Future[None] | None = None
        self._receive: Callable[[bytes], None] | None = None
        self._on_lost: Callable[[], None] | None = None
        self._paused = 0  # reasons, as a plain number: asked for every chunk
        self.peer: Leg | None = None
        self.is_lost = False
        self._closes_within_s = 0.0

    # ------------------------------------------------------------ what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._adopt(cast(asyncio.Transport, transport))  # uvloop's is one in all but its base class

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - one buffer fits all
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        chunk = bytes(self._scratch[:nbytes])
        if self._receive is not None:
            self._receive(chunk)
            return
        self._inbox += chunk
        self.pause(Pause.INBOX)  # a coroutine takes it: nothing more until then, so memory stays bounded
        _wake(self._arrival)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - any loss is a loss
        self.is_lost = True
        _wake(self._arrival)
        _wake(self._loss)
        if self._on_lost is not None:
            self._on_lost()

    def pause_writing(self) -> None:
        if self.peer is not None:
            self.peer.pause(Pause.SLOW_PEER)

    def resume_writing(self) -> None:
        if self.peer is not None:
            self.peer.resume(Pause.SLOW_PEER)

    # ------------------------------------------------------------ what the door calls

    async def read(self) -> bytes:
        """The bytes that have arrived, at least one; LegClosed at the end."""
        while not self._inbox:
            if self.is_lost:
                raise LegClosed
            self._arrival = asyncio.get_running_loop().create_future()
            self.resume(Pause.INBOX)
            await self._arrival
        taken = bytes(self._inbox)
        self._inbox.clear()
        return taken

    def relay(self, receive: Callable[[bytes], None], on_lost: Callable[[], None]) -> None:
        """From now on chunks go to `receive`, what has come already first; `on_lost` is called once at the end."""
        self._receive, self._on_lost = receive, on_lost
        if self._inbox:
            waiting = bytes(self._inbox)
            self._inbox.clear()
            receive(waiting)
        if self.is_lost:
            on_lost()
        else:
            self.resume(Pause.INBOX)

    def write(self, data: bytes) -> None:
        """Queue; nothing happens on a lost connection."""
        if data and self._transport is not None and not self.is_lost:
            self._transport.write(data)

    def pause(self, why: Pause) -> None:
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._paused |= why.value

    def is_paused(self, why: Pause) -> bool:
        """True for any of these reasons."""
        return bool(self._paused & why.value)

    def resume(self, why: Pause) -> None:
        if not self._paused:
            return
        self._paused &= ~why.value
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self, flush_s: float = _FLUSH_S) -> None:
        """Close once what is queued has gone out, and after `flush_s` in any case. The first call counts."""
        if self._transport is None or self.is_lost or self._closes_within_s:
            return
        self._closes_within_s = flush_s
        self._transport.close()
        asyncio.get_running_loop().call_later(flush_s, self.abort)

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None and not self.is_lost:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Return once the connection is gone after `close` or `abort`; a connection lost during TLS may not tell."""
        if self._transport is not None and not self.is_lost:
            self._loss = asyncio.get_running_loop().create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._closes_within_s + _FLUSH_S):
                    await self._loss

    async def start_tls(self, context: ssl.SSLContext, timeout_s: float, server_hostname: str | None = None) -> None:
        """Encrypt. As the server side unless `server_hostname` is given. OSError or LegClosed when that fails."""
        if self._transport is None or self.is_lost:
            raise LegClosed
        encrypted = await asyncio.get_running_loop().start_tls(
            self._transport,
            self,
            context,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
            ssl_handshake_timeout=timeout_s,
        )
        if encrypted is None:
            raise LegClosed
        self._adopt(encrypted)

    def tune(self) -> None:
        """`tune` for a connection that this side opened."""
        if self._transport is not None:
            tune(self._transport.get_extra_info("socket"))

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS state, None on a plain connection."""
        found = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        return found if isinstance(found, ssl.SSLObject) else None

    def _adopt(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._paused = 0
        transport.set_write_buffer_limits(high=WRITE_HIGH)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def tune(sock: socket.socket) -> None:
    """TCP_NODELAY, without which late notices reorder; keep-alives, so that half-open connections are found."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
