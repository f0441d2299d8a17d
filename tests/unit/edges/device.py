"""The device that the tests sign in from: its key, and a client that proves it as `gw` does."""

from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from gateway.edges.cli.client import BOUND
from gateway.edges.cli.device import DeviceKey, headers

DEVICE = DeviceKey("c2VjcmV0IG9mIHRoZSBkZXZpY2Ugb2YgdGhlIHRlc3Q")
_SIGN_IN = ("/api/device/code", "/api/device/token")


class DeviceClient(TestClient):
    """`Authorization: Bearer gwc_…` becomes what `gw` sends; a request that has its own proof stays as it is."""

    def __init__(self, app: FastAPI, **more: Any) -> None:
        super().__init__(app, **more)
        self.clock = app.state.wiring.ctx.clock
        self.event_hooks = {"request": [self._prove]}

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
