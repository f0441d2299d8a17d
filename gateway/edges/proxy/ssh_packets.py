"""The SSH binary packet layer (RFC 4253 §6) that paramiko's transports run on here, in place of paramiko's own.

Why another: paramiko's reads a packet of any length before login, copies each one several times and closes a
socket without waking who reads it. The interface is the one that `paramiko.Transport` calls.

What makes it fast is that threads seldom change: many packets are read by one call and written by one call, data
goes to its channel without passing through Transport, and the channel's reader is woken once for all of them. Keys,
nonces and counters are in `ssh_keys`.

INVARIANTS
1. No more than `limit` octets are asked for on behalf of one packet: checked on the length field, before any
   allocation. `limit` is LIMIT_BEFORE_LOGIN until `trust()` is called, LIMIT_AFTER_LOGIN then.
2. The buffer of unread octets is READ_AFTER_LOGIN long at most, or one packet if that is longer; READ_WHEN_IDLE once
   little comes at a time.
3. Nothing is decrypted or delivered before its tag (GCM, Poly1305) or MAC (encrypt-then-MAC) is verified. Plain packets
   exist only before the first NEWKEYS; encrypt-and-MAC is not spoken.
4. Sequence numbers count every packet (RFC 4253 §6.4) and restart only when `reset_seqno_*` says so (strict key
   exchange); they may not wrap during the first key exchange (CVE-2023-48795).
5. A GCM nonce is used once: its invocation counter is incremented under the lock that also writes the packet, and
   keys are changed long before 2^32 packets (RFC 5647 §7.1).
6. One packet is written whole or the connection is over. Writers exclude each other. What a socket did not take of a
   burst that must not wait is written before anything else; nothing is sealed behind it without waiting for it.
7. `close` wakes everybody who reads or writes, at once.
8. `gate` sees every message number before the message is delivered, and may refuse it by raising.
9. What `deliver` took is announced by `settle` before the layer waits for more, and before it hands out a message. It
   lies in the buffer, where packets are opened in their place: after `settle` it may be overwritten.
"""

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from paramiko import Message, SSHException
from paramiko.packet import NeedRekeyException

from gateway.edges.proxy.ssh_courtesy import COURTESY
from gateway.edges.proxy.ssh_fields import ProtocolViolationError
from gateway.edges.proxy.ssh_keys import DirectionKeys

LIMIT_BEFORE_LOGIN = 35_000  # RFC 4253 §6.1: what every implementation must be able to take
LIMIT_AFTER_LOGIN = 262_144  # as OpenSSH; a long exec command is one packet
LOOK_EVERY_MS = 60_000  # at a connection that is silent
LONGEST_LINE = 255  # RFC 4253 §4.2, the identification string
READ_WHEN_IDLE = 4_096
READ_BEFORE_LOGIN = 16_384
READ_AFTER_LOGIN = 262_144
OVERDUE_OCTETS = 1 << 28  # what may still come after a change of keys was asked for: more than all open windows
_HEAD = struct.Struct(">IB")  # lengths of packet and padding (RFC 4253 §6)
_RANDOM_AT_ONCE = 4_096
_DELIVERED = frozenset({93, 94})  # SSH_MSG_CHANNEL_WINDOW_ADJUST, SSH_MSG_CHANNEL_DATA
_OCTETS = [bytes((value,)) for value in range(256)]


Payload = tuple[bytes | bytearray | memoryview, ...]


class Burst(Message):
    """Payloads that leave together: each is the parts that it is made of."""

    def __init__(self, payloads: Sequence[Payload]) -> None:
        self.payloads = payloads


class PacketLayer:
    """What `paramiko.Transport` calls its packetizer. One thread reads; any thread writes."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._in = DirectionKeys()
        self._out = DirectionKeys()
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)
        self._start = self._end = 0  # of what is unread
        self._random, self._random_at = b"", 0
        self._limit = LIMIT_BEFORE_LOGIN
        self._chunk = READ_BEFORE_LOGIN
        self._write_lock = threading.Lock()
        self._terminal_lock = threading.Lock()
        self._terminal: int | None = None  # the descriptor, if streams make way for this connection
        self._unsent = b""  # sealed, of a burst that must not wait
        self._closed = False
        self._soon = threading.Lock()  # held, but for when `read_soon` was called: smaller than an Event
        self._soon.acquire()
        self._need_rekey = False
        self._changed = 0  # directions that have new keys since the exchange began
        self._overdue = 0  # octets read since a change of keys was asked for
        self._initial_kex_done = False  # set by paramiko.Transport
        self.gate: Callable[[int], None] = lambda _number: None
        self.deliver: Callable[[memoryview, int, int], bool] = lambda _view, _start, _end: False
        self.settle: Callable[[], None] = lambda: None
        # Seconds; set by who is above when nobody waits for what comes next, to read more at once.
        self.linger = 0.0

    # ---------------------------------------------------------------- what Transport sets

    def set_outbound_cipher(
        self, block_engine: Any, block_size: int, mac_engine: Any, mac_size: int, mac_key: bytes | None,
        sdctr: bool = False, etm: bool = False, aead: bool = False, iv_out: bytes | None = None,
    ) -> None:  # fmt: skip
        """New keys for what we send. `sdctr` only chose paramiko's padding."""
        del sdctr
        self._out.rekey(block_engine, block_size, mac_engine, mac_size, mac_key, etm=etm, aead=aead, iv=iv_out)
        self._keys_changed(1)

    def set_inbound_cipher(
        self, block_engine: Any, block_size: int, mac_engine: Any, mac_size: int, mac_key: bytes | None,
        etm: bool = False, aead: bool = False, iv_in: bytes | None = None,
    ) -> None:  # fmt: skip
        """New keys for what we read."""
        self._in.rekey(block_engine, block_size, mac_engine, mac_size, mac_key, etm=etm, aead=aead, iv=iv_in)
        self._overdue = 0
        self._keys_changed(2)

    def _keys_changed(self, direction: int) -> None:
        self._changed |= direction
        if self._changed == 3:
            self._changed = 0
            self._need_rekey = False

    def reset_seqno_out(self) -> None:
        """Strict key exchange: sequence numbers restart with new keys."""
        self._out.sequence = 0

    def reset_seqno_in(self) -> None:
        """As above."""
        self._in.sequence = 0

    def trust(self) -> None:
        """The peer has logged in: longer packets, larger reads, and no timeouts: `close` wakes who waits.

        A timeout costs a system call for each read and write. Keys are changed without one, too: whoever is sent much
        answers, if only with WINDOW_ADJUST.
        """
        self._limit = LIMIT_AFTER_LOGIN
        self._chunk = READ_AFTER_LOGIN
        with suppress(OSError):  # closed meanwhile
            self._socket.settimeout(None)

    def be_prompt(self) -> None:
        """A terminal is on this connection: streams make way for it."""
        with self._terminal_lock, suppress(OSError, ValueError):  # closed
            if self._terminal is None and not self._closed:
                COURTESY.add(self._socket.fileno())
                self._terminal = self._socket.fileno()

    def make_way(self) -> None:
        """A burst of a stream is about to be passed on."""
        if self._terminal is None:
            COURTESY.make_way()

    def read_soon(self) -> None:
        """Somebody waits for what comes next, or soon will: the reader does not linger, now or the next time."""
        if self._soon.locked():
            with suppress(RuntimeError):  # another thread was first
                self._soon.release()

    def need_rekey(self) -> bool:
        """True when Transport should begin a key exchange."""
        return self._need_rekey

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def close(self) -> None:
        """Wake readers and writers, and release the socket."""
        self._closed = True
        with self._terminal_lock:
            number, self._terminal = self._terminal, None
        if number is not None:
            COURTESY.forget(number)
        with suppress(OSError):  # it may be gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def is_writable(self) -> bool:
        """True when a short message would go out at once."""
        if self._unsent:
            return False
        poll = select.poll()
        try:
            poll.register(self._socket, select.POLLOUT)
        except (OSError, ValueError):  # closed
            return False
        return not self._write_lock.locked() and any(event & select.POLLOUT for _, event in poll.poll(0))

    # Transport calls these; the door has its own login deadline, TCP keepalive and log.
    def set_log(self, log: object) -> None:
        """Unused."""

    def start_handshake(self, timeout: float) -> None:
        """Unused."""

    def complete_handshake(self) -> None:
        """Unused."""

    def set_keepalive(self, interval: float, callback: Callable[[], object]) -> None:
        """Unused."""

    # ---------------------------------------------------------------- reading

    def _fill(self, count: int) -> None:
        """Have at least `count` unread octets in the buffer; EOFError when the stream ends first."""
        while self._end - self._start < count:
            self.settle()  # INVARIANT 9
            if self._terminal is not None:
                self._await_input(self._terminal)
            elif self.linger:
                self._soon.acquire(timeout=self.linger)
                self.linger = 0.0
            self._make_room(count)
            self._end += self._receive(self._view[self._end :])

    def _await_input(self, number: int) -> None:
        """See `ssh_courtesy`: what came stays visible to others until this thread has its turn."""
        COURTESY.end(number)
        poll = select.poll()
        poll.register(number, select.POLLIN)
        while not poll.poll(LOOK_EVERY_MS):  # `close` wakes it, unless the number was another's by then
            if self._closed:
                raise EOFError
        COURTESY.begin(number)

    def _make_room(self, count: int) -> None:
        """Move what is unread to the front of a buffer of the right size (INVARIANT 2)."""
        unread = self._end - self._start
        # A read that filled the buffer will be followed by others, and so will one that nearly did. In steps: a login
        # needs no large one, and memory that was used once is seldom given back.
        buffer, size = self._buffer, max(count, READ_WHEN_IDLE)
        if 8 * self._end >= len(buffer):
            size = max(size, min(self._chunk, 8 * self._end if self._end == len(buffer) else len(buffer)))
        if size > len(buffer) or (not unread and size != len(buffer)):
            buffer = bytearray(size)
        if unread and (self._start or buffer is not self._buffer):
            memoryview(buffer)[:unread] = self._view[self._start : self._end]
        if buffer is not self._buffer:
            self._buffer, self._view = buffer, memoryview(buffer)
        self._start, self._end = 0, unread

    def _receive(self, room: memoryview) -> int:
        is_idle = self._start == self._end
        while True:
            try:
                count = self._socket.recv_into(room)
            except TimeoutError:
                if self._closed:
                    raise EOFError from None
                if is_idle and self._need_rekey:
                    raise NeedRekeyException from None
                continue
            except OSError as lost:
                raise EOFError from lost
            if not count or self._closed:
                raise EOFError
            return count

    def readline(self, timeout: float) -> str:
        """One line of the identification exchange, without its end."""
        deadline = time.monotonic() + timeout
        while (end := self._buffer.find(b"\n", self._start, self._end)) < 0:
            unread = self._end - self._start
            if unread > LONGEST_LINE or time.monotonic() > deadline:
                raise SSHException("no identification string")
            self._fill(unread + 1)
        if end - self._start > LONGEST_LINE:
            raise SSHException("the identification string is too long")
        line = self._buffer[self._start : end]
        self._start = end + 1
        return line.rstrip(b"\r").decode("ascii", "replace")

    def read_message(self) -> tuple[int, Message]:
        """The next message's number and the rest of its payload, but for what was delivered. One thread only."""
        while True:
            sequence = self._in.sequence
            start, end = self._open_packet()
            number = self._view[start]
            self.gate(number)  # INVARIANT 8
            if number not in _DELIVERED or not self.deliver(self._view, start, end):
                break
            if self._need_rekey:
                self.settle()
                raise NeedRekeyException
        content = bytes(self._view[start + 1 : end])
        self.settle()  # INVARIANT 9
        self.linger = 0.0
        message = Message(content)
        message.seqno = sequence  # Transport reads it (strict kex, UNIMPLEMENTED)
        return number, message

    def _open_packet(self) -> tuple[int, int]:
        """Open the next packet in its place: where in the view its payload begins and ends."""
        keys, start = self._in, self._start
        if self._end - start < 4:
            self._fill(4)
            start = self._start
        length = keys.length(self._view, start)
        if not 5 <= length <= self._limit:  # INVARIANT 1
            raise ProtocolViolationError(f"a packet of {length} octets")
        total = 4 + length + keys.tag
        if self._end - start < total:
            self._fill(total)
            start = self._start
        view, body, end = self._view, start + 4, start + 4 + length
        if keys.is_gcm:
            keys.engine.decrypt_into(keys.nonce(), view[body : start + total], view[start:body], view[body:end])
        else:
            view[body:end] = keys.open(view[start : start + total], length)
        self._start = start + total
        padding = view[body]
        if not 4 <= padding <= length - 2:
            raise ProtocolViolationError(f"padding of {padding} in a packet of {length} octets")
        if keys.count(total, not self._initial_kex_done) or self._need_rekey:
            self._watch_wear(4 + length)
        return body + 1, end - padding

    def _watch_wear(self, octets: int) -> None:
        """A packet came under worn keys, or after a change of keys was asked for."""
        if self._need_rekey:
            self._overdue += octets
            if self._overdue > OVERDUE_OCTETS:
                raise SSHException("the peer ignores requests for new keys")
        else:
            self._need_rekey = True

    # ---------------------------------------------------------------- writing

    def send_message(self, data: Message) -> None:
        """Frame, seal and write one message, or those of a `Burst`."""
        payloads = data.payloads if isinstance(data, Burst) else ((data.asbytes(),),)
        with self._write_lock:
            if self._unsent:
                self.write_all(self._unsent)
                self._unsent = b""
            sealed = self._sealed(payloads)
            sent = self._write(sealed)
            if sent < len(sealed):
                self.write_all(sealed[sent:])

    def send_now(self, payloads: Sequence[Payload]) -> bool:
        """As `send_message`, for who must not wait: False when nothing was sent; see also `is_flushed`."""
        if not self._write_lock.acquire(blocking=False):
            return False
        try:
            if self._unsent:
                return False
            sealed = self._sealed(payloads)
            sent = self._write(sealed, socket.MSG_DONTWAIT)
            if sent < len(sealed):
                self._unsent = bytes(sealed[sent:])
            return True
        finally:
            self._write_lock.release()

    @property
    def is_flushed(self) -> bool:
        """False while something of `send_now` waits for the next `send_message`."""
        return not self._unsent

    def _sealed(self, payloads: Sequence[Payload]) -> memoryview:
        """Packets, one after the other, each sealed in the place where it was put together."""
        keys, first_exchange = self._out, not self._initial_kex_done
        out, ends = self._framed(payloads)
        start, is_worn = 0, False
        for end in ends:
            if keys.is_gcm:
                body, tag = start + 4, end - keys.tag
                keys.engine.encrypt_into(keys.nonce(), out[body:tag], out[start:body], out[body:end])
            elif keys.engine is not None:
                keys.seal(out[start:end])
            is_worn = keys.count(end - start, first_exchange)
            start = end
        if is_worn:
            self._need_rekey = True
        return out

    def _framed(self, payloads: Sequence[Payload]) -> tuple[memoryview, list[int]]:
        """Packets in the clear with room for their tags, all copied by one call; and where each ends."""
        keys = self._out
        # The length field is part of the first block only while nothing is encrypted (RFC 4253 §6, RFC 5647 §7.2).
        block, outside, room = keys.block, 0 if keys.engine is None else 4, bytes(keys.tag)
        pieces: list[bytes | bytearray | memoryview] = []
        ends, end = [], 0
        for parts in payloads:
            size = 5 + sum(map(len, parts))
            padding = block - (size - outside) % block
            if padding < 4:
                padding += block
            end += size + padding + keys.tag
            ends.append(end)
            pieces += (_HEAD.pack(size + padding - 4, padding), *parts, self._padding(padding), room)
        return memoryview(bytearray().join(pieces)), ends

    def _padding(self, count: int) -> bytes:
        """Random octets, used once (RFC 4253 §6); asking the system for each packet's few would change threads."""
        at = self._random_at
        if at + count > len(self._random):
            self._random, at = os.urandom(_RANDOM_AT_ONCE), 0
        self._random_at = at + count
        return self._random[at : at + count]

    def _write(self, octets: memoryview, flags: int = 0) -> int:
        """One system call; how much the socket took."""
        if not octets:
            return 0
        try:
            sent = self._socket.send(octets, flags)
        except (TimeoutError, BlockingIOError):
            sent = 0
        except OSError as lost:
            self._closed = True  # INVARIANT 6: a packet that is half written ends everything
            raise EOFError from lost
        if self._closed:
            raise EOFError
        return sent

    def write_all(self, out: bytes | memoryview) -> None:
        """Write every octet or end the connection (EOFError). Also called for the identification string."""
        view = memoryview(out)
        while view:
            try:
                sent = self._socket.send(view)
            except TimeoutError:
                sent = 0  # a peer that does not read: wait on, until somebody closes
            except OSError as lost:
                self._closed = True  # INVARIANT 6: a packet that is half written ends everything
                raise EOFError from lost
            if self._closed:
                raise EOFError
            view = view[sent:]
