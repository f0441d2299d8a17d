"""An end to one HTTP answer.

Timeouts are for each read, and a server that sends the head of its answer in drips never meets them. Resolving the name
and connecting come before: each address of a name has the connect timeout to itself.
"""

import socket
from collections.abc import Mapping
from threading import Lock, Timer
from types import TracebackType
from typing import Any, Self

CONNECTED = "connection.connect_tcp.complete"  # of httpcore's `trace` extension


class CutOff:
    """With it, the connection that a request opens is shut down after so many seconds: its read ends, or fails.

    `is_over` says that it was. `trace` is the request's extension of that name; a connection that is open already is
    not seen by it.
    """

    def __init__(self, seconds: float) -> None:
        self._lock = Lock()
        self._own: socket.socket | None = None
        self.is_over = False
        self._timer = Timer(seconds, self._cut)
        self._timer.daemon = True

    def trace(self, name: str, info: Mapping[str, Any]) -> None:
        """Remember the connection, by a descriptor of our own: TLS takes the client's over."""
        if name == CONNECTED:
            with self._lock:
                self._own = info["return_value"].get_extra_info("socket").dup()  # OSError: no descriptor is left
            if self.is_over:
                self._cut()

    def _cut(self) -> None:
        self.is_over = True
        with self._lock:
            if self._own is not None:
                try:
                    self._own.shutdown(socket.SHUT_RDWR)
                except OSError:  # it is closed at the other end already
                    return

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            if self._own is not None:
                self._own.close()
                self._own = None
