import hashlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress

import paramiko
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from hypothesis import given, settings
from hypothesis import strategies as st
from paramiko import Message, SSHException
from paramiko.packet import Packetizer

from gateway.edges.proxy import ssh_keys, ssh_packets
from gateway.edges.proxy.ssh_fields import ProtocolViolationError
from gateway.edges.proxy.ssh_messages import RawMessage
from gateway.edges.proxy.ssh_packets import (
    LIMIT_AFTER_LOGIN,
    LIMIT_BEFORE_LOGIN,
    READ_AFTER_LOGIN,
    READ_WHEN_IDLE,
    PacketLayer,
)

KEY, IV, MAC_KEY = bytes(range(16)), bytes(range(100, 116)), bytes(range(32))
MODES = ["plain", "gcm", "etm"]
Layer = PacketLayer | Packetizer


def key_out(layer: Layer, mode: str) -> None:
    if mode == "gcm":
        layer.set_outbound_cipher(AESGCM(KEY), 16, None, 16, None, aead=True, iv_out=IV[:12])  # type: ignore[arg-type]
    elif mode == "etm":
        engine = Cipher(AES(KEY), modes.CTR(IV)).encryptor()
        layer.set_outbound_cipher(engine, 16, hashlib.sha256, 32, MAC_KEY, sdctr=True, etm=True)  # type: ignore[arg-type]


def key_in(layer: Layer, mode: str) -> None:
    if mode == "gcm":
        layer.set_inbound_cipher(AESGCM(KEY), 16, None, 16, None, aead=True, iv_in=IV[:12])  # type: ignore[arg-type]
    elif mode == "etm":
        engine = Cipher(AES(KEY), modes.CTR(IV)).decryptor()
        layer.set_inbound_cipher(engine, 16, hashlib.sha256, 32, MAC_KEY, etm=True)  # type: ignore[arg-type]


class Pair:
    """Our layer and paramiko's plain one, joined by a socket."""

    def __init__(self, mode: str) -> None:
        left, right = socket.socketpair()
        left.settimeout(5)
        right.settimeout(5)
        self.raw = right
        self.ours, self.plain = PacketLayer(left), Packetizer(right)
        for layer in (self.ours, self.plain):
            key_out(layer, mode)
            key_in(layer, mode)

    def close(self) -> None:
        self.ours.close()
        self.plain.close()


@pytest.fixture
def pair() -> Iterator[Callable[[str], Pair]]:
    made: list[Pair] = []

    def make(mode: str) -> Pair:
        made.append(Pair(mode))
        return made[-1]

    yield make
    for one in made:
        one.close()


def carried(sender: Layer, receiver: Layer, expected: list[bytes], payloads: list[bytes] | None = None) -> list[bytes]:
    """What the receiver hands out, as many messages as are expected, when these (or the payloads) are sent."""
    got: list[bytes] = []

    def read() -> None:
        for _ in expected:
            number, message = receiver.read_message()
            got.append(bytes((number,)) + message.asbytes())

    reader = threading.Thread(target=read)
    reader.start()
    for payload in expected if payloads is None else payloads:
        sender.send_message(RawMessage(payload))
    reader.join(10)
    return got


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25)
@given(
    payloads=st.lists(
        st.binary(min_size=1, max_size=300) | st.sampled_from([b"\x5e" * 32_768, b"\x5e" * 34_000]), max_size=20
    )
)
def test_the_plain_layer_reads_what_ours_writes_and_the_other_way(mode: str, payloads: list[bytes]) -> None:
    joined = Pair(mode)
    try:
        assert carried(joined.ours, joined.plain, payloads) == payloads
        assert carried(joined.plain, joined.ours, payloads) == payloads
    finally:
        joined.close()


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25)
@given(
    payloads=st.lists(st.binary(max_size=300) | st.sampled_from([bytes(range(256)) * 128, b"x" * 33_000]), max_size=30)
)
def test_what_is_delivered_is_whole_until_it_is_settled(mode: str, payloads: list[bytes]) -> None:
    joined = Pair(mode)
    lent: list[memoryview] = []
    got: list[bytes] = []

    def deliver(view: memoryview, start: int, end: int) -> bool:
        lent.append(view[start:end])
        return True

    def settle() -> None:
        got.extend(bytes(piece) for piece in lent)
        lent.clear()

    joined.ours.trust()
    joined.ours.deliver, joined.ours.settle = deliver, settle
    messages = [b"\x5e" + payload for payload in payloads]
    try:
        assert carried(joined.plain, joined.ours, [b"\x62once"], [*messages, b"\x62once"]) == [b"\x62once"]
        assert got == messages
    finally:
        joined.close()


@pytest.mark.parametrize("mode", ["gcm", "etm"])
@pytest.mark.parametrize("position", [3, 4, 10, -17, -1])
def test_a_tampered_packet_is_never_delivered(pair: Callable[[str], Pair], mode: str, position: int) -> None:
    joined = pair(mode)
    wire = bytearray(_on_the_wire(mode, b"\x5e" + bytes(200)))
    wire[position] ^= 1
    joined.raw.sendall(bytes(wire) + bytes(100))
    with pytest.raises((SSHException, InvalidTag, ProtocolViolationError)):
        joined.ours.read_message()


def _on_the_wire(mode: str, payload: bytes) -> bytes:
    left, right = socket.socketpair()
    layer = PacketLayer(left)
    key_out(layer, mode)
    layer.send_message(RawMessage(payload))
    written = right.recv(65536)
    left.close()
    right.close()
    return written


@pytest.mark.parametrize("mode", ["gcm", "etm"])
def test_replayed_and_reordered_packets_are_refused(pair: Callable[[str], Pair], mode: str) -> None:
    joined = pair(mode)
    first = _on_the_wire(mode, b"\x5efirst")
    joined.raw.sendall(first + first)
    assert joined.ours.read_message()[0] == 0x5E
    with pytest.raises((SSHException, InvalidTag)):
        joined.ours.read_message()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [0, 4, LIMIT_BEFORE_LOGIN + 1, 1 << 31, (1 << 32) - 1])
def test_impossible_lengths_are_refused_before_anything_more_is_read(
    pair: Callable[[str], Pair], mode: str, length: int
) -> None:
    joined = pair(mode)
    joined.raw.sendall(struct.pack(">I", length))  # and nothing else: a layer that waited for more would time out
    with pytest.raises(ProtocolViolationError):
        joined.ours.read_message()


def test_longer_packets_are_read_after_login(pair: Callable[[str], Pair]) -> None:
    joined = pair("gcm")
    payload = b"\x62" + bytes(200_000)
    with pytest.raises(ProtocolViolationError):
        _deliver(joined, payload)
    joined = pair("gcm")
    joined.ours.trust()
    assert _deliver(joined, payload) == payload
    with pytest.raises(ProtocolViolationError):
        _deliver(joined, bytes(LIMIT_AFTER_LOGIN))


def _deliver(joined: Pair, payload: bytes) -> bytes:
    writer = threading.Thread(target=_send_quietly, args=(joined.plain, payload), daemon=True)
    writer.start()
    number, message = joined.ours.read_message()
    writer.join(5)
    return bytes((number,)) + message.asbytes()


def _send_quietly(layer: Packetizer, payload: bytes) -> None:
    with suppress(EOFError):
        layer.send_message(RawMessage(payload))


def test_the_buffer_stays_large_while_much_comes_and_is_given_back_when_little_does(
    pair: Callable[[str], Pair],
) -> None:
    joined = pair("gcm")
    joined.ours.trust()
    lengths = []
    for payload in [b"\x5e" * 32_768] * 5 + [b"\x5e" * 20] * 2:
        joined.plain.send_message(RawMessage(payload))  # one at a time: nothing is left unread
        assert joined.ours.read_message()[1].asbytes() == payload[1:]
        lengths.append(len(joined.ours._buffer))
    assert lengths[2:5] == [READ_AFTER_LOGIN] * 3
    assert lengths[-1] == READ_WHEN_IDLE


@pytest.mark.parametrize("padding", [0, 3, 12, 255])
def test_impossible_padding_is_refused(pair: Callable[[str], Pair], padding: int) -> None:
    joined = pair("plain")
    joined.raw.sendall(struct.pack(">IB", 12, padding) + bytes(11))
    with pytest.raises(ProtocolViolationError):
        joined.ours.read_message()


def test_the_gate_sees_every_message_before_it_is_delivered(pair: Callable[[str], Pair]) -> None:
    joined = pair("gcm")
    seen: list[int] = []

    def gate(number: int) -> None:
        seen.append(number)
        raise ProtocolViolationError

    joined.ours.gate = gate
    joined.plain.send_message(RawMessage(b"\x34"))
    with pytest.raises(ProtocolViolationError):
        joined.ours.read_message()
    assert seen == [0x34]


def test_closing_wakes_a_reader_and_a_writer(pair: Callable[[str], Pair]) -> None:
    joined = pair("gcm")
    ended = []

    def expect_end(work: Callable[[], object]) -> None:
        try:
            work()
        except EOFError:
            ended.append(work)

    def write() -> None:
        while True:
            joined.ours.send_message(RawMessage(bytes(30_000)))

    threads = [threading.Thread(target=expect_end, args=(work,)) for work in (joined.ours.read_message, write)]
    for thread in threads:
        thread.start()
    joined.ours.close()
    for thread in threads:
        thread.join(3)
    assert len(ended) == 2


def test_an_endless_line_is_refused(pair: Callable[[str], Pair]) -> None:
    joined = pair("plain")
    joined.raw.sendall(b"S" * 5000)
    with pytest.raises(SSHException):
        joined.ours.readline(5)


def test_a_line_and_the_packet_behind_it(pair: Callable[[str], Pair]) -> None:
    joined = pair("plain")
    joined.raw.sendall(b"SSH-2.0-x\r\n" + _on_the_wire("plain", b"\x14kex"))
    assert joined.ours.readline(5) == "SSH-2.0-x"
    assert joined.ours.read_message()[0] == 0x14


def test_encrypt_and_mac_is_not_spoken(pair: Callable[[str], Pair]) -> None:
    joined = pair("plain")
    with pytest.raises(SSHException):
        joined.ours.set_inbound_cipher(None, 16, hashlib.sha256, 32, MAC_KEY)


# ---------------------------------------------------------------- whole connections with plain paramiko


class Welcoming(paramiko.ServerInterface):
    def check_auth_none(self, username: str) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED


@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr"])
@pytest.mark.parametrize("ours", ["server", "client"])
def test_keys_change_under_load(monkeypatch: pytest.MonkeyPatch, cipher: str, ours: str) -> None:
    monkeypatch.setattr(ssh_keys, "REKEY_OCTETS", 1_000_000)
    left, right = socket.socketpair()
    server = paramiko.Transport(left, packetizer_class=PacketLayer if ours == "server" else None)  # type: ignore[arg-type]
    client = paramiko.Transport(right, packetizer_class=PacketLayer if ours == "client" else None)  # type: ignore[arg-type]
    for transport in (server, client):
        options = transport.get_security_options()
        options.ciphers, options.digests = [cipher], ["hmac-sha2-256-etm@openssh.com"]
    exchanges = []
    began = client._parse_newkeys
    client._handler_table[21] = lambda m: (exchanges.append(1), began(m))
    server.add_server_key(paramiko.ECDSAKey.generate())
    server.start_server(event=threading.Event(), server=Welcoming())
    client.start_client(timeout=20)
    client.auth_none("anybody")
    here = client.open_session()
    there = server.accept(20)
    blob = os.urandom(5_000_000)
    echoing = threading.Thread(target=_echo, args=(there,), daemon=True)
    writing = threading.Thread(target=_write, args=(here, blob), daemon=True)
    echoing.start()
    writing.start()
    got = bytearray()
    while len(got) < len(blob):
        got += here.recv(65536)
    assert bytes(got) == blob
    assert len(exchanges) > 3
    for transport in (client, server):
        transport.close()
        transport.join(10)


@pytest.mark.parametrize("is_heeded", [True, False])
def test_under_worn_keys_so_much_may_come_and_no_more(
    pair: Callable[[str], Pair], monkeypatch: pytest.MonkeyPatch, is_heeded: bool
) -> None:
    monkeypatch.setattr(ssh_keys, "REKEY_OCTETS", 10_000)
    monkeypatch.setattr(ssh_packets, "OVERDUE_OCTETS", 20_000)
    joined = pair("gcm")
    piece, read = b"\x5e" * 1_000, 0
    with nullcontext() if is_heeded else pytest.raises(SSHException, match="ignores requests for new keys"):
        for _ in range(100):
            _send_quietly(joined.plain, piece)
            joined.ours.read_message()
            read += 1
            if is_heeded and joined.ours.need_rekey():
                for layer in (joined.ours, joined.plain):
                    key_in(layer, "gcm")
                    key_out(layer, "gcm")
    assert read == 100 if is_heeded else 27 <= read < 30  # 30,000 octets with what frames them


def _echo(channel: paramiko.Channel) -> None:
    while data := channel.recv(65536):
        channel.sendall(data)


def _write(channel: paramiko.Channel, blob: bytes) -> None:
    for at in range(0, len(blob), 32_000):
        channel.sendall(blob[at : at + 32_000])


def test_a_message_is_not_padded_with_zeros_when_it_is_short() -> None:
    assert Message(b"").get_int() == 0  # why Fields exists
