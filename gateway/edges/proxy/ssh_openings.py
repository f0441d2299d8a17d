# ruff: noqa: SLF001 - with `ssh_transport`, the place that reaches what paramiko keeps private
"""Channels that the gateway opens to a peer, and those that a peer asks for and that somebody decides about later.

INVARIANTS
1. An answer that nobody waits for ends the connection; so does a second one.
2. The transport's thread never waits: it registers a channel that is asked for, others decide about it.
3. Global requests that want an answer are answered in their order (RFC 4254 §4: answers carry no number).
"""

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Lock, Thread

from paramiko import Message, SSHException

from gateway.edges.proxy.ssh_channels import WINDOW, ChannelEnd
from gateway.edges.proxy.ssh_fields import Fields, ProtocolViolationError, string, u32
from gateway.edges.proxy.ssh_messages import MAX_PACKET
from gateway.edges.proxy.ssh_transport import PROHIBITED, HardTransport

MOST_GLOBAL_REQUESTS = 100  # that wait for an answer


class RefusedByPeerError(SSHException):
    """The peer said no, in its own words; `reason` is RFC 4254's number."""

    def __init__(self, reason: int, words: str) -> None:
        super().__init__(words)
        self.reason = reason


@dataclass(slots=True)
class _Opening:
    """A channel that we asked for."""

    channel: ChannelEnd
    answered: Event = field(default_factory=Event)
    refusal: tuple[int, str] | None = None
    forsaken: bool = False


@dataclass(slots=True)
class GlobalAnswer:
    """An answer that is due; `payload` None is a no."""

    ready: bool = False
    payload: bytes | None = None


class OpeningTransport(HardTransport):
    """A transport on which both sides may open channels."""

    def __init__(self, sock: socket.socket, when_over: Callable[[], None]) -> None:
        super().__init__(sock, when_over)
        self._openings: dict[int, _Opening] = {}
        self._due: deque[GlobalAnswer] = deque()
        self._due_lock = Lock()
        self._asking = Lock()
        self._asked: tuple[Event, list[bytes]] | None = None

    def peer_address(self) -> str:
        """The address at the other end; OSError when it is gone."""
        return str(self.sock.getpeername()[0])

    # ---------------------------------------------------------------- channels that we open

    def open_channel_to_peer(self, kind: str, fields: bytes, timeout: float) -> ChannelEnd:
        """A new channel. Raises RefusedByPeerError when the peer refuses, SSHException when it does not answer."""
        with self.lock:
            channel = ChannelEnd(self, self._internals._next_channel())
            self._register(channel)
            opening = self._openings[channel.number] = _Opening(channel)
        if not self.is_active():  # what is posted now would be dropped without a word
            raise SSHException("the connection is closed")
        head = b"\x5a" + string(kind.encode()) + u32(channel.number) + u32(WINDOW) + u32(MAX_PACKET)
        self.post(head + fields)
        answered = opening.answered.wait(timeout)
        with self.lock:
            if not answered and not opening.answered.is_set():
                opening.forsaken = True  # its answer may still come, and is no violation then
                raise SSHException("no answer")
            self._openings.pop(channel.number, None)
        if opening.refusal is not None:
            self.forget_channel(channel.number)
            raise RefusedByPeerError(*opening.refusal)
        return channel

    def _parse_channel_open_success(self, m: Message) -> None:
        fields = Fields(m.asbytes())
        number, remote, window, packet = fields.u32(), fields.u32(), fields.u32(), fields.u32()
        opening = self._opening_of(number)
        opening.channel.confirm(remote, window, packet)
        if self._settle(number, opening):
            Thread(target=_close_quietly, args=(opening.channel,), name="ssh-late", daemon=True).start()

    def _parse_channel_open_failure(self, m: Message) -> None:
        fields = Fields(m.asbytes())
        number, reason = fields.u32(), fields.u32()
        opening = self._opening_of(number)
        opening.refusal = (reason, fields.string()[:200].decode("utf-8", "replace") or "refused")
        if self._settle(number, opening):
            self.forget_channel(number)

    def _opening_of(self, number: int) -> _Opening:
        with self.lock:
            opening = self._openings.get(number)
        if opening is None or opening.answered.is_set():
            raise ProtocolViolationError("an answer to a channel that nobody opened")
        return opening

    def _settle(self, number: int, opening: _Opening) -> bool:
        """The answer is in; True when nobody waits for it any more."""
        with self.lock:
            opening.answered.set()
            if opening.forsaken:
                self._openings.pop(number, None)
            return opening.forsaken

    # ---------------------------------------------------------------- channels that the peer opens

    def _expect(self, remote: int, window: int, packet: int) -> ChannelEnd:
        """A channel that was asked for; `let_open` or `turn_down` answers."""
        with self.lock:
            channel = ChannelEnd(self, self._internals._next_channel())
            channel.confirm(remote, window, packet)
            self._register(channel)
        return channel

    def let_open(self, channel: ChannelEnd) -> None:
        """The channel is open. Not for the transport's own thread."""
        self.post(b"\x5b" + u32(channel.remote) + u32(channel.number) + u32(WINDOW) + u32(MAX_PACKET))

    def turn_down(self, channel: ChannelEnd, sentence: str, reason: int = PROHIBITED) -> None:
        """The channel is not opened, and why."""
        self.forget_channel(channel.number)
        self._refuse_channel(channel.remote, reason, sentence)

    # ---------------------------------------------------------------- global requests

    def ask(self, name: str, fields: bytes, timeout: float) -> bytes | None:
        """A global request's answer (its own fields); None for a no. SSHException when the connection is gone."""
        with self._asking:
            answered, answer = self._asked = Event(), list[bytes]()
            self.post(b"\x50" + string(name.encode()) + b"\x01" + fields)
            if not answered.wait(timeout) or not self.is_active():
                self.close()  # an answer that comes late would be taken for the next one's
                raise SSHException("no answer")
            self._asked = None
            return answer[0] if answer else None

    def _parse_request_success(self, m: Message) -> None:
        self._answered(m.asbytes())

    def _parse_request_failure(self, _m: Message) -> None:
        self._answered(None)

    def _answered(self, payload: bytes | None) -> None:
        if self._asked is None or self._asked[0].is_set():
            raise ProtocolViolationError("an answer to a request that nobody made")
        answered, answer = self._asked
        if payload is not None:
            answer.append(payload)
        answered.set()

    def _owe(self) -> GlobalAnswer:
        """An answer that is due to the peer, in its turn."""
        due = GlobalAnswer()
        with self._due_lock:
            if len(self._due) >= MOST_GLOBAL_REQUESTS:
                raise ProtocolViolationError("too many global requests")
            self._due.append(due)
        return due

    def answer(self, due: GlobalAnswer, payload: bytes | None) -> None:
        """Give an answer; it goes out when those before it have."""
        with self._due_lock:
            due.ready, due.payload = True, payload
            while self._due and self._due[0].ready:
                said = self._due.popleft().payload
                self._answer(b"\x52" if said is None else b"\x51" + said)

    def _refuse_global(self, fields: Fields) -> None:
        if fields.boolean():
            self.answer(self._owe(), None)

    def run(self) -> None:
        """As above; whoever waits for an answer is told that none will come."""
        try:
            super().run()
        finally:
            with self.lock:
                for opening in self._openings.values():
                    if not opening.answered.is_set():
                        opening.refusal = (2, "the connection is closed")
                        opening.answered.set()
            asked = self._asked
            if asked is not None:
                asked[0].set()


def _close_quietly(channel: ChannelEnd) -> None:
    with suppress(EOFError, OSError, SSHException):
        channel.close()
