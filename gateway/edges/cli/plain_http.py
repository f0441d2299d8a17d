"""A small HTTP client on the standard library, for commands that must start quickly: JSON in, JSON lines out.

No redirects and no proxies from the environment: a token goes to the one address and nowhere else.
"""

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from gateway.edges.cli import output

CONNECT_S = 15.0
LONGEST_LINE = 1024 * 1024
LONGEST_ANSWER = 4 * 1024 * 1024


class UnreachableError(Exception):
    """No answer, or half of one."""


@contextmanager
def requested(
    method: str, url: str, headers: Mapping[str, str], body: bytes | None = None, silence_s: float = CONNECT_S
) -> Iterator[http.client.HTTPResponse]:
    """The answer to one request, to be read within the block; UnreachableError otherwise."""
    parts = urlsplit(url)
    path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    connection = _connection(parts.scheme, parts.hostname or "", parts.port)
    try:
        connection.connect()
        if connection.sock is not None:
            connection.sock.settimeout(silence_s)
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.request(method, path, body, {"user-agent": "gw", "connection": "close", **headers})
        with connection.getresponse() as answer:
            yield answer
    except (OSError, http.client.HTTPException) as why:
        raise UnreachableError(f"{parts.scheme}://{parts.netloc} does not answer: {type(why).__name__}") from why
    finally:
        connection.close()


def whole(answer: http.client.HTTPResponse) -> Any:
    """The answer's JSON, None when it is none."""
    body = answer.read(LONGEST_ANSWER + 1)
    if len(body) > LONGEST_ANSWER:
        raise UnreachableError("the answer is too large")
    try:
        return json.loads(body)
    except ValueError:
        return None


def lines(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """JSON objects, one a line, as they come."""
    while text := answer.readline(LONGEST_LINE + 1):
        if not text.endswith(b"\n"):
            raise UnreachableError("the answer ended in the middle of a line")
        try:
            told = json.loads(text)
        except ValueError:
            raise UnreachableError("the answer is not the gateway's") from None
        if isinstance(told, dict):
            yield told


def _connection(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=CONNECT_S)
    try:
        trust = ssl.create_default_context(cafile=os.environ.get("GW_CA_FILE") or None)
    except (OSError, ssl.SSLError):
        output.fail("GW_CA_FILE is not a readable PEM file.", output.EXIT_USAGE)
    return http.client.HTTPSConnection(host, port, timeout=CONNECT_S, context=trust)
