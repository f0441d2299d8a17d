"""Our pages in a real browser, with its own keys and WebAuthn, and a virtual authenticator."""

import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import pytest
import uvicorn

from gateway.adapters.webauthn import WebAuthnRelyingParty
from gateway.app.browser_session import PROVE_EVERY
from gateway.app.providers import Providers
from gateway.core.principal import User
from gateway.edges.cli.device import headers as device_headers
from gateway.edges.http.app import DoorFacts, create_app
from tests.conformance.chromium import Browser, chromium
from tests.unit.edges.device import DEVICE
from tests.unit.edges.http.test_login import state_of
from tests.unit.edges.stage import Stage, make_stage
from tests.unit.edges.trusting_provider import TrustingProvider

DOORS = DoorFacts("127.0.0.1", 0, "", "127.0.0.1", 0, "", "vkey")


class Server(uvicorn.Server):
    def install_signal_handlers(self) -> None: ...


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = make_stage(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def provider(stage: Stage) -> TrustingProvider:
    return TrustingProvider(claims={"auth_time": int(stage.clock.now().timestamp())})


@pytest.fixture
def url(stage: Stage, provider: TrustingProvider) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://localhost:{listener.getsockname()[1]}"
    party = WebAuthnRelyingParty(address)
    app = create_app(stage.ctx, Providers([provider]), DOORS, public_url=address, passkeys=party)
    server = Server(uvicorn.Config(app, log_level="critical", lifespan="off", proxy_headers=False))
    thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield address
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with chromium(tmp_path / "profile") as made:
        made.send("WebAuthn.enable")
        options = {
            "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
            "isUserVerified": True, "automaticPresenceSimulation": True,
        }  # fmt: skip
        made.authenticator = made.send("WebAuthn.addVirtualAuthenticator", options=options)["authenticatorId"]
        yield made


def sign_in(browser: Browser, url: str, name: str) -> str:
    """The browser gets the session that somebody who signed in has; its cookie."""
    with httpx2.Client(base_url=url, trust_env=False) as client:
        state = state_of(client.get("/login").headers["location"])
        client.get("/callback", params={"state": state, "code": name})
        session = client.cookies["gw-session"]
    browser.send("Network.setCookie", name="gw-session", value=session, url=url, httpOnly=True, sameSite="Lax")
    return str(session)


def person(stage: Stage, name: str) -> User:
    with stage.ctx.store.read() as uow:
        found = uow.users.by_name(name)
    assert found is not None
    return found


def api(url: str, token: str, method: str, path: str) -> Any:
    headers = device_headers(DEVICE, method, f"{url}{path}", token)
    with httpx2.Client(base_url=url, trust_env=False, headers=headers) as client:
        return client.request(method, path).json()


def test_a_passkey_is_added_and_answers_for_a_terminal_in_a_real_browser(
    browser: Browser, url: str, stage: Stage, provider: TrustingProvider
) -> None:
    sign_in(browser, url, "alice")
    browser.open(f"{url}/passkeys")
    browser.wait("document.querySelector('h1').textContent == 'Your passkeys'")
    browser.run("document.getElementById('passkey-name').value = 'blue key'")
    browser.run("document.querySelector('button[data-kind=create]').click()")
    browser.wait("document.body.innerText.includes('blue key, added')")
    alice = person(stage, "alice")
    with stage.ctx.store.read() as uow:
        (kept,) = uow.passkeys.of(alice.id)
    assert kept.transports == ("internal",)

    token = stage.token(alice)
    code = api(url, token, "POST", "/api/step-up")["code"]
    browser.send("Network.clearBrowserCookies")  # no sign-in is needed there
    browser.open(f"{url}/step-up?code={code}")
    browser.run("document.querySelector('button[data-kind=get]').click()")
    browser.wait("document.getElementById('status').textContent.startsWith('Done')")
    assert api(url, token, "GET", f"/api/step-up/{code}") == {"state": "proved"}

    provider.is_down = True
    with httpx2.Client(base_url=url, trust_env=False) as client:
        place = "/api/device/code"
        begun = client.post(place, headers=device_headers(DEVICE, "POST", f"{url}{place}", "")).json()
    browser.open(begun["passkey_uri_complete"])
    browser.run("document.querySelector('button[data-kind=get]').click()")
    browser.wait("document.getElementById('status').textContent.startsWith('Done')")
    assert ("emergency:opened", "ok") in stage.events()
    assert [
        said for said in browser.complaints if "404" not in said and "401" not in said
    ] == []  # the content security policy, for one


def cookie_of(browser: Browser) -> str:
    return next(str(each["value"]) for each in browser.send("Network.getAllCookies")["cookies"])


def terminal(url: str) -> dict[str, str]:
    place = "/api/device/code"
    with httpx2.Client(base_url=url, trust_env=False) as client:
        begun: dict[str, str] = client.post(place, headers=device_headers(DEVICE, "POST", f"{url}{place}", "")).json()
        return begun


def test_a_terminal_is_confirmed_by_the_browser_that_signed_in_and_by_no_other(
    browser: Browser, url: str, stage: Stage, tmp_path: Path
) -> None:
    first = sign_in(browser, url, "alice")
    mine, theirs = terminal(url), terminal(url)
    browser.open(mine["verification_uri_complete"])
    browser.wait("document.querySelector('h1').textContent == 'Is this your terminal?'")
    assert cookie_of(browser) != first  # bound to the key, under a new secret
    assert ("login:bound", "ok") in stage.events()
    browser.run("document.querySelector('button[value=confirm]').click()")
    browser.wait("document.body.innerText.includes('Confirmed')")

    with chromium(tmp_path / "thief") as thief:
        thief.send("Network.setCookie", name="gw-session", value=cookie_of(browser), url=url, httpOnly=True)
        thief.open(theirs["verification_uri_complete"])
        thief.run("document.querySelector('button[value=confirm]').click()")
        thief.wait("document.body.innerText.includes('scripts allowed')")
        assert stage.events()[-1] == ("login:unproven", "denied")
        stage.clock.advance(PROVE_EVERY)
        thief.open(f"{url}/")
        thief.wait("document.body.innerText.includes('another device')")
    browser.open(f"{url}/")
    browser.wait("document.body.innerText.includes('signed in as alice')")


def test_a_person_whom_the_authenticator_does_not_know_proves_nothing(browser: Browser, url: str, stage: Stage) -> None:
    sign_in(browser, url, "alice")
    browser.open(f"{url}/passkeys")
    browser.wait("document.querySelector('button[data-kind=create]') !== null")
    browser.run("document.querySelector('button[data-kind=create]').click()")
    browser.wait("document.body.innerText.includes('passkey, added')")
    browser.send("WebAuthn.setUserVerified", authenticatorId=browser.authenticator, isUserVerified=False)
    token = stage.token(person(stage, "alice"))
    code = api(url, token, "POST", "/api/step-up")["code"]
    browser.open(f"{url}/step-up?code={code}")
    browser.run("document.querySelector('button[data-kind=get]').click()")
    browser.wait("document.getElementById('status').textContent.includes('No passkey has answered')")
    assert api(url, token, "GET", f"/api/step-up/{code}") == {"state": "pending"}
