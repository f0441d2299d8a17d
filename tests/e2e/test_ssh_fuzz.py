"""Whatever messages come, in whatever state and order: nobody is let in by them, and nobody else notices."""

import logging
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paramiko import SSHException

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.edges.proxy.ssh_channels import WINDOW
from gateway.edges.proxy.ssh_door import DoorLimits, SshDoor
from gateway.edges.proxy.ssh_fields import ProtocolViolationError, string, u32
from tests.e2e.ssh_stage import Stage, make_stage
from tests.e2e.ssh_stage import authorities as authorities
from tests.e2e.ssh_stage import sshd as sshd
from tests.e2e.test_ssh_hostile import RawClient
from tests.e2e.test_ssh_known_flaws import _kexinit, _packet, _read, give_ticket, open_session
from tests.sshd import Sshd

pytestmark = [
    pytest.mark.servers,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),  # paramiko's client thread
]
EXAMPLES = 25
PATIENCE = 5.0
# What a peer can cause; anything else that ends a connection is a bug.
EXPECTED = (EOFError, OSError, SSHException, ProtocolViolationError, InvalidTag)
SSH_CONNECTION = string(b"ssh-connection")
WELL_FORMED = [
    b"\x02" + string(b"x"), b"\x03" + u32(1), b"\x04\0" + string(b"x") + string(b""), b"\x07" + u32(0), b"\x15",
    b"\x05" + string(b"ssh-userauth"), b"\x05" + string(b"ssh-connection"), b"\x06" + string(b"ssh-userauth"),
    _kexinit(b"curve25519-sha256"), b"\x1e" + string(bytes(32)), b"\x1f" + string(b"") * 3,
    b"\x32" + string(b"web-1") + SSH_CONNECTION + string(b"none"),
    b"\x32" + string(b"web-1") + SSH_CONNECTION + string(b"password") + b"\0" + string(b"gwt_x"),
    b"\x32" + string(b"root") + SSH_CONNECTION + string(b"hostbased"),
    b"\x32" + string(b"web-1") + SSH_CONNECTION + string(b"keyboard-interactive") + string(b"") * 2,
    b"\x32" + string(b"web-1") + SSH_CONNECTION + string(b"publickey") + b"\1" + string(b"ssh-ed25519") * 3,
    b"\x33" + string(b"none") + b"\0", b"\x34", b"\x35" + string(b"hello") * 2, b"\x3c" + string(b"x") * 2,
    b"\x3d" + u32(1) + string(b"gwt_x"),
    b"\x50" + string(b"tcpip-forward") + b"\1" + string(b"") + u32(0), b"\x50" + string(b"keepalive@openssh.com") + b"\1",
    b"\x51", b"\x52", b"\x5a" + string(b"session") + u32(7) + u32(WINDOW) + u32(32768),
    b"\x5a" + string(b"direct-tcpip") + u32(8) + u32(WINDOW) + u32(32768) + string(b"127.0.0.1") + u32(1) + string(b"") + u32(1),
    b"\x5b" + u32(0) * 4, b"\x5c" + u32(0) + u32(1) + string(b"no") * 2, b"\x5d" + u32(0) + u32(1 << 31),
    b"\x5e" + u32(0) + string(b"data"), b"\x5f" + u32(0) + u32(1) + string(b"err"), b"\x60" + u32(0), b"\x61" + u32(0),
    *(b"\x62" + u32(0) + string(name) + b"\1" + fields for name, fields in [
        (b"shell", b""), (b"exec", string(b"cat")), (b"exec", b""), (b"subsystem", string(b"sftp")),
        (b"pty-req", string(b"xterm") + u32(80) * 4 + string(b"")), (b"window-change", u32(80) * 4),
        (b"env", string(b"LANG") + string(b"C")), (b"signal", string(b"TERM")), (b"break", u32(1)),
        (b"exit-status", u32(0)), (b"x11-req", b"\0" + string(b"") * 2 + u32(0)), (b"auth-agent-req@openssh.com", b""),
    ]),
    b"\x63" + u32(0), b"\x64" + u32(0),
]  # fmt: skip
MESSAGES = st.lists(
    st.one_of(
        st.sampled_from(WELL_FORMED),
        st.binary(min_size=1, max_size=60),
        st.builds(lambda text, at: text[: 1 + at % len(text)], st.sampled_from(WELL_FORMED), st.integers(0, 200)),
    ),
    min_size=1,
    max_size=8,
)


class Plain:
    """A client before there are keys."""

    def __init__(self, stage: Stage) -> None:
        assert stage.door is not None
        self.sock = socket.create_connection(("127.0.0.1", stage.door.port), timeout=PATIENCE)
        self.sock.sendall(b"SSH-2.0-fuzz\r\n")
        while _read(self.sock, 1) != b"\n":
            pass

    def send(self, message: bytes) -> None:
        with suppress(OSError):
            self.sock.sendall(_packet(message))

    def begin_exchange(self) -> "Plain":
        _read(self.sock, struct.unpack(">I", _read(self.sock, 4))[0])
        self.send(_kexinit(b"curve25519-sha256", b"kex-strict-c-v00@openssh.com"))
        return self

    def close(self) -> None:
        self.sock.close()


class Sealed(RawClient):
    """A client with keys; it does not mind what it is told."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        for number in (81, 82, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100):
            self.transport._handler_table[number] = lambda *_a: None

    def send(self, *parts: bytes) -> None:
        with suppress(SSHException, AttributeError):  # closed meanwhile
            super().send(*parts)


def _sealed(stage: Stage, *steps: Callable[[Sealed], object]) -> Sealed:
    client = Sealed(stage)
    for step in steps:
        step(client)
    return client


def _wrong_ticket(client: Sealed) -> None:
    give_ticket(client, b"web-1", b"gwt_wrong")
    client.answer()


def _cat(client: Sealed) -> None:
    client.send(b"\x62", u32(0), string(b"exec"), b"\0", string(b"cat"))


OUTSIDE: dict[str, Callable[[Stage], Plain | Sealed]] = {
    "identified": Plain,
    "exchanging keys": lambda stage: Plain(stage).begin_exchange(),
    "keys": _sealed,
    "asked for authentication": lambda stage: _sealed(stage, Sealed.begin),
    "refused once": lambda stage: _sealed(stage, Sealed.begin, _wrong_ticket),
}
INSIDE: dict[str, Callable[[Stage], Plain | Sealed]] = {
    "logged in": lambda stage: _sealed(stage, Sealed.log_in),
    "with a channel": lambda stage: _sealed(stage, Sealed.log_in, open_session),
    "with a command": lambda stage: _sealed(stage, Sealed.log_in, open_session, _cat),
}


@pytest.fixture
def reasons(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What ended each connection at the door."""
    seen: list[BaseException | None] = []
    forget = SshDoor._forget

    def noting(door: SshDoor, connection) -> None:
        seen.append(connection._transport.why_over())
        forget(door, connection)

    monkeypatch.setattr(SshDoor, "_forget", noting)
    return seen


@pytest.fixture
def open_stage(tmp_path: Path, sshd: Sshd, authorities: SshAuthorities) -> Iterator[Stage]:
    stage = make_stage(tmp_path, sshd, authorities)
    door = stage.open_door(DoorLimits(burst=1e9))
    yield stage
    door.close()
    assert len(stage.ended) == len(stage.opened), "every session ends exactly once"


@pytest.mark.parametrize("state", [*OUTSIDE, *INSIDE])
def test_any_messages_in_any_state(
    open_stage: Stage, reasons: list[BaseException | None], caplog: pytest.LogCaptureFixture, state: str
) -> None:
    caplog.set_level(logging.ERROR, "gateway.ssh")
    reach = (OUTSIDE | INSIDE)[state]

    @given(messages=MESSAGES)
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    def fuzz(messages: list[bytes]) -> None:
        client = reach(open_stage)
        for message in messages:
            client.send(message)
        client.close()

    fuzz()
    assert open_stage.door is not None
    gone = threading.Event()
    for _ in range(900):  # longer than anybody may take to log in
        if not open_stage.door._connections():
            break
        gone.wait(0.05)
    assert not open_stage.door._connections()
    bugs = [why for why in reasons if why is not None and not isinstance(why, EXPECTED)]
    assert not bugs, traceback.format_exception(bugs[0])
    assert not [record.getMessage() for record in caplog.records]
    if state in OUTSIDE:
        assert not open_stage.asked
        assert not open_stage.opened
    assert open_stage.ssh("web-1.gw", "echo in").stdout == b"in\n"


def test_a_list_of_names_that_is_no_text(open_stage: Stage, reasons: list[BaseException | None]) -> None:
    client = Plain(open_stage)
    client.send(b"\x14" + bytes(16) + string(b"\xff\xb4") * 10 + b"\0" + u32(0))
    with suppress(OSError):
        while client.sock.recv(4096):
            pass
    client.close()
    assert open_stage.door is not None
    gone = threading.Event()
    for _ in range(200):
        if reasons:
            break
        gone.wait(0.05)
    assert isinstance(reasons[-1], ProtocolViolationError), reasons
