"""Signing in against a real identity provider that others wrote, as a browser and as the command line."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
import uvicorn

from gateway.adapters.oidc import OidcProvider
from gateway.adapters.system import SystemClock
from gateway.app.providers import Providers
from gateway.demo.browser import Browser, confirm_as, open_as
from gateway.edges.http.app import DoorFacts, create_app
from tests.unit.edges.stage import Stage, make_stage

DOORS = DoorFacts("127.0.0.1", 0, "", "127.0.0.1", 0, "", "vkey")
PEOPLE = {"oncall": ["engineers"], "lead": ["leads"]}


class Server(uvicorn.Server):
    def install_signal_handlers(self) -> None: ...


def await_(what: Callable[[], bool], within_s: float = 30) -> None:
    end = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    claims = [
        f"--user-claims={json.dumps({'sub': name, 'preferred_username': name, 'groups': groups})}"
        for name, groups in PEOPLE.items()
    ]
    argv = [sys.executable, "-m", "oidc_provider_mock", f"--port={port}", "--require-nonce=true", *claims]
    with (tmp_path_factory.mktemp("idp") / "log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            await_(lambda: is_listening(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


@dataclass
class House:
    url: str
    issuer: str
    stage: Stage


@pytest.fixture
def house(issuer: str, tmp_path: Path) -> Iterator[House]:
    stage = make_stage(tmp_path)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    provider = OidcProvider(
        issuer=issuer, client_id="gw", client_secret="secret", redirect_uri=f"{url}/callback", clock=SystemClock()
    )
    app = create_app(stage.ctx, Providers([provider]), DOORS, public_url=url)
    server = Server(uvicorn.Config(app, log_level="critical", lifespan="off", proxy_headers=False))
    thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield House(url, issuer, stage)
    server.should_exit = True
    thread.join(10)
    provider.close()
    stage.store.close()


def test_a_browser_signs_in_by_code_and_pkce(house: House) -> None:
    with Browser() as browser:
        page = open_as(browser, f"{house.url}/login", "lead", house.issuer)
        assert page.status_code == 200
        assert "signed in as lead" in page.text
        assert "leads" in page.text


def test_start_as_one_finish_as_another_gives_the_other(house: House) -> None:
    with Browser() as browser:
        open_as(browser, f"{house.url}/login", "oncall", house.issuer)
        page = open_as(browser, f"{house.url}/login", "lead", house.issuer)
        assert "signed in as lead" in page.text


def test_a_person_whom_the_provider_gives_no_name_stays_out(house: House) -> None:
    with Browser() as browser:
        page = open_as(browser, f"{house.url}/login", "mallory@corp.test", house.issuer)
        assert page.status_code == 401
        assert "preferred_username" in page.text


def test_saying_no_at_the_provider_is_a_no(house: House) -> None:
    with Browser() as browser:
        form = browser.get(browser.get(f"{house.url}/login").headers["location"])
        back = browser.post(str(form.url), data={"action": "deny"})
        page = browser.get(back.headers["location"])
        assert page.status_code == 403
        assert "not let you in" in page.text


def test_a_code_is_redeemed_once(house: House) -> None:
    with Browser() as browser:
        form = browser.get(browser.get(f"{house.url}/login").headers["location"])
        callback = browser.post(str(form.url), data={"sub": "oncall"}).headers["location"]
        cookie = browser.cookies.get("gw-login")
        assert browser.get(callback).status_code == 303
        with Browser(cookies={"gw-login": cookie or ""}) as thief:
            assert thief.get(callback).status_code == 401


def test_the_command_line_signs_in_through_a_browser(house: House, tmp_path: Path) -> None:
    env = {**os.environ, "GW_HOME": str(tmp_path / "home"), "GW_KEYRING": "off", "GW_URL": house.url}
    env.pop("GW_TOKEN", None)
    gw = [sys.executable, "-m", "gateway"]
    login = subprocess.Popen(
        [*gw, "login", "--no-browser"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert login.stderr is not None
        said = ""
        while not (code := re.search(r"^\s+([A-Z]{4}-[A-Z]{4})$", said, re.MULTILINE)):
            said += login.stderr.readline()
        confirm_as(house.url, code[1], "oncall", house.issuer)
        out, err = login.communicate(timeout=60)
    finally:
        login.kill()
    assert login.returncode == 0, err
    assert "Signed in as oncall" in out
    me = subprocess.run([*gw, "whoami"], env=env, capture_output=True, text=True, timeout=60)
    assert me.stdout == "oncall (groups: engineers)\n"


def test_confirming_a_code_that_nobody_asked_for(house: House) -> None:
    with pytest.raises(RuntimeError):
        confirm_as(house.url, "BBBB-BBBB", "oncall", house.issuer)
