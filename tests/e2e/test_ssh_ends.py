"""What is exact about a terminal, and how sessions end when something breaks: a full disk, a peer that vanished, a
certificate that was taken back.
"""

import base64
import hashlib
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.adapters.recordings import FileRecorder
from gateway.app.open_session import Opened
from gateway.core.grant import Grant
from gateway.core.obligation import Record
from gateway.core.principal import User
from gateway.core.session import EndReason
from gateway.core.ssh_rules import certificate_serial
from gateway.edges.proxy.ssh_channels import WINDOW
from gateway.edges.proxy.ssh_fields import string, u32
from gateway.edges.proxy.ssh_transport import HardTransport
from gateway.wire.krl import revoked_certificates
from tests.e2e.ssh_stage import Stage, make_stage
from tests.e2e.ssh_stage import authorities as authorities
from tests.e2e.ssh_stage import sshd as sshd
from tests.e2e.ssh_stage import stage as stage
from tests.e2e.test_ssh_door import Terminal
from tests.e2e.test_ssh_hostile import BANNER, FAILURE, Connect
from tests.e2e.test_ssh_hostile import raw as raw
from tests.e2e.test_ssh_known_flaws import open_session
from tests.sshd import Sshd
from tests.unit.adapters.recordings.stage import FillingDisk, keyring

pytestmark = [
    pytest.mark.servers,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
TTY_OP_END, VINTR, ECHO, ONLCR = 0, 1, 53, 72  # RFC 4254 §8


# ---------------------------------------------------------------- the terminal


@pytest.mark.client("OpenSSH ssh", "terminal")
def test_a_paste_of_a_thousand_lines_arrives_whole(stage: Stage, tmp_path: Path) -> None:
    lines = "".join(
        f"line {number} of a paste, with some text to make it as long as lines are\n" for number in range(1000)
    )
    person = Terminal(stage, f"stty -echo; echo rea''dy; head -n 1000 > {tmp_path / 'pasted'}; echo do''ne")
    person.expect("ready")
    person.type(lines)
    person.expect("done")
    assert person.close() == 0
    assert hashlib.sha256((tmp_path / "pasted").read_bytes()).digest() == hashlib.sha256(lines.encode()).digest()


def test_terminal_modes_reach_the_target(stage: Stage, raw: Connect) -> None:
    client = raw()
    client.log_in()
    client.transport._handler_table |= dict.fromkeys(range(91, 101), lambda *_told: None)
    open_session(client)
    modes = struct.pack(">BIBIBIB", VINTR, 0x1A, ECHO, 0, ONLCR, 0, TTY_OP_END)
    client.send(
        b"\x62", u32(0), string(b"pty-req"), b"\0", string(b"vt100"), u32(80), u32(24), u32(0) * 2, string(modes)
    )
    client.send(b"\x62", u32(0), string(b"exec"), b"\0", string(b"stty -a; echo $TERM"))
    stage.wait(lambda: stage.recordings and stage.recordings[0].of("exit"))
    said = b"".join(piece[4:] for piece in stage.recordings[0].of("out"))
    assert b"intr = ^Z" in said
    assert b" -echo " in said
    assert b"-onlcr" in said
    assert b"vt100" in said


# ---------------------------------------------------------------- the recorder


class Recorded(Stage):
    """A stage whose sessions are recorded by `recorder`, as in production."""

    recorder: FileRecorder

    def _open(self, user: User, grant: Grant, client: str) -> Opened:
        made = super()._open(user, grant, client)
        session_id = made.session.id

        def failed() -> None:
            self.live[session_id].terminate(EndReason.RECORDING_FAILED, "")

        return replace(made, recording=self.recorder.open(made.session, Record.REQUIRE, failed))


@pytest.fixture
def filling(tmp_path: Path, sshd: Sshd, authorities: SshAuthorities) -> Iterator[tuple[Recorded, FillingDisk]]:
    """A stage with its recordings on a file system that can be full."""
    made, disk = make_stage(tmp_path, sshd, authorities), FillingDisk()
    stage = Recorded(made.directory, made.sshd, made.authorities, made.target, made.level)
    stage.recorder = FileRecorder(tmp_path / "recordings", "gw-test", keyring(tmp_path), disk=disk)
    door = stage.open_door()
    yield stage, disk
    door.close()
    disk.room = 1 << 40
    stage.recorder.close()


def test_a_disk_that_fills_ends_the_session_with_a_sentence(filling: tuple[Recorded, FillingDisk]) -> None:
    stage, disk = filling
    person = Terminal(stage, "echo rea''dy; while read line; do echo again; done")
    person.expect("ready")
    person.type("before\n")
    person.expect("again")
    disk.room = 0
    person.type("after\n")
    person.expect("can no longer be recorded")
    assert person.close() != 0
    stage.wait(lambda: stage.ended)
    assert stage.ended[0][1] is EndReason.RECORDING_FAILED
    kept = b"".join(frame.payload for frame in stage.recorder.read("ses_0"))
    assert b"again" in kept  # what was acknowledged before is there


def test_without_room_nothing_runs(filling: tuple[Recorded, FillingDisk]) -> None:
    stage, disk = filling
    ran = stage.directory / "ran"
    disk.room = 0
    assert stage.ssh("web-1.gw", f"touch {ran}").returncode != 0
    assert not ran.exists()
    disk.room = 1 << 40
    assert stage.ssh("web-1.gw", f"touch {ran}").returncode == 0
    assert ran.exists()


# ---------------------------------------------------------------- peers that vanished


def test_both_legs_are_probed_while_nothing_is_said(stage: Stage) -> None:
    person = Terminal(stage, "echo rea''dy; sleep 60")
    person.expect("ready")
    assert stage.door is not None
    [connection] = stage.door._connections()
    for leg in (connection._transport, connection._upstream.leg):
        assert leg is not None
        assert leg.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, every, times = (
            leg.sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        )
        assert idle + every * times <= 60
    stage.live["ses_0"].terminate(EndReason.KILLED, "")
    person.close()


@pytest.mark.parametrize("vanished", ["person", "target"])
def test_a_peer_that_vanished_with_data_on_its_way_ends_the_session(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, vanished: str
) -> None:
    """The kernel's own word for it is made up here; `tests/conformance/ssh_vanished.py` cuts a wire."""
    process = subprocess.Popen(
        stage.ssh_args("web-1.gw", "echo ready; sleep 60"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert stage.door is not None
    [connection] = stage.door._connections()
    gone = connection._transport if vanished == "person" else connection._upstream.leg
    monkeypatch.setattr(HardTransport, "is_stalled", lambda self, _now: self is gone)
    stage.wait(lambda: stage.ended)
    process.wait(10)
    process.stdout.close()
    assert stage.ended[0][1] is (EndReason.TARGET_CLOSED if vanished == "target" else EndReason.CLIENT_CLOSED)


# ---------------------------------------------------------------- keys and certificates


@pytest.mark.parametrize(
    "algorithm",
    [b"ssh-dss", b"ssh-dss-cert-v01@openssh.com", b"ssh-rsa-cert-v01@openssh.com", b"sk-ssh-ed25519-cert-v01@openssh.com",
     b"x509v3-ecdsa-sha2-nistp256", b"", b"a" * 10_000],
)  # fmt: skip
def test_a_key_of_an_unsupported_type_is_refused_with_a_sentence(stage: Stage, raw: Connect, algorithm: bytes) -> None:
    client = raw()
    client.begin()
    head = b"\x32" + string(b"web-1") + string(b"ssh-connection") + string(b"publickey") + b"\1"
    client.send(head, string(algorithm), string(string(algorithm) + bytes(64)), string(string(algorithm) + bytes(64)))
    number, text = client.answers.get(timeout=10)
    assert (number, b"gw login" in text) == (BANNER, True)
    assert client.answer() == FAILURE
    client.prove(*client.credential("me"))
    assert client.answer() == 52  # the try cost one of six, nothing else


def test_a_target_refuses_certificates_on_the_revocation_list(tmp_path: Path, authorities: SshAuthorities) -> None:
    krl = tmp_path / "krl"
    ca = authorities.target_ca_public

    def publish(*sessions: str) -> None:
        blob = key_blob(ca)
        serials = [certificate_serial(session) for session in sessions]
        new = tmp_path / "krl.new"
        new.write_bytes(revoked_certificates(blob, serials, version=1, generated=1))
        new.replace(krl)  # as docs/ssh.md has it

    publish()
    with Sshd(tmp_path / "sshd", ca, settings=(f"RevokedKeys {krl}",)) as own:
        stage = make_stage(tmp_path, own, authorities)
        door = stage.open_door()
        assert stage.ssh("web-1.gw", "echo in").stdout == b"in\n"
        publish("ses_1")
        refused = stage.ssh("web-1.gw", "echo in")
        assert (refused.returncode, b"does not accept the gateway's certificate" in refused.stderr) == (254, True)
        assert stage.ssh("web-1.gw", "echo in").stdout == b"in\n"  # another session, another certificate
        door.close()
    assert [session for session, _, _ in stage.ended] == ["ses_0", "ses_1", "ses_2"]


def key_blob(line: str) -> bytes:
    return base64.b64decode(line.split()[1])


def test_a_hostile_user_name_is_an_event_and_nothing_else(stage: Stage, raw: Connect) -> None:
    """An ESC or a line break in a name is data: it opens nothing, and reaches the log as it was sent."""
    client = raw()
    client.begin()
    client.prove(*client.credential("me"), user=b"\x1b]0;x\x07\r\nroot%web-1")
    assert client.answer() == 52
    client.send(b"\x5a", string(b"session"), u32(0), u32(WINDOW), u32(32768))
    stage.wait(lambda: stage.asked)
    assert stage.asked == [(stage.users["usr_oncall"].id, "web-1", "\x1b]0;x\x07\r\nroot")]
