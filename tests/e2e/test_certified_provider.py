"""Against a certified provider that others wrote (`oidc-provider`): code and PKCE, `iss`, refresh, logout, the CLI."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx2
import pytest
import uvicorn

from gateway.adapters.oidc import OidcProvider
from gateway.adapters.system import SystemClock
from gateway.app.providers import Providers
from gateway.app.revalidate import Revalidation
from gateway.app.sign_ins import CHECK_EVERY
from gateway.demo.browser import Browser
from gateway.edges.http.app import DoorFacts, create_app
from tests.e2e.node_provider import SECRET, NodeProvider, node_provider
from tests.e2e.test_sign_in import Server
from tests.unit.edges.stage import Stage, make_stage

DOORS = DoorFacts("127.0.0.1", 0, "", "127.0.0.1", 0, "", "vkey")


@dataclass
class House:
    url: str
    idp: NodeProvider
    stage: Stage
    provider: OidcProvider
    revalidation: Revalidation

    def is_in(self, browser: httpx2.Client) -> bool:
        return "signed in as" in browser.get(self.url).text.replace("You are not signed in", "")

    def later(self) -> None:
        self.stage.clock.advance(CHECK_EVERY + timedelta(seconds=1))
        self.revalidation.step()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    stage = make_stage(tmp_path)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    logout = f"{url}/api/backchannel-logout/oidc"
    with node_provider(f"{url}/callback", logout, tmp_path / "idp.log") as idp:
        provider = OidcProvider(
            issuer=idp.issuer, client_id="gw", client_secret=SECRET, redirect_uri=f"{url}/callback",
            clock=SystemClock(), scopes=("openid", "profile", "offline_access"), parameters={"prompt": "consent"},
        )  # fmt: skip
        app = create_app(stage.ctx, Providers([provider]), DOORS, public_url=url)
        server = Server(uvicorn.Config(app, log_level="critical", lifespan="off", proxy_headers=False))
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield House(url, idp, stage, provider, Revalidation(stage.ctx, provider))
        server.should_exit = True
        thread.join(10)
        provider.close()
    stage.store.close()


@pytest.fixture
def browser() -> Iterator[httpx2.Client]:
    with Browser() as made:
        yield made


def test_a_browser_signs_in_and_the_provider_names_itself(house: House, browser: httpx2.Client) -> None:
    page = house.idp.open_as(browser, f"{house.url}/login", "alice")
    assert "signed in as alice" in page.text
    assert "engineers" in page.text
    assert house.provider.names_itself()


def test_an_answer_without_its_issuer_is_refused(house: House, browser: httpx2.Client) -> None:
    callback = _callback(house, browser)
    bare = {key: value for key, value in parse_qsl(urlsplit(callback).query) if key != "iss"}
    assert browser.get(f"{house.url}/callback?{urlencode(bare)}").status_code == 401
    assert not house.is_in(browser)


def test_a_code_of_another_browser_is_refused_by_the_provider(house: House, browser: httpx2.Client) -> None:
    """Code injection: a stolen code in one's own login fails at PKCE (RFC 9700 §4.5)."""
    with Browser() as victim:
        stolen = parse_qs(urlsplit(_callback(house, victim, "victim")).query)["code"][0]
    mine = dict(parse_qsl(urlsplit(_callback(house, browser, "mallory")).query))
    answer = browser.get(f"{house.url}/callback", params={**mine, "code": stolen})
    assert answer.status_code == 401
    assert not house.is_in(browser)


def test_another_redirect_uri_is_refused_by_the_provider(house: House, browser: httpx2.Client) -> None:
    sent = urlsplit(browser.get(f"{house.url}/login").headers["location"])
    query = dict(parse_qsl(sent.query))
    for evil in ("https://evil.example/callback", f"{house.url}/callback/../evil", f"{house.url}/callback?x=1"):
        answer = browser.get(f"{house.idp.issuer}{sent.path}", params={**query, "redirect_uri": evil})
        assert answer.status_code == 400, evil


def test_who_is_disabled_there_is_out_and_groups_follow(house: House, browser: httpx2.Client) -> None:
    house.idp.open_as(browser, f"{house.url}/login", "alice")
    house.later()
    assert house.is_in(browser)
    house.idp.person("alice", groups=["leads"])
    house.later()
    assert "leads" in browser.get(house.url).text  # with the second, rotated, refresh token
    house.idp.person("alice", disabled=True)
    house.later()
    assert not house.is_in(browser)
    assert ("login:ended-by-provider", "ok") in house.stage.events()


def test_a_provider_that_is_gone_signs_nobody_out(tmp_path: Path, house: House, browser: httpx2.Client) -> None:
    house.idp.open_as(browser, f"{house.url}/login", "alice")
    gone = OidcProvider(
        issuer="http://127.0.0.1:9", client_id="gw", client_secret=SECRET, redirect_uri=f"{house.url}/callback",
        clock=SystemClock(),
    )  # fmt: skip
    for _ in range(3):
        house.stage.clock.advance(CHECK_EVERY + timedelta(seconds=1))
        Revalidation(house.stage.ctx, gone).step()
    assert house.is_in(browser)
    assert ("provider:unreachable", "failed") in house.stage.events()
    gone.close()


def test_signing_out_there_ends_the_browser_and_the_terminal_here(
    house: House, browser: httpx2.Client, tmp_path: Path
) -> None:
    house.idp.open_as(browser, f"{house.url}/login", "alice")
    env = {**os.environ, "GW_HOME": str(tmp_path / "home"), "GW_KEYRING": "off", "GW_URL": house.url}
    env.pop("GW_TOKEN", None)
    gw = [sys.executable, "-m", "gateway"]
    login = subprocess.Popen(
        [*gw, "login", "--no-browser", "--provider", "oidc"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert login.stderr is not None
        said = ""
        while not (code := re.search(r"^\s+([A-Z]{4}-[A-Z]{4})$", said, re.MULTILINE)):
            said += login.stderr.readline()
        page = browser.get(f"{house.url}/device", params={"user_code": code[1]})
        assert code[1] in page.text  # shown on both sides
        csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert csrf
        form = {"user_code": code[1], "action": "confirm", "csrf": csrf[1]}
        assert browser.post(f"{house.url}/device", data=form).status_code == 200
        house.stage.clock.advance(timedelta(seconds=2))  # the stage's clock stands still between polls
        _, err = login.communicate(timeout=60)
    finally:
        login.kill()
    assert login.returncode == 0, err
    assert subprocess.run([*gw, "whoami"], env=env, capture_output=True, text=True, timeout=60).returncode == 0
    house.idp.sign_out(browser)
    assert not house.is_in(browser)
    assert subprocess.run([*gw, "whoami"], env=env, capture_output=True, text=True, timeout=60).returncode == 3


def _callback(house: House, browser: httpx2.Client, name: str = "alice") -> str:
    """The address that the provider sends the browser back to, not yet opened."""
    back = f"{house.url}/callback"
    return str(house.idp.open_as(browser, f"{house.url}/login", name, back).headers["location"])
