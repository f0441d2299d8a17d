import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner, Result

from gateway.adapters.webauthn import WebAuthnRelyingParty
from gateway.app.providers import Providers
from gateway.edges.cli.client import write_private
from gateway.edges.cli.main import make_cli
from gateway.edges.http.app import DoorFacts, create_app
from tests.unit.edges.device import DEVICE
from tests.unit.edges.stage import Stage
from tests.unit.edges.trusting_provider import TrustingProvider

DOOR_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHJ5cO0KTmYwvdSjyM3EV2K5oyRzH1ZpQbF0tW8jKpVq gateway"


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None: ...


@dataclass
class Gw:
    """Runs `gw` in this process against a served API, as one person."""

    url: str
    home: Path
    stage: Stage
    token: str = ""

    def as_(self, name: str) -> "Gw":
        with self.stage.ctx.store.read() as uow:
            user = uow.users.by_name(name)
        token = self.stage.token(user or self.stage.user(name))
        home = self.home.parent / f"home-{name}"
        write_private(home / "device.key", DEVICE.seed.encode())
        return Gw(self.url, home, self.stage, token)

    def env(self) -> dict[str, str | None]:
        return {
            "GW_URL": self.url, "GW_HOME": str(self.home), "GW_TOKEN": self.token or None, "GW_KEYRING": "off",
            "GW_DEBUG": None,
        }  # fmt: skip

    def __call__(self, *args: str, **env: str) -> Result:
        result = CliRunner().invoke(make_cli(), args, env={**self.env(), **env}, prog_name="gw")
        assert "Traceback" not in result.output
        return result

    def json(self, *args: str) -> Any:
        result = self(*args, "--json")
        return json.loads(result.stdout)


@pytest.fixture
def serve(stage: Stage) -> Iterator[Callable[[DoorFacts], str]]:
    running: list[tuple[_Server, Thread]] = []

    def start(doors: DoorFacts) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        party = WebAuthnRelyingParty(url.replace("127.0.0.1", "localhost"))  # browsers make no passkeys for digits
        app = create_app(stage.ctx, Providers([TrustingProvider()]), doors, public_url=url, passkeys=party)
        server = _Server(uvicorn.Config(app, log_level="critical", lifespan="off", proxy_headers=False))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread))
        return url

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def gw(serve: Callable[[DoorFacts], str], stage: Stage, tmp_path: Path) -> Gw:
    doors = DoorFacts("127.0.0.1", 2222, DOOR_KEY, "127.0.0.1", 5433, "CA\n", "vkey")
    return Gw(serve(doors), tmp_path / "home", stage)
