"""For a psql without TLS: psql speaks plainly to a private unix socket, this side does verified TLS to the door.

The socket lies in a fresh 0700 directory, so only the same user can reach it; what leaves the machine is TLS.
"""

import os
import shutil
import socket
import ssl
import struct
import tempfile
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import TracebackType

from gateway.edges.cli import output

PORT = 5432  # only names the socket file: .s.PGSQL.5432
_SSL_REQUEST = struct.pack(">II", 8, 80877103)  # PostgreSQL protocol §54.2.10
_CHUNK = 64 * 1024
_CONNECT_S = 10.0


class Tunnel:
    """`with Tunnel(host, port, ca) as folder:` gives the PGHOST for psql; everything is gone afterwards."""

    def __init__(self, host: str, port: int, ca_file: Path) -> None:
        self._door = (host, port)
        self._tls = ssl.create_default_context(cafile=str(ca_file))  # verifies chain and host name
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._folder = ""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> str:
        self._folder = tempfile.mkdtemp(prefix="gw-")  # 0700
        self._listener.bind(os.path.join(self._folder, f".s.PGSQL.{PORT}"))  # noqa: PTH118  a str for bind
        self._listener.listen(16)
        Thread(target=self._accept, daemon=True).start()
        return self._folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near:
            try:
                far = self._reach()
            except OSError as why:  # ssl errors are OSErrors
                output.say(f"gw: the database door cannot be reached: {output.safe(why)}", err=True)
                return
            with far:
                back = Thread(target=_pump, args=(far, near), daemon=True)
                back.start()
                _pump(near, far)
                back.join()

    def _reach(self) -> ssl.SSLSocket:
        raw = socket.create_connection(self._door, _CONNECT_S)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _ask_for_tls(raw)
            far = self._tls.wrap_socket(raw, server_hostname=self._door[0])
        except BaseException:
            raw.close()
            raise
        far.settimeout(None)  # a session may be silent for long; the door ends it at its deadline
        return far


def _ask_for_tls(raw: socket.socket) -> None:
    """One byte of answer, read alone: what follows it unencrypted would be an injection (CVE-2021-23222)."""
    raw.sendall(_SSL_REQUEST)
    if raw.recv(1) != b"S":
        raise ConnectionError("the door does not speak TLS")


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy until either side ends, then let the other side know."""
    with suppress(OSError):
        while part := source.recv(_CHUNK):
            sink.sendall(part)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
