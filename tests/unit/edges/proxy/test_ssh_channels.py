import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paramiko import Message

from gateway.edges.proxy.ssh_channels import WINDOW, ChannelEnd
from gateway.edges.proxy.ssh_fields import Fields, ProtocolViolationError, string, u32
from gateway.edges.proxy.ssh_messages import CLOSE, DATA, EOF, EXTENDED_DATA, LOST, MAX_PACKET, REQUEST
from gateway.edges.proxy.ssh_relay import Replies


class Wire:
    """Keeps what a channel posts."""

    def __init__(self) -> None:
        self.posted: list[bytes] = []
        self.forgotten: list[int] = []

    def post(self, encoded: bytes) -> None:
        self.posted.append(encoded)

    def post_data(self, head: bytes, data: bytes | bytearray | memoryview, packet: int) -> None:
        pieces = [data[at : at + packet] for at in range(0, len(data), packet)]
        self.posted += [head + u32(len(piece)) + piece for piece in pieces]

    def read_soon(self) -> None:
        """Nothing lingers."""

    def forget_channel(self, number: int) -> None:
        self.forgotten.append(number)


@pytest.fixture
def wire() -> Wire:
    return Wire()


def channel(wire: Wire, window: int = WINDOW) -> ChannelEnd:
    made = ChannelEnd(wire, 3)
    made.confirm(7, window, 32_768)
    return made


def data(octets: bytes) -> Message:
    return Message(string(octets))


def extended(octets: bytes, kind: int = 1) -> Message:
    return Message(u32(kind) + string(octets))


def request(name: str, octets: bytes = b"", *, wants_reply: bool = False) -> Message:
    return Message(string(name.encode()) + bytes((wants_reply,)) + octets)


def test_order_is_kept_and_small_messages_are_joined(wire: Wire) -> None:
    end = channel(wire)
    end.on_data(data(b"a"))
    end.on_data(data(b"b"))
    end.on_extended_data(extended(b"err"))
    end.on_data(data(b"c"))
    end.on_request(request("window-change", b"1234"))
    end.on_eof(Message())
    end.on_close(Message())
    assert [(item.kind, bytes(item.octets)) for item in end.take()] == [
        (DATA, b"ab"), (EXTENDED_DATA, b"err"), (DATA, b"c"), (REQUEST, b"1234"), (EOF, b""), (CLOSE, b""),
    ]  # fmt: skip


def test_the_window_that_was_granted_is_the_limit(wire: Wire) -> None:
    end = channel(wire)
    for _ in range(WINDOW // 32_768):
        end.on_data(data(bytes(32_768)))
    with pytest.raises(ProtocolViolationError):
        end.on_data(data(b"x"))


def test_what_was_consumed_may_be_sent_again(wire: Wire) -> None:
    end = channel(wire)
    for _ in range(WINDOW // 32_768):
        end.on_data(data(bytes(32_768)))
    granted = 0
    while granted < WINDOW:
        end.consumed(sum(len(item.octets) for item in end.take()))
        granted = sum(int.from_bytes(message[5:9], "big") for message in wire.posted)
    assert {message[:5] for message in wire.posted} == {b"\x5d" + u32(7)}
    assert granted == WINDOW
    end.on_data(data(b"x"))


def test_tiny_messages_of_alternating_kinds_are_bounded(wire: Wire) -> None:
    end = channel(wire)
    with pytest.raises(ProtocolViolationError, match="small"):
        _chatter(end)


def _chatter(end: ChannelEnd) -> None:
    for _ in range(200_000):
        end.on_data(data(b"o"))
        end.on_extended_data(extended(b"e"))


def test_requests_that_wait_are_bounded(wire: Wire) -> None:
    end = channel(wire)
    for _ in range(5):
        end.on_request(request("env", bytes(200_000)))
    with pytest.raises(ProtocolViolationError, match="requests"):
        end.on_request(request("env", bytes(200_000)))


@pytest.mark.parametrize("octets", [b"", b"\0\0", u32(5) + b"abc", string(b"a") + b"more"])
def test_cut_and_padded_messages_are_refused(wire: Wire, octets: bytes) -> None:
    with pytest.raises(ProtocolViolationError):
        channel(wire).on_data(Message(octets))


def test_data_after_the_end_and_of_unknown_type_is_refused(wire: Wire) -> None:
    end = channel(wire)
    with pytest.raises(ProtocolViolationError):
        end.on_extended_data(extended(b"x", kind=2))
    end.on_eof(Message())
    with pytest.raises(ProtocolViolationError):
        end.on_data(data(b"x"))


def test_a_window_cannot_grow_past_what_fits(wire: Wire) -> None:
    end = channel(wire)
    with pytest.raises(ProtocolViolationError):
        end.on_window_adjust(Message(u32(0xFFFFFFFF)))


@given(st.binary(max_size=100_000), st.lists(st.integers(1, 50_000), max_size=10))
def test_what_is_sent_is_cut_to_windows_and_packets(octets: bytes, windows: list[int]) -> None:
    wire = Wire()
    end = channel(wire, window=0)
    for window in [*windows, 200_000]:
        end.on_window_adjust(Message(u32(window)))
    assert end.send(octets)
    pieces = [Fields(posted[5:]).string() for posted in wire.posted]
    assert b"".join(pieces) == octets
    assert all(0 < len(piece) <= MAX_PACKET for piece in pieces)


@pytest.mark.parametrize("ending", ["close", "lost", "abandon", "hurry"])
def test_whoever_waits_for_room_is_woken(wire: Wire, ending: str) -> None:
    end = channel(wire, window=10)
    sent: list[bool] = []
    waiting = threading.Thread(target=lambda: sent.append(end.send(bytes(100))))
    waiting.start()
    {
        "close": lambda: end.on_close(Message()),
        "lost": end._unlink,
        "abandon": end.abandon,
        "hurry": lambda: end.hurry(0.01),
    }[ending]()
    waiting.join(5)
    assert sent == [False]


def test_last_words_stop_everybody_else(wire: Wire) -> None:
    end = channel(wire, window=100)
    end.last_words(b"goodbye", 254)
    assert [posted[0] for posted in wire.posted] == [EXTENDED_DATA, REQUEST, EOF, CLOSE]
    assert not end.send(b"more")
    assert len(wire.posted) == 4


def test_last_words_do_not_wait_for_a_window(wire: Wire) -> None:
    end = channel(wire, window=0)
    end.last_words(b"goodbye", 254)
    assert [posted[0] for posted in wire.posted] == [REQUEST, EOF, CLOSE]


def test_a_number_is_free_when_both_sides_have_closed(wire: Wire) -> None:
    end = channel(wire)
    end.close()
    end.close()
    assert wire.forgotten == []
    end.on_close(Message())
    assert wire.forgotten == [3]
    assert [posted[0] for posted in wire.posted] == [CLOSE]


def test_lost_is_the_last_item(wire: Wire) -> None:
    end = channel(wire)
    end.on_data(data(b"x"))
    end._unlink()
    assert [item.kind for item in end.take()] == [DATA, LOST]


@given(st.lists(st.booleans()), st.data())
def test_answers_come_in_the_order_of_the_requests(asked_target: list[bool], draw: st.DataObject) -> None:
    wire = Wire()
    replies = Replies(channel(wire))
    due = 0
    expected = []
    for passed_on in asked_target:
        ok = draw.draw(st.booleans())
        if passed_on:
            replies.expect()
            due += 1
            expected.append(None)
        else:
            replies.answer(ok=ok)
            expected.append(ok)
        while due and draw.draw(st.booleans()):
            verdict = draw.draw(st.booleans())
            expected[expected.index(None)] = verdict
            replies.target_answered(ok=verdict)
            due -= 1
    for _ in range(due):
        expected[expected.index(None)] = True
        replies.target_answered(ok=True)
    assert [posted[0] == 99 for posted in wire.posted] == expected


def test_an_answer_that_nobody_asked_for_is_a_violation(wire: Wire) -> None:
    with pytest.raises(ProtocolViolationError):
        Replies(channel(wire)).target_answered(ok=True)
