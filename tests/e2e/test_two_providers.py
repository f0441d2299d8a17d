"""Two real providers at one gateway, each by others: who comes from one is never somebody of the other."""

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest
import uvicorn

from gateway.adapters.oidc import OidcProvider
from gateway.adapters.system import SystemClock
from gateway.app.identity import ClaimNames
from gateway.app.providers import Providers
from gateway.app.revalidate import Revalidation
from gateway.app.sign_ins import CHECK_EVERY
from gateway.demo.browser import Browser, open_as
from gateway.edges.http.app import create_app
from tests.e2e.node_provider import SECRET, NodeProvider, node_provider
from tests.e2e.test_certified_provider import DOORS
from tests.e2e.test_sign_in import Server
from tests.e2e.test_sign_in import issuer as issuer  # oidc-provider-mock, with `oncall` and `lead`
from tests.unit.edges.stage import Stage, make_stage


@dataclass
class House:
    url: str
    staff: NodeProvider
    partner: str  # the other's issuer
    stage: Stage
    providers: Providers

    def sign_in(self, browser: httpx2.Client, provider: str, name: str = "oncall") -> httpx2.Response:
        url = f"{self.url}/login?provider={provider}"
        if provider == "staff":
            return self.staff.open_as(browser, url, name)
        return open_as(browser, url, name, self.partner)

    def is_in(self, browser: httpx2.Client) -> bool:
        return "signed in as" in browser.get(self.url).text.replace("You are not signed in", "")

    def later(self) -> None:
        self.stage.clock.advance(CHECK_EVERY + timedelta(seconds=1))
        for provider in self.providers:
            Revalidation(self.stage.ctx, provider).step()


@pytest.fixture
def house(issuer: str, tmp_path: Path) -> Iterator[House]:
    stage = make_stage(tmp_path)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with node_provider(f"{url}/callback/staff", f"{url}/api/backchannel-logout/staff", tmp_path / "idp.log") as idp:
        staff = OidcProvider(
            name="staff", label="Staff", issuer=idp.issuer, client_id="gw", client_secret=SECRET,
            redirect_uri=f"{url}/callback/staff", clock=SystemClock(),
            names=ClaimNames(reserved=(".partner",)),
            scopes=("openid", "profile", "offline_access"), parameters={"prompt": "consent"},
        )  # fmt: skip
        partner = OidcProvider(
            name="partner", label="Partner", issuer=issuer, client_id="gw", client_secret="secret",
            redirect_uri=f"{url}/callback/partner", clock=SystemClock(),
            names=ClaimNames(suffix=".partner", group_prefix="partner/"),
        )  # fmt: skip
        providers = Providers([staff, partner])
        app = create_app(stage.ctx, providers, DOORS, public_url=url)
        server = Server(uvicorn.Config(app, log_level="critical", lifespan="off", proxy_headers=False))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield House(url, idp, issuer, stage, providers)
        server.should_exit = True
        thread.join(10)
        staff.close()
        partner.close()
    stage.store.close()


@pytest.fixture
def browser() -> Iterator[httpx2.Client]:
    with Browser() as made:
        yield made


@pytest.fixture
def other() -> Iterator[httpx2.Client]:
    with Browser() as made:
        yield made


def test_one_name_at_both_is_two_people_with_groups_apart(
    house: House, browser: httpx2.Client, other: httpx2.Client
) -> None:
    house.staff.person("oncall", groups=["engineer"])
    assert "signed in as oncall" in house.sign_in(browser, "staff").text
    theirs = house.sign_in(other, "partner").text
    assert "oncall.partner" in theirs
    assert "partner/engineers" in theirs
    with house.stage.ctx.store.read() as uow:
        both = [uow.users.by_name(name) for name in ("oncall", "oncall.partner")]
    assert all(both)
    assert len({user.id for user in both if user}) == 2
    assert [set(user.groups) for user in both if user] == [{"engineer"}, {"partner/engineers"}]


def test_a_name_that_looks_like_the_others_is_refused(house: House, browser: httpx2.Client) -> None:
    assert house.sign_in(browser, "staff", "oncall.partner").status_code in (401, 403)
    assert not house.is_in(browser)


def test_an_answer_of_one_does_not_pass_for_the_others(house: House, browser: httpx2.Client) -> None:
    """Mix-up (RFC 9700 §4.4): the login began at one, the answer comes to the other's address, with or without `iss`."""
    back = f"{house.url}/callback/staff"
    arrived = house.staff.open_as(browser, f"{house.url}/login?provider=staff", "oncall", back).headers["location"]
    answer = dict(parse_qsl(urlsplit(arrived).query))
    for told in (
        answer,
        {key: value for key, value in answer.items() if key != "iss"},
        {**answer, "iss": house.partner},
    ):
        assert browser.get(f"{house.url}/callback/partner", params=told).status_code == 401, told
    assert not house.is_in(browser)


def test_an_answer_of_the_other_does_not_pass_for_this_ones(house: House, browser: httpx2.Client) -> None:
    """The same the other way round: what the partner sends comes to the address of the staff's provider."""
    sent = browser.get(f"{house.url}/login?provider=partner").headers["location"]
    arrived = browser.post(sent, data={"sub": "oncall"}).headers["location"]
    assert arrived.startswith(f"{house.url}/callback/partner")
    answer = dict(parse_qsl(urlsplit(arrived).query))
    for told in (answer, {**answer, "iss": house.staff.issuer}):
        assert browser.get(f"{house.url}/callback/staff", params=told).status_code == 401, told
    assert not house.is_in(browser)


def test_the_other_provider_is_not_asked_with_a_code_of_this_one(house: House, browser: httpx2.Client) -> None:
    """The login began at the partner; somebody puts a staff code into its answer."""
    back = f"{house.url}/callback/staff"
    with Browser() as victim:
        stolen = house.staff.open_as(victim, f"{house.url}/login?provider=staff", "victim", back).headers["location"]
    code = dict(parse_qsl(urlsplit(stolen).query))["code"]
    sent = browser.get(f"{house.url}/login?provider=partner").headers["location"]
    state = dict(parse_qsl(urlsplit(sent).query))["state"]
    for told in ({"code": code, "state": state}, {"code": code, "state": state, "iss": house.staff.issuer}):
        assert browser.get(f"{house.url}/callback/partner", params=told).status_code == 401
    assert not house.is_in(browser)


def test_one_that_is_down_signs_nobody_out_and_keeps_nobody_out_of_the_other(
    house: House, browser: httpx2.Client, other: httpx2.Client
) -> None:
    house.sign_in(browser, "staff")
    os.kill(house.staff.pid, signal.SIGKILL)
    for _ in range(3):
        house.later()
    assert house.is_in(browser)
    assert ("provider:unreachable", "failed") in house.stage.events()
    assert "oncall.partner" in house.sign_in(other, "partner").text
    house.later()
    assert house.is_in(browser)
    assert house.is_in(other)


def test_an_end_at_one_is_no_end_at_the_other(house: House, browser: httpx2.Client, other: httpx2.Client) -> None:
    house.sign_in(browser, "staff")
    house.sign_in(other, "partner")
    house.later()
    assert house.is_in(browser)
    assert house.is_in(other)
    house.staff.person("oncall", disabled=True)
    house.later()
    assert not house.is_in(browser)
    assert house.is_in(other)
