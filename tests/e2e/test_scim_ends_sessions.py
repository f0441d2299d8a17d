"""A person whom the identity provider takes away, in the middle of a real psql session: by SCIM, by back-channel logout."""

import asyncio
import contextlib
import select
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import uvloop
from fastapi.testclient import TestClient

from gateway.adapters.sealed_secrets import SealedSecrets
from gateway.app.api_tokens import WRITE_SCIM, create_api_token
from gateway.app.context import Context
from gateway.app.identity import ClaimNames, Refreshed, SignedClaims
from gateway.app.issue_ticket import issue_ticket
from gateway.app.providers import Providers
from gateway.app.record_evidence import Evidence
from gateway.app.request_access import Ask, request_access
from gateway.app.revalidate import Revalidation
from gateway.app.sign_in import derived
from gateway.app.sign_ins import CHECK_EVERY
from gateway.app.web_login import begin_web_login, complete_web_login
from gateway.core.errors import Denied, Refusal, Unavailable
from gateway.core.incident import Incident
from gateway.core.rota import Shift
from gateway.core.window import Window
from gateway.edges.http.app import create_app
from gateway.edges.proxy.postgres import PostgresDoor, serve_postgres
from gateway.edges.supervisor import Supervisor
from tests.e2e.postgres_stage import door_tls
from tests.servers import PostgresServer
from tests.unit.app.house import INCIDENT, House, open_house
from tests.unit.edges.device import DeviceClient
from tests.unit.edges.http.conftest import DOORS
from tests.unit.edges.http.test_scim import GROUP, PATCH, USER
from tests.unit.edges.trusting_provider import TrustingProvider

pytestmark = pytest.mark.servers
SETTLED_S = 15.0
AT_ONCE_S = 12.0  # of patience on a busy machine; the promise of docs/scim.md is one second


class SamIsOnCall:
    name = "test"

    def fetch(self, window: Window, at: datetime) -> list[Shift]:
        return [Shift("orders", "sam", 1, window, "test", at, "0" * 64)]


class Trouble:
    name = "test"

    def fetch(self, at: datetime) -> list[Incident]:
        return [Incident(INCIDENT, "orders", "slow search", at - timedelta(hours=1), None, "test", at)]


@dataclass
class Life:
    """Somebody works in psql, signed in at a provider that provisions."""

    house: House
    ctx: Context
    provider: TrustingProvider
    client: TestClient
    scim: dict[str, str]
    sam: str = ""
    group: str = ""
    work: "psycopg.Connection[Any]" = field(init=False)
    ended: threading.Event = field(default_factory=threading.Event)

    def provision(self) -> None:
        """Sam, in the group of engineers, and on call."""
        person = {"schemas": [USER], "userName": "sam@corp.example", "externalId": "sub-sam"}
        self.sam = self._post("/Users", person)
        self.group = self._post(
            "/Groups", {"schemas": [GROUP], "displayName": "engineers", "members": [{"value": self.sam}]}
        )

    def _post(self, path: str, body: dict[str, object]) -> str:
        answer = self.client.post(f"/scim/v2{path}", json=body, headers=self.scim)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    @contextmanager
    def psql(self, port: int, ca: Path) -> Iterator[None]:
        start = begin_web_login(self.ctx, self.provider, "127.0.0.1")
        state = derived(start.secret, "state")
        sam = complete_web_login(self.ctx, self.provider, secret=start.secret, state=state, code="sam").user
        request_access(self.ctx, sam, Ask("orders-db", "read", timedelta(hours=1), "slow", INCIDENT))
        ticket = quote(issue_ticket(self.ctx, sam, "orders-db").secret, safe="")
        url = f"postgresql://sam:{ticket}@127.0.0.1:{port}/orders-db?sslmode=verify-full&sslrootcert={ca}"
        with psycopg.connect(url, autocommit=True) as self.work:
            self.work.execute("SELECT 1")
            watcher = threading.Thread(target=self._watch, daemon=True)
            watcher.start()
            yield

    def _watch(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            poller = select.poll()
            poller.register(self.work.fileno(), select.POLLRDHUP | select.POLLHUP)
            poller.poll(SETTLED_S * 2000)
        self.ended.set()

    def patch(self, path: str, operation: dict[str, object]) -> None:
        body = {"schemas": [PATCH], "Operations": [operation]}
        assert self.client.patch(f"/scim/v2{path}", json=body, headers=self.scim).status_code == 200

    def is_over_within(self, seconds: float) -> bool:
        return self.ended.wait(seconds)


@contextmanager
def door(ctx: Context, tls: Any) -> Iterator[PostgresDoor]:
    ready: Future[tuple[PostgresDoor, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        made = await serve_postgres(ctx, "127.0.0.1", 0, tls)
        ready.set_result((made, asyncio.get_running_loop(), stop))
        await stop.wait()
        await made.close()

    thread = threading.Thread(target=lambda: uvloop.run(serve()))
    thread.start()
    made, loop, stop = ready.result(SETTLED_S)
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(SETTLED_S)


@pytest.fixture
def life(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[Life]:
    names = ClaimNames(provisioned=True, from_scim=True)
    provider = TrustingProvider(names=names, refresh_token="rt", claims={"sid": "sid-1"})
    with open_house(tmp_path, postgres_server) as house:
        ctx = replace(
            house.ctx,
            sealer=SealedSecrets(tmp_path / "tokens.key"),
            wake=lambda: supervisor.wake(),  # noqa: PLW0108 - made below
            rejudge=lambda: supervisor.rejudge(),  # noqa: PLW0108 - as above
        )
        supervisor = Supervisor(ctx, [SamIsOnCall()], [Trouble()], Evidence(), 3600.0)
        supervisor.run_once()
        supervisor.start()
        tls, ca = door_tls(tmp_path / "tls")
        app = create_app(ctx, Providers([provider]), DOORS, public_url="http://testserver")
        try:
            with door(ctx, tls) as opened, DeviceClient(app, follow_redirects=False) as client:
                made = create_api_token(ctx, house.people["lead"], "okta", [WRITE_SCIM], timedelta(days=1), "oidc")
                life = Life(house, ctx, provider, client, {"authorization": f"Bearer {made.secret}"})
                life.provision()
                with life.psql(opened.port, ca):
                    yield life
        finally:
            supervisor.stop()


def test_who_is_deprovisioned_loses_the_session_at_once(life: Life) -> None:
    life.patch("/Users/" + life.sam, {"op": "Replace", "path": "active", "value": "False"})
    assert life.is_over_within(AT_ONCE_S)


def test_who_is_deleted_loses_the_session_at_once(life: Life) -> None:
    assert life.client.delete("/scim/v2/Users/" + life.sam, headers=life.scim).status_code == 204
    assert life.is_over_within(AT_ONCE_S)


def test_a_group_that_is_taken_away_ends_the_session_that_depends_on_it(life: Life) -> None:
    life.patch("/Groups/" + life.group, {"op": "remove", "path": f'members[value eq "{life.sam}"]'})
    assert life.is_over_within(AT_ONCE_S)


def test_a_logout_at_the_provider_ends_the_session(life: Life) -> None:
    answer = life.client.post("/api/backchannel-logout/oidc", data={"logout_token": ",sid-1,j1"})
    assert answer.status_code == 200
    assert life.is_over_within(AT_ONCE_S)


def test_who_is_disabled_at_the_provider_loses_the_session_and_an_outage_ends_none(life: Life) -> None:
    revalidation = Revalidation(life.ctx, life.provider)
    down = Unavailable(Refusal("provider-unavailable", "down"))
    no = Denied(Refusal("sign-in-over", "no longer vouches"))
    life.provider.answers = [Refreshed(SignedClaims({}), tells_groups=False), down, no]
    for _ in range(2):
        life.house.clock.advance(CHECK_EVERY + timedelta(seconds=1))
        revalidation.step()
        assert life.work.execute("SELECT 1").fetchone() == (1,)
    life.house.clock.advance(CHECK_EVERY + timedelta(seconds=1))
    revalidation.step()
    assert life.is_over_within(AT_ONCE_S)
