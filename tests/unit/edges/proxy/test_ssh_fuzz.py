"""Whatever bytes come, in whatever state: the connection ends or waits, it never asks for more than its limits."""

import socket
import threading

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings
from hypothesis import strategies as st
from paramiko import Message, SSHException

from gateway.edges.proxy.ssh_fields import ProtocolViolationError
from gateway.edges.proxy.ssh_packets import LIMIT_AFTER_LOGIN, READ_AFTER_LOGIN, PacketLayer
from tests.unit.edges.proxy.test_ssh_packets import MODES, Pair, key_in, key_out

# What a peer can cause; anything else would be a bug.
ENDS: tuple[type[BaseException], ...] = (EOFError, SSHException, ProtocolViolationError, InvalidTag)
LARGEST = max(READ_AFTER_LOGIN, LIMIT_AFTER_LOGIN + 4 + 32)


def read_to_end(layer: PacketLayer) -> list[bytes]:
    """Every message until the connection ends."""
    got = []
    try:
        while True:
            number, message = layer.read_message()
            got.append(bytes((number,)) + message.get_remainder())
            assert len(layer._buffer) <= LARGEST
    except ENDS:
        return got


def sealed(mode: str, payloads: list[bytes]) -> list[bytes]:
    """The packets of some messages, as they would stand on the wire."""
    left, right = socket.socketpair()
    layer = PacketLayer(left)
    key_out(layer, mode)
    packets = []
    for payload in payloads:
        layer.send_message(Message(payload))
        packets.append(right.recv(LARGEST))
    layer.close()
    right.close()
    return packets


def received(mode: str, wire: bytes, *, trusted: bool) -> list[bytes]:
    left, right = socket.socketpair()
    layer = PacketLayer(left)
    key_in(layer, mode)
    if trusted:
        layer.trust()
    writer = threading.Thread(target=lambda: (right.sendall(wire), right.shutdown(socket.SHUT_WR)))
    writer.start()
    try:
        return read_to_end(layer)
    finally:
        writer.join(5)
        right.close()
        layer.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("trusted", [False, True])
@given(wire=st.binary(max_size=2_000))
@settings(max_examples=60, deadline=None)
def test_random_octets_end_the_connection(mode: str, trusted: bool, wire: bytes) -> None:
    got = received(mode, wire, trusted=trusted)
    assert mode == "plain" or not got


@pytest.mark.parametrize("mode", ["gcm", "etm"])
@given(data=st.data(), payloads=st.lists(st.binary(min_size=1, max_size=300), min_size=2, max_size=6))
@settings(max_examples=40, deadline=None)
def test_nothing_is_delivered_out_of_its_place(mode: str, data: st.DataObject, payloads: list[bytes]) -> None:
    packets = sealed(mode, payloads)
    order = data.draw(st.lists(st.integers(0, len(packets) - 1), min_size=1, max_size=8))
    in_place = next((at for at, index in enumerate(order) if index != at), len(order))
    got = received(mode, b"".join(packets[index] for index in order), trusted=True)
    assert got == payloads[:in_place]


@pytest.mark.parametrize("mode", ["gcm", "etm"])
@given(data=st.data(), payload=st.binary(min_size=1, max_size=300))
@settings(max_examples=40, deadline=None)
def test_one_changed_bit_is_noticed(mode: str, data: st.DataObject, payload: bytes) -> None:
    first, second = sealed(mode, [payload, payload])
    bit = data.draw(st.integers(0, 8 * len(second) - 1))
    changed = bytearray(second)
    changed[bit // 8] ^= 1 << bit % 8
    assert received(mode, first + bytes(changed), trusted=True) == [payload]


def test_much_data_that_nobody_takes_is_refused_by_the_layer_above_and_kept_small_here() -> None:
    pair = Pair("gcm")
    try:
        writer = threading.Thread(
            target=lambda: [pair.plain.send_message(Message(b"\x02" + bytes(30_000))) for _ in range(500)]
        )
        writer.start()
        pair.ours.trust()
        for _ in range(500):
            pair.ours.read_message()
            assert len(pair.ours._buffer) <= LARGEST
        writer.join(5)
    finally:
        pair.close()
