"""HTTP connections that hold nothing for long: a whole head in time, and so many per client address.

uvicorn times idle connections between requests only: one that sends half a head stays for ever (Slowloris,
CVE-2007-6750 in other servers).
"""

import asyncio
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_WITHIN_S = 10.0
MOST_PER_CLIENT = 256  # a NAT or a proxy is one client
_IPV6_CLIENT_BITS = 64  # whoever has one IPv6 address has a whole /64


class BoundedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a timer for each head and a limit for each client.

    A client at its limit loses its oldest connection that waits for a head, so that half-sent requests never keep
    out whole ones from the same address; when all are being answered, the new connection is closed.
    """

    head_within_s: ClassVar[float] = HEAD_WITHIN_S
    most_per_client: ClassVar[int] = MOST_PER_CLIENT
    open_by_client: ClassVar[dict[str, dict["BoundedHttpProtocol", None]]] = {}  # oldest first; one loop, no lock

    _head_timer: asyncio.TimerHandle | None = None
    _client_key = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's is
        """Make room or refuse; then wait for a head."""
        super().connection_made(transport)
        self._client_key = _client_key(self.client[0] if self.client else "")
        mine = self.open_by_client.get(self._client_key, {})
        if len(mine) >= self.most_per_client:
            idle = next((each for each in mine if each.is_waiting()), None)
            if idle is None:
                transport.abort()
                return
            idle.drop()
        self.open_by_client.setdefault(self._client_key, {})[self] = None
        self._await_head(self.head_within_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._stop_waiting()
        self._give_place_back()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """The head is whole; how long a body may take is the guard's matter."""
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The next head is due within the time that an idle connection is kept."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():  # else the next one is here already
            self._await_head(max(self.head_within_s, self.timeout_keep_alive))

    def is_waiting(self) -> bool:
        """True while no request is being answered."""
        return self._head_timer is not None

    def drop(self) -> None:
        """Close at once, without waiting for what the other side would still read."""
        self._stop_waiting()
        self._give_place_back()
        self.transport.abort()

    def _await_head(self, seconds: float) -> None:
        self._stop_waiting()
        self._head_timer = self.loop.call_later(seconds, self.drop)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_place_back(self) -> None:
        mine = self.open_by_client.get(self._client_key, {})
        mine.pop(self, None)
        if not mine:
            self.open_by_client.pop(self._client_key, None)


def _client_key(address: str) -> str:
    with suppress(ValueError):
        if ip_address(address).version == 6:
            return str(ip_network(f"{address.partition('%')[0]}/{_IPV6_CLIENT_BITS}", strict=False))
    return address
