"""One end of a session channel (RFC 4254 §5): what arrived, in order, and what may be sent.

A relay is two ends. The transport's thread puts messages into an end's inbox; a pump takes them out, sends them through
the other end and says how much it has consumed. So a reader that is slow there slows the writer here.

Waking a thread for each keystroke and each burst costs more than passing them on. So while the pump has nothing to do,
the transport's thread passes data on itself, through `carry`, as far as that needs no waiting; the pump does the rest.

INVARIANTS
1. An inbox never holds more data than the window that we granted: a peer that sends more is cut off. Small messages
   are joined, and the number of messages is bounded too, so that tiny packets cannot cost more than large ones.
2. Order is kept across data, extended data, requests, replies, EOF and CLOSE.
3. The transport's thread never waits for a peer here: neither for its window nor its socket nor a key exchange. Two
   peers that both write and do not read would else stop each other for good.
4. A channel number is free again only when CLOSE was both sent and received.
5. Of the pump and the transport's thread only one is at the inbox's messages at a time.
6. What `accept` is given is lent: the layer below reads into the same memory again. What stays in the inbox is copied.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Lock

from paramiko import Message

from gateway.edges.proxy.ssh_fields import Fields, ProtocolViolationError, string, u32
from gateway.edges.proxy.ssh_messages import (
    BURST,
    CLOSE,
    DATA,
    EOF,
    EXTENDED_DATA,
    FAILURE,
    LOST,
    MAX_PACKET,
    NOTE,
    REQUEST,
    SUCCESS,
    WINDOW_ADJUST,
    Item,
    Octets,
    Sender,
    joined_data,
)

WINDOW = 2 * 1024 * 1024  # as OpenSSH grants; what piles up within stays in the caches of the processor
WIDE = 1 << 20  # octets of a peer's window; from here on nobody is in a hurry to hear that more were read
_ACK_AFTER = WINDOW // 4
_MOST_ITEMS = 65_536
_MOST_REQUEST_OCTETS = 1024 * 1024  # of requests that wait, each with what it costs to keep
_REQUEST_COST = 512
_JOIN_BELOW = 1_024
_JOIN_UP_TO = 32_768
_PATIENCE = 30.0  # seconds between looks at a peer that does not read; it is woken earlier by every change


class ChannelEnd:
    """See the module's text. `remote` is the peer's number for the channel."""

    def __init__(self, sender: Sender, number: int) -> None:
        self.number = number
        self.remote = -1
        self._sender = sender
        self._inbox: deque[Item] = deque()
        self._lock = Lock()
        self._arrived = Condition(self._lock)
        self._granted = WINDOW
        self._unacknowledged = 0
        self._request_octets = 0
        self._eof_received = False
        self._close_received = False
        self._window_lock = Lock()
        self._room = Condition(self._window_lock)
        self._window = 0
        self._packet = 0
        self._gone = False
        self._give_up_at = float("inf")
        self._eof_sent = False
        self._close_sent = False
        self.when_closed: Callable[[], None] = lambda: None  # called by the transport's thread; must not wait
        # Called by the transport's thread: passes data on as far as that needs no waiting, returns the rest.
        self.carry: Callable[[list[Item]], list[Item]] | None = None
        self._is_carrying = False
        self._is_expected = False
        self._pump_waits = False
        self._fault: Exception | None = None

    def confirm(self, remote: int, window: int, packet: int) -> None:
        """The peer's number, and what it grants."""
        if packet < 256:
            raise ProtocolViolationError(f"a channel with packets of {packet} octets")
        with self._window_lock:
            self.remote, self._window, self._packet = remote, window, min(packet, MAX_PACKET)

    # ---------------------------------------------------------------- what the transport's thread calls

    def on_data(self, message: Message) -> None:
        """SSH_MSG_CHANNEL_DATA."""
        fields = Fields(message.get_remainder())
        data = fields.string()
        fields.end()
        self.accept([data])

    def expect(self) -> None:
        """Data is there, `accept` follows at once: a pump that comes to its end now need not go on with what waits."""
        with self._lock:
            self._is_expected = True

    def accept(self, pieces: Sequence[Octets], kind: int = DATA) -> bool:
        """Data, in the pieces that it came in. Passed on here if the pump has nothing to do; else the pump is told.

        False when the pump now does what this thread could; it says when it is done (`Sender.read_soon`).
        """
        with self._lock:
            self._is_expected = False
            carries = self.carry is not None and self._pump_waits
            for piece in pieces:
                self._put_data(kind, piece if carries else bytes(piece))  # INVARIANT 6
            if self.carry is None or not carries:
                self._arrived.notify()
                return self.carry is None
            items = list(self._inbox)
            self._inbox.clear()
            self._is_carrying = True  # INVARIANT 5
        rest: list[Item] = []
        try:
            rest = self.carry(items)
        except Exception as fault:  # noqa: BLE001  # a boundary of threads: the pump raises it, and somebody answers for it
            self._fault = fault
        for item in rest:
            item.octets = bytes(item.octets)  # INVARIANT 6
        with self._lock:
            self._is_carrying = False
            self._inbox.extendleft(reversed(rest))
            is_done = not self._inbox and self._fault is None
            if not is_done:
                self._arrived.notify()
            return is_done

    def on_extended_data(self, message: Message) -> None:
        """SSH_MSG_CHANNEL_EXTENDED_DATA; only stderr (1) is defined."""
        fields = Fields(message.get_remainder())
        kind, data = fields.u32(), fields.string()
        fields.end()
        if kind != 1:
            raise ProtocolViolationError(f"extended data of type {kind}")
        self.accept([data], EXTENDED_DATA)

    def _put_data(self, kind: int, data: Octets) -> None:
        size = len(data)
        if self._eof_received or size > self._granted or size > MAX_PACKET:
            raise ProtocolViolationError("data beyond the window, the packet size or the end")  # INVARIANT 1
        self._granted -= size
        last = self._inbox[-1] if size < _JOIN_BELOW and self._inbox else None
        if last is not None and last.kind == kind and len(last.octets) < _JOIN_UP_TO:
            if not isinstance(last.octets, bytearray):
                last.octets = bytearray(last.octets)
            last.octets += data
        else:
            self._append(Item(kind, data))

    def _append(self, item: Item) -> None:
        if len(self._inbox) >= _MOST_ITEMS:
            raise ProtocolViolationError("too many small messages")
        self._inbox.append(item)

    def on_eof(self, _message: Message) -> None:
        """SSH_MSG_CHANNEL_EOF."""
        with self._lock:
            self._eof_received = True
            self._append(Item(EOF))
            self._arrived.notify()

    def on_close(self, _message: Message) -> None:
        """SSH_MSG_CHANNEL_CLOSE: whoever waits to send gives up, here and, through `when_closed`, on the other side."""
        with self._lock:
            self._eof_received = self._close_received = True
            self._append(Item(CLOSE))
            self._arrived.notify()
        self._free_number()
        self.abandon()
        self.when_closed()

    def on_request(self, message: Message) -> None:
        """SSH_MSG_CHANNEL_REQUEST."""
        fields = Fields(message.get_remainder())
        item = Item(REQUEST, b"", fields.text(), fields.boolean())
        item.octets = fields.rest()
        with self._lock:
            self._request_octets += _REQUEST_COST + len(item.octets)
            if self._request_octets > _MOST_REQUEST_OCTETS:
                raise ProtocolViolationError("too many requests on one channel")
            self._append(item)
            self._arrived.notify()

    def on_success(self, _message: Message) -> None:
        """SSH_MSG_CHANNEL_SUCCESS."""
        self._put(Item(SUCCESS))

    def on_failure(self, _message: Message) -> None:
        """SSH_MSG_CHANNEL_FAILURE."""
        self._put(Item(FAILURE))

    def on_window_adjust(self, message: Message) -> None:
        """SSH_MSG_CHANNEL_WINDOW_ADJUST."""
        self.widen(Fields(message.get_remainder()).u32())

    def widen(self, more: int) -> int:
        """The peer takes that much more; how much it takes now."""
        with self._window_lock:
            self._window += more
            if self._window > 0xFFFFFFFF:  # RFC 4254 §5.2
                raise ProtocolViolationError("a window of more than 2^32-1 octets")
            self._room.notify_all()
            return self._window

    def _unlink(self) -> None:
        """The name that paramiko.Transport calls for every channel when the connection is over."""
        with self._lock:
            self._is_expected = False
            self._inbox.append(Item(LOST))
            self._arrived.notify_all()
        self.abandon()

    def _put(self, item: Item) -> None:
        with self._lock:
            self._append(item)
            self._arrived.notify()

    # ---------------------------------------------------------------- what pumps call

    def note(self, sentence: bytes) -> None:
        """Leave a sentence for the pump that reads this end; never waits."""
        with self._lock:
            if len(self._inbox) < _MOST_ITEMS:
                self._inbox.append(Item(NOTE, sentence))
                self._arrived.notify()

    def take(self) -> list[Item]:
        """What has arrived, in order, up to a burst of data; waits for at least one item. LOST is the last item ever.

        Raises what `carry` has raised.
        """
        with self._lock:
            self._pump_waits = True
            if self._is_left_to_others():
                self._sender.read_soon()  # what comes next need not be handed over
            while self._is_left_to_others():
                self._arrived.wait(_PATIENCE)
            self._pump_waits = False
            if self._fault is not None:
                raise self._fault
            items, size = [], 0
            while self._inbox and size < BURST:
                items.append(self._inbox.popleft())
                size += len(items[-1].octets)
            if not self._inbox:
                self._request_octets = 0
        return joined_data(items) if len(items) > 1 else items

    def _is_left_to_others(self) -> bool:
        if self._is_carrying or not (self._inbox or self._fault):
            return True
        return self._is_expected and self.carry is not None and not self._fault and self._inbox[0].kind == DATA

    def consumed(self, octets: int) -> None:
        """That much data went through: the peer may send as much again."""
        if more := self._to_grant(octets):
            self._sender.post(self._adjust(more))

    def consumed_now(self, octets: int) -> bool:
        """As `consumed`, without waiting; False when the pump has to say so (`consumed(0)`)."""
        more = self._to_grant(octets)
        if not more or self._sender.post_now(self._adjust(more)):
            return True
        with self._lock:
            self._unacknowledged += more
            self._granted -= more  # the peer has not heard of it
        return False

    def _to_grant(self, octets: int) -> int:
        with self._lock:
            self._unacknowledged += octets
            if self._unacknowledged < _ACK_AFTER or self._eof_received:
                return 0
            more, self._unacknowledged = self._unacknowledged, 0
            self._granted += more
            return more

    def _adjust(self, more: int) -> bytes:
        return bytes((WINDOW_ADJUST,)) + u32(self.remote) + u32(more)

    def is_over(self) -> bool:
        """True when nothing more can be sent."""
        return self._gone

    def hurry(self, seconds: float) -> None:
        """Whoever waits for room gives up after this long: the other side has closed its channel."""
        with self._window_lock:
            self._give_up_at = min(self._give_up_at, time.monotonic() + seconds)
            self._room.notify_all()

    def abandon(self) -> None:
        """Nothing more can be sent; who waits for room gives up."""
        with self._window_lock:
            self._gone = True
            self._room.notify_all()

    def _head(self, *, stderr: bool) -> bytes:
        return bytes((EXTENDED_DATA,)) + u32(self.remote) + u32(1) if stderr else bytes((DATA,)) + u32(self.remote)

    def send_now(self, pieces: Sequence[Octets], *, stderr: bool = False) -> bool:
        """Send all of it without waiting, or nothing (False). `is_flushed` then tells whether the socket took it."""
        size = sum(map(len, pieces))
        with self._window_lock:
            if self._gone or self._eof_sent or size > self._window or max(map(len, pieces)) > self._packet:
                return False
            self._window -= size
            is_narrow = self._window < WIDE
        if is_narrow:
            self._sender.read_soon()
        if self._sender.post_data_now(self._head(stderr=stderr), pieces):
            return True
        with self._window_lock:
            self._window += size
        return False

    def is_flushed(self) -> bool:
        """True when nothing waits for the peer's socket."""
        return self._sender.is_flushed()

    def be_prompt(self) -> None:
        """The channel has a terminal."""
        self._sender.be_prompt()

    def flush(self) -> None:
        """Wait for the peer's socket."""
        self._sender.flush()

    def send(self, data: Octets, *, stderr: bool = False) -> bool:
        """Send all of it, in bursts of packets, waiting for the peer's window; False when the channel is over."""
        head = self._head(stderr=stderr)
        at = 0
        while at < len(data):
            size = self._reserve(len(data) - at)
            if not size:
                return False
            piece = data if size == len(data) else memoryview(data)[at : at + size]
            self._sender.post_data(head, piece, self._packet)
            at += size
        return True

    def _reserve(self, wanted: int) -> int:
        with self._window_lock:
            while not self._window and not self._gone:
                left = self._give_up_at - time.monotonic()
                if left <= 0:
                    return 0
                self._room.wait(min(left, _PATIENCE))
            if self._gone or self._eof_sent:
                return 0
            size = min(wanted, self._window, BURST)
            self._window -= size
            is_narrow = self._window < WIDE
        if is_narrow:
            self._sender.read_soon()
        return size

    def last_words(self, sentence: bytes, exit_status: int) -> None:
        """Stop everybody else from sending, then a sentence on stderr, the exit status and CLOSE."""
        for message in self.farewell(sentence, exit_status):
            self._sender.post(message)

    def farewell(self, sentence: bytes, exit_status: int) -> list[bytes]:
        """The messages of `last_words`, for the caller to send at once.

        Of the sentence only what fits into the window as it is: a peer that does not read is not waited for.
        """
        with self._window_lock:
            size = 0 if self._gone or self._eof_sent else min(len(sentence), self._window, self._packet)
            self._window -= size
            is_closed, self._gone = self._close_sent or self.remote < 0, True
            is_ended, self._eof_sent = self._eof_sent, True
            self._close_sent = self._close_sent or not is_closed
            self._room.notify_all()
        if is_closed:
            return []
        self._free_number()
        to = u32(self.remote)
        said = [bytes((EXTENDED_DATA,)) + to + u32(1) + string(sentence[:size])] if size else []
        said.append(bytes((REQUEST,)) + to + string(b"exit-status") + b"\0" + u32(exit_status))
        return [*said, *(() if is_ended else (bytes((EOF,)) + to,)), bytes((CLOSE,)) + to]

    def request(self, name: str, octets: bytes | bytearray, *, wants_reply: bool) -> None:
        """SSH_MSG_CHANNEL_REQUEST."""
        head = bytes((REQUEST,)) + u32(self.remote) + string(name.encode())
        self._post_open(head + bytes((wants_reply,)) + octets)

    def reply(self, *, ok: bool) -> None:
        """Answer the oldest request that wants an answer."""
        self._post_open(bytes((SUCCESS if ok else FAILURE,)) + u32(self.remote))

    def send_eof(self) -> None:
        """No more data from us; once."""
        with self._window_lock:
            if self._eof_sent or self._close_sent:
                return
            self._eof_sent = True
        self._sender.post(bytes((EOF,)) + u32(self.remote))

    def close(self) -> None:
        """SSH_MSG_CHANNEL_CLOSE; once."""
        with self._window_lock:
            if self._close_sent or self.remote < 0:
                return
            self._close_sent = self._gone = True
            self._room.notify_all()
        self._free_number()
        self._sender.post(bytes((CLOSE,)) + u32(self.remote))

    def _post_open(self, encoded: bytes) -> None:
        with self._window_lock:
            if self._close_sent:
                return
        self._sender.post(encoded)

    def _free_number(self) -> None:
        if self._close_sent and self._close_received:
            self._sender.forget_channel(self.number)  # INVARIANT 4
