"""The database protocol by hand, for what no client would send."""

import socket
import ssl
from collections.abc import Callable

from gateway.wire import postgres_messages as pg
from tests.e2e.postgres_stage import TICKET, WITHIN, Stage


def plain(stage: Stage) -> socket.socket:
    return socket.create_connection(("127.0.0.1", stage.port), timeout=WITHIN)


def encrypted(stage: Stage) -> ssl.SSLSocket:
    raw = plain(stage)
    raw.sendall(pg.ssl_request())
    assert raw.recv(1) == b"S"
    return ssl.create_default_context(cafile=stage.ca_file).wrap_socket(raw, server_hostname="127.0.0.1")


def signed_in(stage: Stage, dial: Callable[[Stage], socket.socket] = encrypted) -> socket.socket:
    client = dial(stage)
    client.sendall(pg.startup({"user": "oncall", "database": "orders-db"}))
    assert client.recv(9) == pg.authentication_cleartext()
    client.sendall(pg.message(b"p", TICKET.encode() + b"\0"))
    answer = b""
    while b"Z\0\0\0\5I" not in answer:
        got = client.recv(65536)
        assert got, answer
        answer += got
    return client


def rest_of(client: socket.socket) -> bytes:
    said = b""
    try:
        while got := client.recv(65536):
            said += got
    except (ConnectionError, ssl.SSLError):
        pass
    return said
