import socket
import threading
from collections.abc import Iterator

import pytest
from paramiko import Message, SSHException

from gateway.edges.proxy import ssh_transport
from gateway.edges.proxy.ssh_channels import WINDOW, ChannelEnd
from gateway.edges.proxy.ssh_client import MOST_CHANNELS, TargetTransport
from gateway.edges.proxy.ssh_fields import ProtocolViolationError, string, u32
from gateway.edges.proxy.ssh_messages import MAX_PACKET
from gateway.edges.proxy.ssh_openings import MOST_GLOBAL_REQUESTS, OpeningTransport, RefusedByPeerError


class Wire(OpeningTransport):
    """Keeps what would be sent."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, lambda: None)
        self.sent: list[bytes] = []
        self.posted = threading.Condition()

    def post(self, encoded: bytes) -> None:
        with self.posted:
            self.sent.append(encoded)
            self.posted.notify_all()

    def _answer(self, encoded: bytes) -> None:
        self.post(encoded)

    def is_active(self) -> bool:
        return True

    def wait_sent(self, count: int) -> bytes:
        with self.posted:
            assert self.posted.wait_for(lambda: len(self.sent) >= count, 10)
            return self.sent[count - 1]


def test_answers_that_wait_for_new_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_transport, "MOST_DEFERRED", 100)
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as ours:
        transport = OpeningTransport(ours, lambda: None)  # no keys yet, as while they are changed
        for number in range(100):
            transport._refuse_channel(number, 1, "no")
        with pytest.raises(ProtocolViolationError):
            transport._refuse_channel(100, 1, "no")


@pytest.fixture
def wire() -> Iterator[Wire]:
    listener = socket.create_server(("127.0.0.1", 0))
    ours, theirs = socket.create_connection(listener.getsockname()), listener.accept()[0]
    made = Wire(ours)
    yield made
    for each in (ours, theirs, listener):
        each.close()


def opened(wire: Wire, timeout: float = 10.0) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []

    def work() -> None:
        try:
            found.append(wire.open_channel_to_peer("direct-tcpip", b"fields", timeout))
        except SSHException as no:
            found.append(no)

    thread = threading.Thread(target=work)
    thread.start()
    wire.wait_sent(1)
    return thread, found


def success(number: int) -> Message:
    return Message(u32(number) + u32(7) + u32(WINDOW) + u32(MAX_PACKET))


def failure(number: int) -> Message:
    return Message(u32(number) + u32(2) + string(b"Connection refused") + string(b""))


def test_a_channel_that_the_peer_opens(wire: Wire) -> None:
    thread, found = opened(wire)
    wire._parse_channel_open_success(success(0))
    thread.join(10)
    [channel] = found
    assert isinstance(channel, ChannelEnd)
    assert channel.remote == 7
    with pytest.raises(ProtocolViolationError):
        wire._parse_channel_open_success(success(0))


def test_a_channel_that_the_peer_refuses(wire: Wire) -> None:
    thread, found = opened(wire)
    wire._parse_channel_open_failure(failure(0))
    thread.join(10)
    [no] = found
    assert isinstance(no, RefusedByPeerError)
    assert (no.reason, str(no)) == (2, "Connection refused")
    assert len(wire._internals._channels) == 0
    with pytest.raises(ProtocolViolationError):
        wire._parse_channel_open_failure(failure(0))


def test_an_answer_that_comes_too_late_is_no_violation_and_the_channel_is_closed(wire: Wire) -> None:
    thread, found = opened(wire, 0.01)
    thread.join(10)
    assert isinstance(found[0], SSHException)
    wire._parse_channel_open_success(success(0))
    assert wire.wait_sent(2) == b"\x61" + u32(7)  # CLOSE
    with pytest.raises(ProtocolViolationError):
        wire._parse_channel_open_success(success(0))


@pytest.mark.parametrize("number", [0, 1, 0xFFFFFFFF])
def test_answers_that_nobody_waits_for(wire: Wire, number: int) -> None:
    with pytest.raises(ProtocolViolationError):
        wire._parse_channel_open_success(success(number))
    with pytest.raises(ProtocolViolationError):
        wire._parse_channel_open_failure(failure(number))
    with pytest.raises(ProtocolViolationError):
        wire._parse_request_success(Message(b""))
    with pytest.raises(ProtocolViolationError):
        wire._parse_request_failure(Message(b""))


def test_global_requests_are_answered_in_their_order(wire: Wire) -> None:
    first, second, third = wire._owe(), wire._owe(), wire._owe()
    wire.answer(second, None)
    wire.answer(third, u32(80))
    assert not wire.sent
    wire.answer(first, b"")
    assert wire.sent == [b"\x51", b"\x52", b"\x51" + u32(80)]


def test_global_requests_are_counted(wire: Wire) -> None:
    for _ in range(MOST_GLOBAL_REQUESTS):
        wire._owe()
    with pytest.raises(ProtocolViolationError):
        wire._owe()


def test_asking_the_peer(wire: Wire) -> None:
    for payload in (b"", u32(1234), None):
        answers: list[bytes | None] = []
        before = len(wire.sent)
        thread = threading.Thread(target=lambda told=answers: told.append(wire.ask("tcpip-forward", b"fields", 10)))
        thread.start()
        assert wire.wait_sent(before + 1) == b"\x50" + string(b"tcpip-forward") + b"\x01fields"
        if payload is None:
            wire._parse_request_failure(Message(b""))
        else:
            wire._parse_request_success(Message(payload))
        thread.join(10)
        assert answers == [payload]


class Nowhere:
    def __init__(self) -> None:
        self.octets = 0

    def post(self, encoded: bytes) -> None:
        raise AssertionError("only data is sent")

    def post_data(self, head: bytes, data: bytes | bytearray | memoryview, packet: int) -> None:
        self.octets += len(data)

    def read_soon(self) -> None:
        """Nothing lingers."""

    def forget_channel(self, number: int) -> None:
        pass


def test_more_than_four_gigabytes_pass_a_channel() -> None:
    nowhere = Nowhere()
    channel = ChannelEnd(nowhere, 0)
    channel.confirm(1, 0, MAX_PACKET)
    piece = bytes(1 << 23)
    for _ in range((5 << 30) // len(piece)):
        channel.on_window_adjust(Message(u32(len(piece))))
        assert channel.send(piece)
    assert nowhere.octets == 5 << 30


def test_a_target_cannot_make_more_channels_than_a_person_may_hold(wire: Wire) -> None:
    target = TargetTransport(wire.sock, [], lambda: None)
    refused, asked = list[bytes](), list[ChannelEnd]()
    target._answer = refused.append  # type: ignore[method-assign]
    target.expects_channel = lambda _kind: True
    target.channel_asked = lambda _kind, _fields, channel: asked.append(channel)
    for number in range(MOST_CHANNELS + 5):
        target._parse_channel_open(Message(string(b"forwarded-tcpip") + u32(number) + u32(WINDOW) + u32(MAX_PACKET)))
    assert (len(asked), len(refused)) == (MOST_CHANNELS, 5)
    target.turn_down(asked[0], "")
    target._parse_channel_open(Message(string(b"forwarded-tcpip") + u32(999) + u32(WINDOW) + u32(MAX_PACKET)))
    assert len(asked) == MOST_CHANNELS + 1
