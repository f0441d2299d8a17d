"""People who come to a database, one after another in each process, for one statement: `python -m tests.bench.arrivals`.

Speaks the protocol itself: pgbench and libpq do so much at each start that on a small machine one measures them. No
TLS session is resumed, as libpq resumes none; the keys of a SCRAM password are computed once.

Reads libpq's variables from the environment. `SECONDS` as the only argument; prints the milliseconds that each took
from the TCP connection to the first row, a JSON list.
"""

import json
import os
import socket
import ssl
import struct
import sys
import time
from collections.abc import Mapping

from gateway.wire import postgres_messages as pg
from gateway.wire.postgres_scram import MECHANISM, ScramClient

NICE = 5  # clients are other machines; here they share the cores of the gateway
WITHIN_S = 30.0
_SELECT_1 = b"Q" + struct.pack(">I", 4 + len(b"SELECT 1\0")) + b"SELECT 1\0"
_GOODBYE = b"X\0\0\0\4"


class Connection:
    """A logged-in connection; RuntimeError says what the server said instead of letting it in."""

    def __init__(self, environment: Mapping[str, str], tls: ssl.SSLContext | None) -> None:
        self._read = b""
        self.socket: socket.socket = socket.create_connection((environment["PGHOST"], int(environment["PGPORT"])))
        self.socket.settimeout(WITHIN_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket.sendall(pg.ssl_request())
            if self.socket.recv(1) != b"S":
                raise RuntimeError("no TLS")
            self.socket = tls.wrap_socket(self.socket, server_hostname=environment["PGHOST"])
        self.socket.sendall(pg.startup({"user": environment["PGUSER"], "database": environment["PGDATABASE"]}))
        self._log_in(environment["PGPASSWORD"])

    def _log_in(self, password: str) -> None:
        scram = ScramClient(password, "bench-bench-bench")
        while True:
            kind, body = self.next()
            if kind == b"Z":
                return
            if kind != b"R":
                continue
            (code,) = struct.unpack_from(">I", body)
            if code == 3:
                secret = password.encode() + b"\0"
                self.socket.sendall(b"p" + struct.pack(">I", 4 + len(secret)) + secret)
            elif code == 10:
                self.socket.sendall(pg.sasl_initial_response(MECHANISM, scram.first()))
            elif code == 11:
                self.socket.sendall(pg.sasl_response(scram.final(body[4:])))

    def select_one(self) -> None:
        """Returns once the statement is over."""
        self.socket.sendall(_SELECT_1)
        while self.next()[0] != b"Z":
            pass

    def next(self) -> tuple[bytes, bytes]:
        """The type and the body of the server's next message."""
        while len(self._read) < 5 or len(self._read) < 1 + struct.unpack_from(">I", self._read, 1)[0]:
            arrived = self.socket.recv(65536)
            if not arrived:
                raise RuntimeError("the server has closed the connection")
            self._read += arrived
        end = 1 + struct.unpack_from(">I", self._read, 1)[0]
        kind, body, self._read = self._read[:1], self._read[5:end], self._read[end:]
        if kind == b"E":
            raise RuntimeError(repr(body))
        return kind, body

    def close(self) -> None:
        """Say goodbye."""
        self.socket.sendall(_GOODBYE)
        self.socket.close()


def tls_of(environment: Mapping[str, str]) -> ssl.SSLContext | None:
    """What libpq would make of PGSSLMODE and PGSSLROOTCERT; it knows `disable` and `verify-full` only."""
    if environment["PGSSLMODE"] == "disable":
        return None
    return ssl.create_default_context(cafile=environment["PGSSLROOTCERT"])


def arrive(environment: Mapping[str, str], tls: ssl.SSLContext | None) -> float:
    """Seconds from nothing to the first row, with a goodbye that is not counted."""
    start = time.perf_counter()
    connection = Connection(environment, tls)
    connection.select_one()
    took = time.perf_counter() - start
    connection.close()
    return took


def main() -> None:
    os.nice(NICE)
    environment, tls = os.environ, tls_of(os.environ)
    arrive(environment, tls)
    print("ready", flush=True)
    sys.stdin.readline()
    until = time.monotonic() + float(sys.argv[1])
    took = []
    while time.monotonic() < until:
        took.append(1000 * arrive(environment, tls))
    print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main()
