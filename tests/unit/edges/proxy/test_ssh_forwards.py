from collections.abc import Callable
from typing import cast

import pytest

from gateway.edges.proxy.ssh_attendance import Attendance
from gateway.edges.proxy.ssh_channels import WINDOW, ChannelEnd
from gateway.edges.proxy.ssh_forwards import Forwards, Host, _Forward
from gateway.edges.proxy.ssh_messages import MAX_PACKET, Sender
from gateway.edges.proxy.ssh_record import SessionRecord


class CountingHost:
    """Of a connection only what a refusal needs."""

    def __init__(self) -> None:
        self.attendance = Attendance()
        self.threads = 0
        self.told: list[tuple[str, str, dict[str, object]]] = []

    def start(self, work: Callable[[], None]) -> None:
        self.threads += 1
        work()

    def tell(self, type: str, outcome: str, data: dict[str, object]) -> None:
        self.told.append((type, outcome, data))


def test_many_refusals_in_a_second_cost_one_thread_and_one_event() -> None:
    host = CountingHost()
    forwards = Forwards(cast("Host", host))
    for _ in range(100):
        forwards.refused("tun@openssh.com")
    assert host.threads == 1
    assert host.told == [("forward:refused", "denied", {"what": "tun@openssh.com", "untold": 0})]
    forwards._quiet_until = 0.0
    forwards.refused("tun@openssh.com")
    assert host.told[1:] == [("forward:refused", "denied", {"what": "tun@openssh.com", "untold": 99})]


class Leg:
    """Takes what is sent to it."""

    def __init__(self) -> None:
        self.got = b""

    def post_data(self, _head: bytes, data: bytes, _packet: int) -> None:
        self.got += data

    def read_soon(self) -> None:
        """Nobody lingers here."""


@pytest.mark.parametrize("inward", [True, False])
def test_what_a_channel_takes_before_it_closes_is_counted(inward: bool) -> None:
    legs = Leg(), Leg()
    source, sink = (ChannelEnd(cast("Sender", leg), 0) for leg in legs)
    source.confirm(0, WINDOW, MAX_PACKET)
    sink.confirm(0, 5, MAX_PACKET)
    sink.hurry(0)
    about = _Forward(cast("SessionRecord", None), {})
    Forwards(cast("Host", CountingHost()))._pass(about, b"secrets", source, sink, inward=inward)
    assert legs[1].got == b"secre"
    assert (about.to_target, about.to_person) == ((7, 0) if inward else (0, 7))
