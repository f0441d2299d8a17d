import base64
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import paramiko
import pytest
from paramiko.auth_handler import AuthHandler

from gateway.adapters.credentials.ssh_ca import SshAuthorities, _sign, accepted_key
from gateway.core.session import EndReason
from gateway.edges.proxy import ssh_transport
from gateway.edges.proxy.ssh_channels import WINDOW
from gateway.edges.proxy.ssh_door import FULL, DoorLimits
from gateway.edges.proxy.ssh_fields import string, u32
from gateway.edges.proxy.ssh_messages import RawMessage
from tests.e2e.ssh_stage import ONCALL, VICTIM, Stage, make_stage
from tests.e2e.ssh_stage import authorities as authorities
from tests.e2e.ssh_stage import sshd as sshd
from tests.e2e.ssh_stage import stage as stage
from tests.sshd import Sshd

pytestmark = [
    pytest.mark.servers,
    # paramiko's client thread ends with whatever the door's refusal looks like from its side
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
ED25519_CERT = b"ssh-ed25519-cert-v01@openssh.com"
FAILURE, SUCCESS, BANNER, PK_OK = 51, 52, 53, 60


class RawClient:
    """A client that sends whatever a test wants, over a real encrypted connection."""

    def __init__(self, stage: Stage) -> None:
        assert stage.door is not None
        self.stage = stage
        self.transport = paramiko.Transport(socket.create_connection(("127.0.0.1", stage.door.port), timeout=10))
        self.answers: queue.Queue[tuple[int, bytes]] = queue.Queue()
        self.transport.start_client(timeout=10)
        client = self

        class Listening(AuthHandler):
            @property
            def _client_handler_table(self) -> dict[int, Callable[[paramiko.Message], None]]:
                return {number: partial(client._heard, number) for number in (6, FAILURE, SUCCESS, BANNER, PK_OK)}

        self.transport.auth_handler = Listening(self.transport)

    def _heard(self, number: int, message: paramiko.Message) -> None:
        self.answers.put((number, message.asbytes()))

    def send(self, *parts: bytes) -> None:
        try:
            self.transport._send_message(RawMessage(b"".join(parts)))
        except (EOFError, OSError):
            self.transport.close()  # the door was faster

    def answer(self) -> int:
        number, _ = self.answers.get(timeout=10)
        return self.answer() if number == BANNER else number

    def begin(self) -> None:
        self.send(b"\x05", string(b"ssh-userauth"))
        assert self.answer() == 6

    def has_ended(self) -> bool:
        self.transport.join(10)
        return not self.transport.is_alive()

    def credential(self, name: str) -> tuple[paramiko.PKey, bytes]:
        key = paramiko.Ed25519Key.from_private_key_file(str(self.stage.directory / name))
        key.load_certificate(str(self.stage.directory / f"{name}-cert.pub"))
        return key, key.public_blob.key_blob

    def offer(self, blob: bytes, user: bytes = b"web-1") -> None:
        self.send(_request(user, b"\0", blob))

    def prove(self, key: paramiko.PKey, blob: bytes, user: bytes = b"web-1", signed_user: bytes | None = None) -> None:
        signed = string(self.transport.session_id) + _request(signed_user or user, b"\x01", blob)
        self.send(_request(user, b"\x01", blob), string(key.sign_ssh_data(signed, "ssh-ed25519").asbytes()))

    def log_in(self) -> None:
        self.begin()
        self.prove(*self.credential("me"))
        assert self.answer() == SUCCESS

    def close(self) -> None:
        self.transport.close()
        self.transport.join(10)


def _request(user: bytes, signed: bytes, blob: bytes) -> bytes:
    head = b"\x32" + string(user) + string(b"ssh-connection") + string(b"publickey")
    return head + signed + string(ED25519_CERT) + string(blob)


Connect = Callable[[], RawClient]


@pytest.fixture
def raw(stage: Stage) -> Iterator[Connect]:
    stage.person("victim", VICTIM)
    clients: list[RawClient] = []

    def connect() -> RawClient:
        clients.append(RawClient(stage))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


# ---------------------------------------------------------------- who comes


def test_offering_the_victims_certificate_gives_nobody_the_victims_name(stage: Stage, raw: Connect) -> None:
    client = raw()
    client.begin()
    client.offer(client.credential("victim")[1])
    assert client.answer() == PK_OK
    client.prove(*client.credential("me"))
    assert client.answer() == SUCCESS
    channel = b"\x5a" + string(b"session") + u32(0) + u32(WINDOW) + u32(32768)
    client.send(channel)
    stage.wait(lambda: stage.opened)
    assert stage.asked == [(ONCALL.id, "web-1", "")]


def test_an_offer_alone_is_no_login(raw: Connect) -> None:
    client = raw()
    client.begin()
    client.offer(client.credential("victim")[1])
    assert client.answer() == PK_OK
    client.send(b"\x5a", string(b"session"), u32(0), u32(WINDOW), u32(32768))
    assert client.has_ended()


def test_a_signature_by_another_key_is_refused(raw: Connect) -> None:
    client = raw()
    client.begin()
    client.prove(client.credential("me")[0], client.credential("victim")[1])
    assert client.answer() == FAILURE


def test_a_signature_for_another_user_name_is_refused(raw: Connect) -> None:
    client = raw()
    client.begin()
    key, blob = client.credential("me")
    client.prove(key, blob, signed_user=b"web-2")
    assert client.answer() == FAILURE


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        string(b"ssh-ed25519") + string(bytes(64)),
        string(b"ssh-ed25519") + string(b""),
        string(b"ssh-rsa") + bytes(68),
        b"\xff" * 8,
    ],
    ids=["none", "zero", "short", "other-type", "garbage"],
)
def test_a_bad_signature_is_refused(raw: Connect, signature: bytes) -> None:
    client = raw()
    client.begin()
    client.send(_request(b"web-1", b"\x01", client.credential("victim")[1]), string(signature))
    assert client.answer() == FAILURE


def test_a_signed_request_without_a_signature_ends_the_connection(raw: Connect) -> None:
    client = raw()
    client.begin()
    client.send(_request(b"web-1", b"\x01", client.credential("victim")[1]))
    assert client.has_ended()


def test_a_second_user_name_ends_the_connection(raw: Connect) -> None:
    client = raw()
    client.begin()
    key, blob = client.credential("me")
    client.offer(blob)
    assert client.answer() == PK_OK
    client.prove(key, blob, user=b"root%web-1")
    assert client.has_ended()


@pytest.mark.parametrize("length", [255, 256])
def test_an_endless_user_name_ends_the_connection(raw: Connect, length: int) -> None:
    client = raw()
    client.begin()
    client.send(b"\x32", string(b"x" * length), string(b"ssh-connection"), string(b"none"))
    if length == 255:
        assert client.answer() == FAILURE
    else:
        assert client.has_ended()


def test_six_refusals_end_the_connection(raw: Connect) -> None:
    client = raw()
    client.begin()
    key = client.credential("me")[0]
    for _ in range(5):
        client.prove(key, client.credential("victim")[1])
        assert client.answer() == FAILURE
    client.prove(key, client.credential("victim")[1])
    assert client.has_ended()


@pytest.mark.parametrize("method", [b"none", b"hostbased", b"gssapi-with-mic", b"publickey-hostbound-v00@openssh.com"])
def test_other_methods_are_refused(raw: Connect, method: bytes) -> None:
    client = raw()
    client.begin()
    client.send(b"\x32", string(b"web-1"), string(b"ssh-connection"), string(method), b"\0", string(b"x"))
    assert client.answer() == FAILURE


# ---------------------------------------------------------------- messages out of place


@pytest.mark.parametrize(
    "number", [6, 51, 52, 53, 60, 61, 80, 81, 82, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 192]
)
def test_nothing_but_authentication_before_authentication(raw: Connect, number: int) -> None:
    client = raw()
    client.send(bytes((number,)), string(b"x"), b"\0")
    assert client.has_ended()


@pytest.mark.parametrize("number", [5, 6, 7, 50, 51, 52, 53, 60, 61, 81, 82, 91, 92, 192])
def test_what_only_servers_send_ends_the_connection_after_login_too(raw: Connect, number: int) -> None:
    client = raw()
    client.log_in()
    client.send(bytes((number,)), string(b"x"), b"\0")
    assert client.has_ended()


def test_a_flood_before_login_ends_the_connection(raw: Connect) -> None:
    client = raw()
    for _ in range(300):
        client.send(b"\x02", string(b"x"))
    assert client.has_ended()


@pytest.mark.parametrize(
    "message",
    [
        b"\x02" + string(b"x"),
        b"\x50" + string(b"x") + b"\1",
        b"\x62" + u32(0) + string(b"x") + b"\1",
        b"\x5a" + string(b"tun@openssh.com") + u32(1) * 3,
    ],
)
def test_a_flood_after_login_ends_the_connection_and_no_other(
    stage: Stage, raw: Connect, monkeypatch: pytest.MonkeyPatch, message: bytes
) -> None:
    monkeypatch.setattr(ssh_transport, "MOST_CONTROLS", 500.0)
    monkeypatch.setattr(ssh_transport, "CONTROLS_PER_SECOND", 100.0)
    flooding = raw()
    flooding.log_in()
    flooding.send(b"\x5a", string(b"session"), u32(0), u32(1 << 20), u32(1 << 15))
    stage.wait(lambda: stage.live)
    for _ in range(5_000):
        if flooding.transport.is_alive():
            flooding.send(message)
    assert flooding.has_ended()
    stage.wait(lambda: stage.ended)
    assert [reason for _, reason, _ in stage.ended] == [EndReason.PROTOCOL_VIOLATION]
    assert stage.ssh("web-1.gw", "echo here").stdout == b"here\n"


@pytest.mark.parametrize(
    ("kind", "rest"),
    [
        (b"direct-tcpip", string(b"169.254.169.254") + u32(80) + string(b"127.0.0.1") + u32(1)),
        (b"direct-streamlocal@openssh.com", string(b"/run/docker.sock") + string(b"") + u32(0)),
        (b"x11", string(b"127.0.0.1") + u32(1)),
        (b"forwarded-tcpip", string(b"127.0.0.1") + u32(80) + string(b"127.0.0.1") + u32(1)),
        (b"auth-agent@openssh.com", b""),
        (b"tun@openssh.com", u32(1) + u32(1)),
    ],
)
def test_no_channel_but_sessions_is_opened(stage: Stage, raw: Connect, kind: bytes, rest: bytes) -> None:
    client = raw()
    client.log_in()
    refused = threading.Event()
    client.transport._handler_table[92] = lambda _m: refused.set()
    client.send(b"\x5a", string(kind), u32(0), u32(WINDOW), u32(32768), rest)
    assert refused.wait(10)
    assert not stage.events_of("forward:opened")
    assert bool(stage.opened) == kind.startswith(b"direct-")  # only those could have been allowed by a level


def test_channels_are_counted(raw: Connect) -> None:
    client = raw()
    client.log_in()
    refused = threading.Event()
    client.transport._handler_table[91] = lambda _m: None
    client.transport._handler_table[92] = lambda _m: refused.set()
    for number in range(11):
        client.send(b"\x5a", string(b"session"), u32(number), u32(WINDOW), u32(32768))
    assert refused.wait(10)


def test_data_beyond_the_window_ends_the_connection(stage: Stage, raw: Connect) -> None:
    client = raw()
    client.log_in()
    client.transport._handler_table[91] = lambda _m: None
    client.transport._handler_table[93] = client.transport._handler_table[99] = lambda _m: None
    client.send(b"\x5a", string(b"session"), u32(0), u32(0), u32(32768))
    client.send(b"\x62", u32(0), string(b"exec"), b"\0", string(b"sleep 60"))
    for _ in range(2 * WINDOW // 32000 + 200):  # twice, as the target takes some of it
        client.send(b"\x5e", u32(0), string(bytes(32000)))
        if not client.transport.is_active():
            break
    assert client.has_ended()


def test_a_packet_larger_than_agreed_ends_the_connection(raw: Connect) -> None:
    client = raw()
    client.log_in()
    client.transport._handler_table[91] = lambda _m: None
    client.transport._handler_table[93] = lambda _m: None
    client.send(b"\x5a", string(b"session"), u32(0), u32(WINDOW), u32(32768))
    client.send(b"\x62", u32(0), string(b"exec"), b"\0", string(b"cat >/dev/null; sleep 60"))
    client.send(b"\x5e", u32(0), string(bytes(32_768)))
    assert client.transport.is_active()
    client.send(b"\x5e", u32(0), string(bytes(32_769)))
    assert client.has_ended()


# ---------------------------------------------------------------- sizes and times


def _resident() -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line)


@pytest.mark.parametrize("length", [0, 1, 4, 35_001, 1 << 20, (1 << 30) - 4, (1 << 31) - 1, (1 << 32) - 1])
def test_impossible_lengths_before_login_are_cut_off(stage: Stage, length: int) -> None:
    assert stage.door is not None
    before = _resident()
    with socket.create_connection(("127.0.0.1", stage.door.port), timeout=10) as sock:
        sock.sendall(b"SSH-2.0-x\r\n" + struct.pack(">IB", length, 4))
        with pytest.raises(OSError, match=r"reset|pipe|abort"):
            _pour(sock)
    assert _resident() - before < 20_000  # KiB


def test_an_endless_identification_is_cut_off(stage: Stage) -> None:
    assert stage.door is not None
    with (
        socket.create_connection(("127.0.0.1", stage.door.port), timeout=10) as sock,
        pytest.raises(OSError, match=r"reset|pipe|abort"),
    ):
        _pour(sock)


def _pour(sock: socket.socket) -> None:
    block = b"x" * (1 << 20)
    for _ in range(300):
        sock.sendall(block)


def test_who_comes_too_often_is_told_so(tmp_path: Path, sshd: Sshd, authorities: SshAuthorities) -> None:
    stage = make_stage(tmp_path, sshd, authorities)
    door = stage.open_door(DoorLimits(burst=2, per_second=0.0))
    for _ in range(2):
        socket.create_connection(("127.0.0.1", door.port), timeout=10).close()
    with socket.create_connection(("127.0.0.1", door.port), timeout=10) as sock:
        sock.settimeout(10)
        assert sock.makefile("rb").readline() == FULL
    assert FULL.strip() in stage.ssh("-v", "web-1.gw", "true").stderr
    door.close()


def test_whoever_does_not_log_in_is_cut_off(tmp_path: Path, sshd: Sshd, authorities: SshAuthorities) -> None:
    stage = make_stage(tmp_path, sshd, authorities)
    door = stage.open_door(DoorLimits(unauthenticated=3, login_seconds=0.5))
    waiting = [socket.create_connection(("127.0.0.1", door.port), timeout=10) for _ in range(6)]
    for sock in waiting:
        sock.settimeout(10)
        while sock.recv(1000):
            pass
        sock.close()
    assert stage.ssh("web-1.gw", "true").returncode == 0  # there is room again
    door.close()


# ---------------------------------------------------------------- certificates with the real client


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_other_kinds_of_keys_are_welcome(stage: Stage, kind: str) -> None:
    stage.person(kind, ONCALL, kind=kind)
    stage.config(kind)
    assert stage.ssh("web-1.gw", "true", key=kind).returncode == 0


def test_rsa_with_sha1_is_refused(stage: Stage) -> None:
    stage.person("rsa", ONCALL, kind="rsa")
    stage.config("rsa", "PubkeyAcceptedAlgorithms ssh-rsa-cert-v01@openssh.com,ssh-rsa")
    assert stage.ssh("web-1.gw", "true", key="rsa").returncode == 255
    assert not stage.asked


@pytest.mark.parametrize(
    ("algorithm", "answer"),
    [(b"ssh-rsa-cert-v01@openssh.com", FAILURE), (b"rsa-sha2-256-cert-v01@openssh.com", PK_OK)],
)
def test_not_even_an_offer_with_sha1_is_taken(stage: Stage, raw: Connect, algorithm: bytes, answer: int) -> None:
    stage.person("rsa", ONCALL, kind="rsa")
    blob = base64.b64decode((stage.directory / "rsa-cert.pub").read_text().split()[1])
    client = raw()
    client.begin()
    head = b"\x32" + string(b"web-1") + string(b"ssh-connection") + string(b"publickey") + b"\0"
    client.send(head, string(algorithm), string(blob))
    assert client.answer() == answer


def test_an_expired_certificate_is_refused_with_a_sentence(stage: Stage) -> None:
    now = datetime.now(UTC)
    public = (stage.directory / "me.pub").read_text()
    line = stage.authorities.door_certificate(ONCALL, public, now - timedelta(hours=2), now - timedelta(seconds=1))
    (stage.directory / "me-cert.pub").write_text(line + "\n")
    # OpenSSH does not present a certificate that it knows to be expired, so another client does
    client = RawClient(stage)
    client.begin()
    client.prove(*client.credential("me"))
    number, text = client.answers.get(timeout=10)
    assert (number, b"expired" in text, b"gw login" in text) == (BANNER, True, True)
    assert client.answer() == FAILURE
    assert [refusal.code for _, refusal in stage.refused] == ["certificate-expired"]
    client.close()


def test_a_plain_key_is_refused_with_a_sentence(stage: Stage) -> None:
    (stage.directory / "me-cert.pub").unlink()
    done = stage.ssh("-o", "LogLevel=INFO", "web-1.gw", "true")
    assert done.returncode == 255
    assert b"gw login" in done.stderr


@pytest.mark.parametrize("is_known", [False, True], ids=["unknown", "disabled"])
def test_a_disabled_person_is_refused(stage: Stage, is_known: bool) -> None:
    stage.users.clear()
    if is_known:
        stage.users[ONCALL.id] = replace(ONCALL, disabled_at=datetime.now(UTC))
    assert stage.ssh("web-1.gw", "true").returncode == 255
    assert not stage.asked
    assert [refusal.code for _, refusal in stage.refused] == ["user-disabled"]


@pytest.mark.parametrize("is_as_at_the_door", [False, True])
def test_a_certificate_for_targets_opens_no_door(stage: Stage, is_as_at_the_door: bool) -> None:
    now = datetime.now(UTC)
    public = (stage.directory / "me.pub").read_text()
    if is_as_at_the_door:  # all that is wrong with it is who signed it
        until = now + timedelta(minutes=5)
        line = _sign(stage.authorities._target, accepted_key(public), ONCALL.id, ONCALL.id, now, until)
    else:
        line = stage.authorities.target_certificate(public, "web-1", "ses_1", "grt_1", now)
    (stage.directory / "me-cert.pub").write_text(line + "\n")
    assert stage.ssh("web-1.gw", "true").returncode == 255
    assert not stage.asked
