"""A target that does what no server may: its session ends, and nobody takes it for the person's doing."""

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.core.session import EndReason
from gateway.edges.proxy import ssh_transport
from gateway.edges.proxy.ssh_fields import string, u32
from gateway.edges.proxy.ssh_messages import RawMessage
from tests.e2e.ssh_stage import Stage, make_stage
from tests.e2e.ssh_stage import authorities as authorities

pytestmark = [
    pytest.mark.servers,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
Act = Callable[[paramiko.Transport, paramiko.Channel], None]


class Yes(paramiko.ServerInterface):
    def __init__(self, act: Callable[[paramiko.Channel], None]) -> None:
        self.act = act

    def check_auth_publickey(self, _user: str, _key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def get_allowed_auths(self, _user: str) -> str:
        return "publickey"

    def check_channel_request(self, _kind: str, _number: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, _command: bytes) -> bool:
        threading.Thread(target=self.act, args=(channel,), daemon=True).start()
        return True


def host_key(path: Path) -> paramiko.PKey:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return paramiko.Ed25519Key.from_private_key_file(str(path))


def raw(transport: paramiko.Transport, *parts: bytes) -> None:
    with suppress(EOFError, OSError):
        transport._send_message(RawMessage(b"".join(parts)))  # type: ignore[attr-defined]


@contextmanager
def behind(directory: Path, authorities: SshAuthorities, act: Act) -> Iterator[Stage]:
    """A stage whose target does `act` for each command."""
    key = host_key(directory / "host")
    listener = socket.create_server(("127.0.0.1", 0))
    served: list[paramiko.Transport] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                transport = paramiko.Transport(listener.accept()[0])
                served.append(transport)
                transport.add_server_key(key)
                with suppress(paramiko.SSHException, EOFError):
                    transport.start_server(server=Yes(lambda channel, to=transport: act(to, channel)))  # type: ignore[misc]

    threading.Thread(target=serve, daemon=True).start()
    target: Any = SimpleNamespace(
        account="root", port=listener.getsockname()[1], host_key=f"ssh-ed25519 {key.get_base64()}"
    )
    stage = make_stage(directory, target, authorities)
    door = stage.open_door()
    yield stage
    door.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for transport in served:
        transport.close()
        transport.join(10)


def data_beyond_the_window(transport: paramiko.Transport, channel: paramiko.Channel) -> None:
    for _ in range(1000):
        raw(transport, b"\x5e", u32(channel.remote_chanid), string(bytes(30_000)))


def data_after_the_end(transport: paramiko.Transport, channel: paramiko.Channel) -> None:
    raw(transport, b"\x60", u32(channel.remote_chanid))
    raw(transport, b"\x5e", u32(channel.remote_chanid), string(b"after"))


def a_status_that_is_cut(transport: paramiko.Transport, channel: paramiko.Channel) -> None:
    raw(transport, b"\x62", u32(channel.remote_chanid), string(b"exit-status"), b"\0", b"\0")


def an_answer_nobody_asked_for(transport: paramiko.Transport, channel: paramiko.Channel) -> None:
    raw(transport, b"\x63", u32(channel.remote_chanid))
    raw(transport, b"\x63", u32(channel.remote_chanid))


def a_second_login(transport: paramiko.Transport, _channel: paramiko.Channel) -> None:
    raw(transport, b"\x34")


def a_flood_of_nothing(transport: paramiko.Transport, _channel: paramiko.Channel) -> None:
    for _ in range(2_000):
        raw(transport, b"\x02", string(b""))


def a_flood_of_openings(transport: paramiko.Transport, _channel: paramiko.Channel) -> None:
    for _ in range(2_000):
        raw(transport, b"\x5a", string(b"x11"), u32(1) * 3)


@pytest.mark.parametrize("act", [a_flood_of_nothing, a_flood_of_openings])
def test_a_target_that_floods_ends_its_session(
    tmp_path: Path, authorities: SshAuthorities, monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    monkeypatch.setattr(ssh_transport, "MOST_CONTROLS", 500.0)
    monkeypatch.setattr(ssh_transport, "CONTROLS_PER_SECOND", 100.0)
    test_what_a_target_breaks_is_its_own(tmp_path, authorities, act)


@pytest.mark.parametrize(
    "act",
    [
        data_beyond_the_window, data_after_the_end, a_status_that_is_cut, an_answer_nobody_asked_for, a_second_login,
    ],
)  # fmt: skip
def test_what_a_target_breaks_is_its_own(tmp_path: Path, authorities: SshAuthorities, act: Act) -> None:
    with behind(tmp_path, authorities, act) as stage:
        done = stage.ssh("web-1.gw", "x", timeout=20)
        assert done.returncode in (254, 255)
        stage.wait(lambda: stage.ended)
        [(_, reason, detail)] = stage.ended
        assert (reason, detail.startswith("it broke the protocol: ")) == (EndReason.TARGET_CLOSED, True)


def test_another_host_key_when_keys_are_changed_is_an_event(tmp_path: Path, authorities: SshAuthorities) -> None:
    other = host_key(tmp_path / "other")

    def act(transport: paramiko.Transport, channel: paramiko.Channel) -> None:
        channel.recv(1)  # until then paramiko has an answer to send, and would wait for itself
        transport.server_key_dict = {"ssh-ed25519": other}  # type: ignore[attr-defined]
        with suppress(EOFError, OSError, paramiko.SSHException):
            transport.renegotiate_keys()
            channel.sendall(b"what another machine says")

    with behind(tmp_path, authorities, act) as stage:
        assert stage.ssh("web-1.gw", "x", input=b"go", timeout=20).stdout == b""
        stage.wait(lambda: stage.ended)
        assert stage.ended[0][1:] == (EndReason.TARGET_CLOSED, "its host key changed")
        [event] = stage.events_of("target:untrusted")
        assert event["code"] == "host-key-changed"
        assert str(event["presented"]).startswith("SHA256:")


def test_channels_that_nobody_asked_for_are_refused(tmp_path: Path, authorities: SshAuthorities) -> None:
    refused: list[int] = []

    def act(transport: paramiko.Transport, channel: paramiko.Channel) -> None:
        done = threading.Event()

        def no(_message: paramiko.Message) -> None:
            refused.append(1)
            if len(refused) == 5:
                done.set()

        transport._handler_table[92] = no  # type: ignore[attr-defined]
        for kind in (b"x11", b"auth-agent@openssh.com", b"forwarded-tcpip", b"session", b"direct-tcpip"):
            fields = string(b"a") + u32(1) + string(b"b") + u32(2)
            raw(transport, b"\x5a", string(kind), u32(77), u32(1000), u32(1000), fields)
        done.wait(10)
        channel.send_exit_status(0)
        channel.send_exit_status(3)
        channel.close()

    with behind(tmp_path, authorities, act) as stage:
        assert stage.ssh("web-1.gw", "x", timeout=20).returncode == 3
        stage.wait(lambda: stage.ended)
        assert len(refused) == 5
        assert not stage.events_of("forward:opened")
        assert len(stage.recordings[0].of("exit")) == 2
