"""Reading waits a little when nobody waits for what comes next, and no longer than that."""

import socket
import threading

from paramiko import Message

from gateway.edges.proxy.ssh_channels import WIDE, ChannelEnd
from gateway.edges.proxy.ssh_fields import u32
from gateway.edges.proxy.ssh_messages import MAX_PACKET
from gateway.edges.proxy.ssh_packets import Burst, PacketLayer
from gateway.edges.proxy.ssh_transport import LINGER, HardTransport
from tests.unit.edges.proxy.test_ssh_carry import PATIENCE, Joined, Wire, until


def transport_over(sock: socket.socket) -> HardTransport:
    transport = HardTransport.__new__(HardTransport)
    transport._ends, transport._gathered, transport._gathered_octets = {}, {}, 0
    transport._internals = transport
    transport._expected_packet = ()  # type: ignore[attr-defined]
    transport.packetizer = PacketLayer(sock)  # type: ignore[assignment]
    return transport


def deliver(transport: HardTransport, payload: bytes) -> bool:
    return transport._deliver(memoryview(b"head" + payload + b"padding"), 4, 4 + len(payload))


def test_a_wide_window_lets_adjustments_gather_and_data_never_waits() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    transport = transport_over(left)
    end = transport._ends[0] = ChannelEnd(Wire(), 0)
    end.confirm(7, 0, MAX_PACKET)
    adjust = b"\x5d" + u32(0)
    assert deliver(transport, adjust + u32(10))
    assert transport.packets.linger == 0
    assert deliver(transport, adjust + u32(WIDE))
    assert transport.packets.linger == LINGER
    assert deliver(transport, adjust + u32(8 * WIDE))
    assert transport.packets.linger == LINGER  # not longer, however wide
    assert deliver(transport, b"\x5e" + u32(0) + u32(1) + b"x")
    assert transport.packets.linger == 0
    assert deliver(transport, adjust + u32(1))
    end._window = WIDE - 2
    assert deliver(transport, adjust + u32(1))
    assert transport.packets.linger == 0  # what is left may be used up soon
    assert not deliver(transport, adjust + u32(1) + b"more")  # Transport says what is wrong
    left.close()
    right.close()


def test_who_makes_a_window_narrow_has_the_peer_heard_soon() -> None:
    wire = Wire()
    end = ChannelEnd(wire, 3)
    end.confirm(7, WIDE + 2, MAX_PACKET)
    assert end.send_now([b"xx"])
    assert wire.hurries == 0  # wide still
    assert end.send_now([b"x"])
    assert wire.hurries == 1
    end.widen(2)
    assert end.send(b"x")
    assert wire.hurries == 1
    assert end.send(b"x")
    assert wire.hurries == 2


def test_who_lingers_reads_as_soon_as_somebody_waits_for_it() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    layer, peer = PacketLayer(left), PacketLayer(right)
    got: list[tuple[int, Message]] = []
    for _ in range(2):  # told before it lingers, and while it does
        layer.linger = 60 * PATIENCE
        reader = threading.Thread(target=lambda: got.append(layer.read_message()), daemon=True)
        if not got:
            layer.read_soon()
            layer.read_soon()
        reader.start()
        if got:
            until(lambda: layer._soon.locked() and layer.linger > 0)
            layer.read_soon()
        peer.send_message(Burst([(b"\x5ex",)]))
        reader.join(PATIENCE)
        assert not reader.is_alive()
    left.close()
    right.close()


def test_a_stream_is_read_on_when_its_pump_has_done_what_it_has() -> None:
    joined = Joined()
    left, right = socket.socketpair(socket.AF_UNIX)
    transport = transport_over(left)
    transport._ends[0] = joined.target
    piece = b"\x5e" + u32(0) + u32(MAX_PACKET) + bytes(MAX_PACKET)
    assert deliver(transport, b"\x5e" + u32(0) + u32(1) + b"x")
    transport._hand_on()
    assert transport.packets.linger == 0  # no stream
    for _ in range(2):
        assert deliver(transport, piece)
    transport._hand_on()
    assert transport.packets.linger == LINGER  # nobody has started the pump yet
    assert joined.to_target.hurries == 0
    joined.start()
    assert joined.to_target.hurries == 1
    assert len(joined.to_person.data()) == 1 + 2 * MAX_PACKET
    for _ in range(2):
        assert deliver(transport, piece)
    transport._hand_on()
    assert transport.packets.linger == 0  # this thread passed it on
    assert len(joined.to_person.data()) == 1 + 4 * MAX_PACKET
    joined.end()
    left.close()
    right.close()
