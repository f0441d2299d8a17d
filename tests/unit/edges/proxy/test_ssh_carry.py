"""Data that the transport's thread passes on itself: in order, recorded first, and never by waiting for a peer."""

import socket
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from paramiko import Message
from paramiko.packet import Packetizer

from gateway.app.recording_ports import RecordingFailed
from gateway.edges.proxy.ssh_attendance import Attendance
from gateway.edges.proxy.ssh_channels import WINDOW, ChannelEnd
from gateway.edges.proxy.ssh_fields import string, u32
from gateway.edges.proxy.ssh_gate import Gate
from gateway.edges.proxy.ssh_messages import DATA, EOF, MAX_PACKET, Item, Octets
from gateway.edges.proxy.ssh_packets import Burst, PacketLayer
from gateway.edges.proxy.ssh_record import ChannelRecord, SessionRecord
from gateway.edges.proxy.ssh_relay import Relay
from tests.unit.edges.proxy.test_ssh_packets import key_in, key_out

PATIENCE = 10.0
HEAD = b"\x5e" + u32(7)


class Wire:
    """A `Sender` that keeps what is posted; `is_open` False is a peer that does not read."""

    def __init__(self) -> None:
        self.posted: list[bytes] = []
        self.is_open = True
        self.flushed = True
        self.flushes = self.hurries = 0

    def post(self, encoded: bytes) -> None:
        self.posted.append(encoded)

    def post_data(self, head: bytes, data: Octets, packet: int) -> None:
        pieces = [bytes(data[at : at + packet]) for at in range(0, len(data), packet)]
        self.posted += [head + u32(len(piece)) + piece for piece in pieces]

    def post_now(self, encoded: bytes) -> bool:
        if self.is_open:
            self.posted.append(encoded)
        return self.is_open

    def post_data_now(self, head: bytes, pieces: Sequence[Octets]) -> bool:
        if self.is_open:
            self.posted += [head + u32(len(piece)) + bytes(piece) for piece in pieces]
        return self.is_open

    def be_prompt(self) -> None:
        """Nothing."""

    def flush(self) -> None:
        self.flushes += 1
        self.flushed = True

    def is_flushed(self) -> bool:
        return self.flushed

    def read_soon(self) -> None:
        self.hurries += 1

    def forget_channel(self, number: int) -> None:
        del number

    def data(self) -> bytes:
        return b"".join(message[9:] for message in self.posted if message[:5] == HEAD)


class Recording:
    """A `recording_ports.Recording` that notes what the wire had been given by then."""

    def __init__(self, wire: Wire) -> None:
        self.records: list[tuple[bytes, bytes]] = []
        self.fails = False
        self._wire = wire

    def append(self, kind: str, at: datetime, data: bytes) -> int:
        del at
        if self.fails:
            raise RecordingFailed("the disk is full")
        if kind in ("in", "out"):
            self.records.append((data[4:], self._wire.data()))
        return len(self.records)

    def wait_durable(self, seq: int, timeout: timedelta) -> None:
        """It is."""

    def on_durable(self, seq: int, callback: Callable[[bool], None]) -> None:
        callback(True)

    def digest(self) -> tuple[int, str]:
        return 0, ""

    def seal(self) -> tuple[int, str]:
        return 0, ""


class Joined:
    """A relay with a running `cat` between two wires; the pump towards the person waits in a thread."""

    def __init__(self) -> None:
        self.to_person, self.to_target = Wire(), Wire()
        self.person, self.target = ChannelEnd(self.to_person, 3), ChannelEnd(self.to_target, 4)
        for end in (self.person, self.target):
            end.confirm(7, WINDOW, MAX_PACKET)
        self.recording = Recording(self.to_person)
        record = ChannelRecord(SessionRecord(self.recording, lambda: datetime.now(UTC), require=True), 0, 1000)
        gate = Gate.__new__(Gate)  # nothing is asked of it once something runs
        self.relay = Relay(self.person, self.target, record, gate, Attendance())
        self.fault: BaseException | None = None
        self.pump = threading.Thread(target=self._outward, daemon=True)

    def _outward(self) -> None:
        try:
            self.relay.outward()
        except RecordingFailed as fault:
            self.fault = fault

    def start(self) -> None:
        self.pump.start()
        until(lambda: self.target._pump_waits)

    def end(self) -> None:
        self.target._unlink()
        self.pump.join(PATIENCE)
        assert not self.pump.is_alive()


def until(true: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(int(PATIENCE / 0.005)):
        if true():
            return
        waited.wait(0.005)
    raise AssertionError("it did not come to that")


@pytest.fixture
def joined() -> Joined:
    return Joined()


def test_data_is_passed_on_by_the_thread_that_brings_it_and_recorded_first(joined: Joined) -> None:
    joined.start()
    joined.target.accept([b"one", b"two"])
    assert joined.to_person.data() == b"onetwo"  # no other thread was needed
    assert joined.recording.records == [(b"onetwo", b"")]
    joined.target.accept([b"three"])
    assert joined.recording.records[1:] == [(b"three", b"onetwo")]
    joined.end()


def test_a_peer_that_does_not_read_is_left_to_the_pump(joined: Joined) -> None:
    joined.start()
    joined.to_person.is_open = False
    joined.target.accept([b"one"])
    until(lambda: joined.to_person.data() == b"one")
    assert joined.recording.records == [(b"one", b"")]  # once
    joined.end()


def test_what_the_socket_did_not_take_is_flushed_by_the_pump(joined: Joined) -> None:
    joined.start()
    joined.to_person.flushed = False
    joined.target.accept([b"one"])
    until(lambda: joined.to_person.flushes == 1)
    assert joined.to_person.data() == b"one"
    joined.end()


def test_beyond_the_window_nothing_is_sent_until_it_opens(joined: Joined) -> None:
    joined.person.confirm(7, 2, MAX_PACKET)
    joined.start()
    joined.target.accept([b"one"])
    until(lambda: joined.to_person.data() == b"on")
    joined.person.widen(10)
    until(lambda: joined.to_person.data() == b"one")
    joined.end()


def test_a_recording_that_fails_ends_the_pump_and_nothing_is_sent(joined: Joined) -> None:
    joined.start()
    joined.recording.fails = True
    joined.target.accept([b"one"])
    joined.pump.join(PATIENCE)
    assert isinstance(joined.fault, RecordingFailed)
    assert joined.to_person.posted == []


def test_data_before_anything_was_started_is_not_carried(joined: Joined) -> None:
    taken: list[Item] = joined.relay._carry(True, [Item(DATA, b"x")])
    assert [(item.kind, bytes(item.octets)) for item in taken] == [(DATA, b"x")]
    assert joined.to_target.posted == []


def test_while_the_session_is_locked_keys_are_not_carried(joined: Joined) -> None:
    joined.relay._started = True
    joined.relay.attendance.lock(locked=True)
    assert [item.octets for item in joined.relay._carry(True, [Item(DATA, b"x")])] == [b"x"]
    joined.relay.attendance.lock(locked=False)
    assert joined.relay._carry(True, [Item(DATA, b"x")]) == []
    assert joined.to_target.data() == b"x"


@example([("data", b"left behind"), ("data", b"too")], [False] * 12)
@given(
    st.lists(st.tuples(st.sampled_from(["data", "eof", "request"]), st.binary(min_size=1, max_size=9)), max_size=12),
    st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_order_is_kept_whoever_passes_it_on(messages: list[tuple[str, bytes]], carries: list[bool]) -> None:
    end = ChannelEnd(Wire(), 3)
    seen: list[tuple[int, bytes]] = []
    willing = iter(carries)

    def carry(items: list[Item]) -> list[Item]:
        for at, item in enumerate(items):
            if item.kind != DATA or not next(willing, False):
                return items[at:]
            seen.append((item.kind, bytes(item.octets)))
        return []

    end.carry = carry
    sent: list[tuple[int, bytes]] = []
    for kind, octets in messages:
        end._pump_waits = True
        if kind == "data":
            end.expect()
            lent = bytearray(octets)
            end.accept([memoryview(lent)])
            lent[:] = bytes(len(lent))  # the layer below reads the next packets into the same memory
            sent.append((DATA, octets))
        elif kind == "request":
            end.on_request(Message(string(b"x") + b"\0" + octets))
            sent.append((98, octets))
        else:
            end.on_eof(Message())
            sent.append((EOF, b""))
            break
    while end._inbox:
        seen += [(item.kind, bytes(item.octets)) for item in end.take()]
    assert _joined(seen) == _joined(sent)


def _joined(items: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    whole: list[tuple[int, bytes]] = []
    for kind, octets in items:
        if whole and whole[-1][0] == kind == DATA:
            whole[-1] = (DATA, whole[-1][1] + octets)
        else:
            whole.append((kind, octets))
    return whole


def test_what_waits_is_left_to_a_thread_that_brings_more() -> None:
    end = ChannelEnd(Wire(), 3)
    carried: list[bytes] = []

    def carry(items: list[Item]) -> list[Item]:
        carried.extend(bytes(item.octets) for item in items)
        return []

    end.carry = carry
    end.accept([b"a" * 2000])  # nobody waits: it is for the pump
    end.expect()
    taken: list[Item] = []
    pump = threading.Thread(target=lambda: taken.extend(end.take()), daemon=True)
    pump.start()
    until(lambda: end._pump_waits)
    end.accept([b"b" * 2000])
    assert carried == [b"a" * 2000, b"b" * 2000]
    end._unlink()
    pump.join(PATIENCE)
    assert [item.kind for item in taken] == [0]


def test_a_connection_that_is_lost_wakes_a_pump_that_left_data_to_others() -> None:
    end = ChannelEnd(Wire(), 3)
    end.carry = lambda items: items
    end.accept([b"a"])
    end.expect()
    taken: list[Item] = []
    pump = threading.Thread(target=lambda: taken.extend(end.take()), daemon=True)
    pump.start()
    until(lambda: end._pump_waits)
    end._unlink()
    pump.join(PATIENCE)
    assert [item.kind for item in taken] == [DATA, 0]


def test_a_grant_that_could_not_be_told_is_taken_back_and_told_later() -> None:
    wire = Wire()
    end = ChannelEnd(wire, 3)
    end.confirm(7, WINDOW, MAX_PACKET)
    for _ in range(WINDOW // MAX_PACKET):
        end.accept([bytes(MAX_PACKET)])
    wire.is_open = False
    assert not end.consumed_now(WINDOW)
    with pytest.raises(Exception, match="beyond the window"):
        end.accept([b"x"])
    end.consumed(0)
    assert wire.posted == [b"\x5d" + u32(7) + u32(WINDOW)]


# ---------------------------------------------------------------- the packet layer


BURSTS = st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=8), min_size=1, max_size=6)


@settings(
    max_examples=20, deadline=None, phases=(Phase.explicit, Phase.generate)
)  # a failure takes seconds: no shrinking
@given(st.sampled_from(["gcm", "etm"]), BURSTS)
def test_what_a_full_socket_did_not_take_follows_and_reads_the_same(mode: str, bursts: list[list[bytes]]) -> None:
    left, right = socket.socketpair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours, plain = PacketLayer(left), Packetizer(right)
    key_out(ours, mode)
    key_in(plain, mode)
    sent, got = [], []
    for burst in bursts:
        payloads = [b"\x5e" + octets * 700 for octets in burst]
        if ours.send_now([(payload,) for payload in payloads]):
            sent += payloads
        else:
            assert not ours.is_flushed  # the only reason that there is
            assert not ours.is_writable()
    sent.append(b"\x5elast")
    reader = threading.Thread(target=lambda: got.extend(_read(plain) for _ in sent), daemon=True)
    reader.start()
    ours.send_message(Burst([(b"\x5elast",)]))
    reader.join(PATIENCE)
    assert got == sent
    assert ours.is_flushed
    left.close()
    right.close()


def _read(layer: Packetizer) -> bytes:
    number, message = layer.read_message()
    return bytes((number,)) + message.asbytes()


def test_who_must_not_wait_does_not_wait_for_another_writer() -> None:
    left, right = socket.socketpair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    layer = PacketLayer(left)
    key_out(layer, "gcm")
    stuck = threading.Thread(target=lambda: layer.send_message(Burst([(bytes(200_000),)])), daemon=True)
    stuck.start()
    until(layer._write_lock.locked)
    assert not layer.send_now([(b"\x5ex",)])
    received = 0
    while received < 200_000:
        received += len(right.recv(65_536))
    stuck.join(PATIENCE)
    assert not stuck.is_alive()
    left.close()
    right.close()
