"""Peers that vanish without a word: the other end of a wire goes silent. Needs root, for a network namespace."""

import ctypes
import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from gateway.adapters.credentials.ssh_ca import SshAuthorities
from gateway.core.session import EndReason
from tests.e2e.ssh_stage import authorities as authorities
from tests.e2e.ssh_stage import make_stage
from tests.sshd import Sshd

NEW_NET = 0x40000000  # setns(2)
NOTICED_WITHIN = 120.0  # idle: 30 s and three probes 10 s apart; with data on its way: 45 s


_wires = itertools.count()


class Wire:
    """A network namespace at the other end of a virtual wire."""

    def __init__(self) -> None:
        number = next(_wires)  # the kernel takes a wire away a moment after its namespace
        self.name = f"gw{os.getpid()}-{number}"
        subnet = (os.getpid() + number) % 256
        self.here, self.there = (f"198.18.{subnet}.{n}" for n in (1, 2))  # RFC 2544: for tests only

    def lay(self) -> None:
        self._ip("netns", "add", self.name)
        self._ip("link", "add", f"{self.name}a", "type", "veth", "peer", "name", "b", "netns", self.name)
        self._ip("addr", "add", f"{self.here}/24", "dev", f"{self.name}a")
        self._ip("link", "set", "dev", f"{self.name}a", "up")
        self._ip("-n", self.name, "addr", "add", f"{self.there}/24", "dev", "b")
        self._ip("-n", self.name, "link", "set", "dev", "b", "up")

    def fall_silent(self) -> None:
        """From now on nothing comes from there: no data, no acknowledgement, no reset."""
        self._ip("-n", self.name, "route", "add", "blackhole", f"{self.here}/32")

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False, timeout=20)

    def listener(self) -> socket.socket:
        """A socket over there, for this process."""
        made: list[socket.socket] = []

        def make() -> None:  # a thread of its own, because a namespace is a thread's
            with Path(f"/run/netns/{self.name}").open("rb") as namespace:
                assert ctypes.CDLL(None).setns(namespace.fileno(), NEW_NET) == 0
            made.append(socket.create_server((self.there, 0)))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join(10)
        return made[0]

    @staticmethod
    def _ip(*args: str) -> None:
        done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False, timeout=20)
        if done.returncode:
            pytest.fail(
                f"A peer can only vanish as root, where network namespaces are: ip {' '.join(args)}: {done.stderr}"
            )


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    try:
        made.lay()
        yield made
    finally:
        made.remove()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while octets := source.recv(65536):
            sink.sendall(octets)


def _forward(listener: socket.socket, server: tuple[str, int], stack: ExitStack) -> None:
    """One connection from over there to the server here, which sees the address that the certificate is good for."""
    left = stack.enter_context(listener.accept()[0])
    right = stack.enter_context(socket.create_connection(server))
    for ends in ((left, right), (right, left)):
        threading.Thread(target=_pump, args=ends, daemon=True).start()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "with data on its way"])
@pytest.mark.parametrize("who", ["person", "target"])
def test_a_session_ends_when_a_peer_has_vanished(
    tmp_path: Path, authorities: SshAuthorities, wire: Wire, who: str, is_busy: bool
) -> None:
    with ExitStack() as stack:
        settings = (f"ListenAddress {wire.here}",)
        own = stack.enter_context(Sshd(tmp_path / "sshd", authorities.target_ca_public, settings=settings))
        stage = make_stage(tmp_path, own, authorities)
        if who == "target":
            listener = stack.enter_context(wire.listener())
            stage.with_target(host=wire.there, port=listener.getsockname()[1])
            threading.Thread(target=_forward, args=(listener, (wire.here, own.port), stack), daemon=True).start()
        stack.callback(stage.open_door(host=wire.here).close)
        command = stage.ssh_args("-o", f"HostName={wire.here}", "web-1.gw", "echo ready; cat")
        over_there = ["ip", "netns", "exec", wire.name] if who == "person" else []
        client = stack.enter_context(subprocess.Popen([*over_there, *command], stdin=-1, stdout=-1, stderr=-1))
        stack.callback(client.kill)
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        wire.fall_silent()
        if is_busy and who == "target":
            client.stdin.write(b"typed\n")
            client.stdin.flush()
        elif is_busy:
            stage.live["ses_0"].warn("a sentence on its way")
            [connection] = stage.door._connections() if stage.door else []
            connection._is.relays[0].person.send(b"a sentence on its way")
        stage.wait(lambda: stage.ended, NOTICED_WITHIN)
        if who == "target":
            assert b"The target closed the connection." in client.communicate(timeout=20)[1]
            assert client.returncode != 0
    assert stage.ended[0][1] is (EndReason.TARGET_CLOSED if who == "target" else EndReason.CLIENT_CLOSED)
