"""Streams make way for terminals, for a while, and for nobody else."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from gateway.edges.proxy import ssh_courtesy, ssh_packets
from gateway.edges.proxy.ssh_courtesy import Courtesy
from gateway.edges.proxy.ssh_packets import PacketLayer
from tests.unit.edges.proxy.test_ssh_packets import key_in, key_out


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.at = 0.0
        self.naps = 0

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.naps += 1
        self.at += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(ssh_courtesy, "time", made)
    return made


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    yield left, right
    left.close()
    right.close()


def test_nobody_waits_for_a_terminal_that_rests(clock: Clock, pair: tuple[socket.socket, socket.socket]) -> None:
    courtesy = Courtesy()
    courtesy.add(pair[0].fileno())
    courtesy.make_way()
    assert clock.naps == 0


def test_a_stream_waits_while_something_is_to_be_read_but_not_for_ever(
    clock: Clock, pair: tuple[socket.socket, socket.socket]
) -> None:
    courtesy = Courtesy()
    courtesy.add(pair[0].fileno())
    pair[1].send(b"x")
    courtesy.make_way()
    assert clock.naps
    assert clock.at <= ssh_courtesy.YIELD_AT_MOST + ssh_courtesy.YIELD


def test_a_stream_waits_until_what_was_read_is_passed_on(clock: Clock) -> None:
    courtesy = Courtesy()
    left, right = socket.socketpair()
    number = left.fileno()
    courtesy.add(number)
    courtesy.begin(number)
    courtesy.make_way()
    assert clock.naps
    courtesy.end(number)
    clock.naps = 0
    courtesy.make_way()
    assert clock.naps == 0
    left.close()
    right.close()


def test_a_connection_that_is_closed_is_forgotten(clock: Clock, pair: tuple[socket.socket, socket.socket]) -> None:
    courtesy = Courtesy()
    number = pair[0].fileno()
    courtesy.add(number)
    courtesy.begin(number)
    pair[1].send(b"x")
    courtesy.forget(number)
    courtesy.forget(number)
    courtesy.make_way()
    assert clock.naps == 0


def test_a_terminal_is_at_work_from_its_input_to_the_next_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    courtesy = Courtesy()
    monkeypatch.setattr(ssh_packets, "COURTESY", courtesy)
    left, right = socket.socketpair()
    ours, theirs = PacketLayer(left), PacketLayer(right)
    key_in(ours, "gcm")
    key_out(theirs, "gcm")
    ours.be_prompt()
    seen: list[bool] = []
    ours.gate = lambda _number: seen.append(bool(courtesy._at_work))
    ended = threading.Event()

    def read() -> None:
        try:
            while True:
                ours.read_message()
        except EOFError:
            ended.set()

    threading.Thread(target=read, daemon=True).start()
    theirs.send_message(ssh_packets.Burst([(b"\x62key",)]))
    deadline = time.monotonic() + 10
    while not (seen and not courtesy._at_work) and time.monotonic() < deadline:
        ended.wait(0.005)
    assert seen == [True]
    assert not courtesy._at_work
    ours.close()
    assert ended.wait(10)  # who waited for input was woken
    assert not courtesy._terminals
    theirs.close()
