import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import pytest

from gateway.adapters.door_tls import ensure_door_certificate
from gateway.edges.cli.output import Failure
from gateway.edges.cli.tunnel import PORT, Tunnel


class EchoDoor:
    """Answers an SSLRequest, does TLS, then echoes; or answers as it is told."""

    def __init__(self, folder: Path, hosts: tuple[str, ...], answer: bytes = b"S") -> None:
        cert, key, self.ca = ensure_door_certificate(folder, hosts, datetime.now(UTC))
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(cert, key)
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with raw:
            self.requests.append(raw.recv(8, socket.MSG_WAITALL))
            raw.sendall(self._answer)
            if self._answer != b"S":
                return
            try:
                with self._tls.wrap_socket(raw, server_side=True) as tls:
                    while part := tls.recv(65536):
                        tls.sendall(part)
            except OSError:
                return

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[EchoDoor]:
    made = EchoDoor(tmp_path / "tls", ("127.0.0.1", "localhost"))
    yield made
    made.close()


def ask(folder: str, sent: bytes) -> bytes:
    """What comes back; nothing when the tunnel ends instead."""
    with socket.socket(socket.AF_UNIX) as near:
        near.settimeout(20)
        near.connect(f"{folder}/.s.PGSQL.{PORT}")
        sender = Thread(target=_send, args=(near, sent))
        sender.start()
        got = b""
        with suppress(ConnectionResetError):
            while len(got) < len(sent) and (part := near.recv(65536)):
                got += part
        sender.join(20)
        return got


def _send(near: socket.socket, sent: bytes) -> None:
    with suppress(ConnectionError):
        near.sendall(sent)


def taken(near: socket.socket, size: int) -> bytes:
    """As much as comes, up to `size`."""
    got = b""
    with suppress(ConnectionResetError):
        while len(got) < size and (part := near.recv(size - len(got))):
            got += part
    return got


def test_bytes_pass_both_ways_inside_tls(door: EchoDoor) -> None:
    with Tunnel("127.0.0.1", door.port, door.ca) as folder:
        assert ask(folder, b"hello") == b"hello"
        assert ask(folder, b"x" * 300_000) == b"x" * 300_000
        assert Path(folder).stat().st_mode & 0o777 == 0o700
    assert door.requests == [struct.pack(">II", 8, 80877103)] * 2
    assert not Path(folder).exists()


def test_a_door_with_another_name_or_authority_gets_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = EchoDoor(tmp_path / "one", ("gw.example",))
    other = EchoDoor(tmp_path / "two", ("127.0.0.1",))
    for port, ca in ((named.port, named.ca), (other.port, named.ca)):
        with Tunnel("127.0.0.1", port, ca) as folder:
            assert ask(folder, b"secret") == b""
        assert "cannot be reached" in capsys.readouterr().err
    named.close()
    other.close()


def test_a_door_without_tls_gets_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = EchoDoor(tmp_path / "one", ("127.0.0.1",), answer=b"N")
    with Tunnel("127.0.0.1", plain.port, plain.ca) as folder:
        assert ask(folder, b"secret") == b""
    assert "does not speak TLS" in capsys.readouterr().err
    plain.close()


def test_a_closed_door_is_a_sentence(door: EchoDoor, capsys: pytest.CaptureFixture[str]) -> None:
    door.close()
    with Tunnel("127.0.0.1", 9, door.ca) as folder:
        assert ask(folder, b"secret") == b""
    assert "cannot be reached" in capsys.readouterr().err


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4) + body


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (
            message(b"v", b"\0\0\0\2\0\0\0\0") + message(b"R", b"\0\0\0\nSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0") + b"rest",
            message(b"v", b"\0\0\0\2\0\0\0\0") + message(b"R", b"\0\0\0\nSCRAM-SHA-256\0\0") + b"rest",
        ),
        (message(b"R", b"\0\0\0\3") + b"SCRAM-SHA-256-PLUS\0", message(b"R", b"\0\0\0\3") + b"SCRAM-SHA-256-PLUS\0"),
        (message(b"E", b"no") + b"rest", message(b"E", b"no") + b"rest"),
        (b"R\x7f\xff\xff\xff" + bytes(99), b""),
        (b"R\0\0\0\0" + bytes(99), b""),
        (b"R\0", b""),
    ],
)  # fmt: skip
def test_a_psql_without_tls_is_offered_nothing_that_is_bound_to_it(door: EchoDoor, said: bytes, heard: bytes) -> None:
    """The door echoes: what psql sends here is what the door says."""
    with Tunnel("127.0.0.1", door.port, door.ca, binds=True) as folder, socket.socket(socket.AF_UNIX) as near:
        near.settimeout(20)
        near.connect(f"{folder}/.s.PGSQL.{PORT}")
        near.sendall(said)
        if said == b"R\0":
            near.shutdown(socket.SHUT_WR)
        got = b""
        with suppress(ConnectionResetError):
            while len(got) < max(len(heard), 1) and (part := near.recv(65536)):
                got += part
    assert got == heard


def test_a_port_of_the_loopback_address_for_other_tools(door: EchoDoor) -> None:
    tunnel = Tunnel("127.0.0.1", door.port, door.ca, near_port=0)
    startup = struct.pack(">II", 9, 196608) + b"\0"
    with tunnel:
        assert tunnel.near_port
        with socket.create_connection(("127.0.0.1", tunnel.near_port), 20) as near:
            assert near.getsockname()[0] == "127.0.0.1"
            for asked in (80877104, 80877103):  # GSSENCRequest, SSLRequest: libpq's order
                near.sendall(struct.pack(">II", 8, asked))
                assert near.recv(1) == b"N"
            near.sendall(startup)
            assert taken(near, len(startup)) == startup
        with socket.create_connection(("127.0.0.1", tunnel.near_port), 20) as near:
            near.sendall(struct.pack(">II", 8, 80877103) * 4)  # somebody who asks for ever
            assert taken(near, 9) == b"NNN"
        with socket.create_connection(("127.0.0.1", tunnel.near_port), 20) as near:
            near.sendall(b"abc")
            near.shutdown(socket.SHUT_WR)
            assert near.recv(9) == b""
    assert len(door.requests) == 1  # nothing else reached the door
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", tunnel.near_port), 20)


def test_a_port_that_somebody_has_is_a_sentence(door: EchoDoor) -> None:
    tunnel = Tunnel("127.0.0.1", 9, door.ca, near_port=door.port)
    with (
        pytest.raises(Failure, match=f"Port {door.port} of this machine cannot be had: Address already in use"),
        tunnel,
    ):
        pass  # pragma: no cover
