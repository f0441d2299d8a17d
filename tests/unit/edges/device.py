"""What the tests sign in from: a device with its key, and a client that proves it as `gw` and our pages' script do."""

from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from gateway.demo.browser import ProvesPages
from gateway.edges.cli.client import BOUND
from gateway.edges.cli.device import DeviceKey, headers

DEVICE = DeviceKey("c2VjcmV0IG9mIHRoZSBkZXZpY2Ugb2YgdGhlIHRlc3Q")
BROWSER = DeviceKey("c2VjcmV0IG9mIHRoZSBicm93c2VyIG9mIHRoZSB0ZXM")
_SIGN_IN = ("/api/device/code", "/api/device/token")


class DeviceClient(ProvesPages, TestClient):
    """`Authorization: Bearer gwc_…` becomes what `gw` sends; a request that has its own proof stays as it is.

    It is a browser, too: see `ProvesPages`.
    """

    def __init__(self, app: FastAPI, *, browser: DeviceKey = BROWSER, **more: Any) -> None:
        super().__init__(app, **more)
        self.clock = app.state.wiring.ctx.clock
        self.browser = browser
        self.event_hooks = {"request": [self._prove]}

    def now(self) -> float:
        """The stage's."""
        return float(self.clock.now().timestamp())

    def _prove(self, request: Any) -> None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        is_beginning = request.url.path in _SIGN_IN and not token
        if "dpop" in request.headers or not (token.startswith(BOUND) or is_beginning) or not token.isascii():
            return
        at = self.clock.now().timestamp()
        key = DEVICE
        told = headers(key, request.method, str(request.url), token)
        told["dpop"] = key.proof(request.method, str(request.url), token, at)
        request.headers.update(told)
