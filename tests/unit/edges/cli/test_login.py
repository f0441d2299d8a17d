import json
import stat
from threading import Thread

import pytest

from gateway.demo.browser import Browser
from gateway.edges.cli import client, login
from tests.unit.edges.cli.conftest import Gw
from tests.unit.edges.http.test_login import csrf_of, state_of


def confirm(url: str, user_code: str, name: str, action: str = "confirm") -> None:
    with Browser(base_url=url) as browser:
        state = state_of(browser.get("/login").headers["location"])
        browser.get("/callback", params={"state": state, "code": name})
        page = browser.get("/device", params={"user_code": user_code})
        form = {"user_code": user_code, "action": action, "csrf": csrf_of(page.text)}
        assert browser.post("/device", data=form).status_code == 200


@pytest.fixture
def confirming(gw: Gw, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A person at a browser, who confirms (or denies) every code that a terminal shows."""
    actions = ["confirm"]
    shown = login.output.say

    def say(text: str = "", *, err: bool = False) -> None:
        shown(text, err=err)
        if text.startswith("\n"):
            Thread(target=confirm, args=(gw.url, text.strip(), "oncall", actions[0])).start()

    monkeypatch.setattr(login.output, "say", say)
    return actions


def test_signing_in_keeps_the_token_private(gw: Gw, confirming: list[str]) -> None:
    told = gw("login", "--no-browser")
    assert told.exit_code == 0, told.output
    assert "Signed in as oncall until " in told.output
    assert "/device" in told.stderr
    file = gw.home / "credentials.json"
    token = json.loads(file.read_text())["token"]
    assert token.startswith("gwc_")
    assert token not in told.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(gw.home.stat().st_mode) == 0o700
    assert gw("whoami").output == "oncall (groups: none)\n"


def test_signing_out_ends_it_at_the_gateway_too(gw: Gw, confirming: list[str]) -> None:
    gw("login", "--no-browser")
    token = json.loads((gw.home / "credentials.json").read_text())["token"]
    assert gw("logout").exit_code == 0
    assert "token" not in json.loads((gw.home / "credentials.json").read_text())
    assert gw("whoami").exit_code == 3
    assert gw("whoami", GW_TOKEN=token).exit_code == 3
    assert gw("logout").exit_code == 0


def test_the_key_of_the_device_is_private_and_outlives_a_sign_in(gw: Gw, confirming: list[str]) -> None:
    """Else a `GW_TOKEN` that is bound to it would be worth nothing after somebody signs in beside it."""
    gw("login", "--no-browser")
    file = gw.home / "device.key"
    kept, state = file.read_text(), json.loads((gw.home / "credentials.json").read_text())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert kept not in json.dumps(state)
    gw("logout")
    gw("login", "--no-browser")
    assert file.read_text() == kept
    assert gw("whoami").exit_code == 0


def test_a_copied_token_is_of_no_use_on_another_machine(gw: Gw, confirming: list[str]) -> None:
    gw("login", "--no-browser")
    token = json.loads((gw.home / "credentials.json").read_text())["token"]
    there = gw("whoami", GW_TOKEN=token, GW_HOME=str(gw.home.parent / "elsewhere"))
    assert there.exit_code == 3
    assert "Run gw login on this machine" in there.stderr
    assert gw("whoami", GW_TOKEN=token).exit_code == 0


def test_a_key_that_cannot_be_read(gw: Gw, confirming: list[str]) -> None:
    gw("login", "--no-browser")
    (gw.home / "device.key").write_text("!")
    told = gw("whoami")
    assert "The key of this device cannot be read." in told.stderr


def test_a_denied_terminal(gw: Gw, confirming: list[str]) -> None:
    confirming[0] = "deny"
    told = gw("login", "--no-browser")
    assert told.exit_code == 3
    assert "denied in the browser" in told.stderr


def test_scripts_get_one_value(gw: Gw, confirming: list[str]) -> None:
    told = gw("login", "--no-browser", "--json")
    assert set(json.loads(told.stdout)) == {"user", "expires_at", "url", "only"}


def test_a_browser_is_opened_at_web_addresses_only(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(login.webbrowser, "open", opened.append)
    for page in ("https://gw.example/device", "file:///etc/passwd", "javascript:x", "--help"):
        login.open_browser(page)
    assert opened == ["https://gw.example/device"]


def test_nobody_is_signed_in(gw: Gw) -> None:
    told = gw("whoami")
    assert told.exit_code == 3
    assert told.stderr.splitlines() == ["gw: You are not signed in.", "  next: Run gw login"]


def test_a_token_is_not_sent_to_another_address(gw: Gw, confirming: list[str]) -> None:
    gw("login", "--no-browser")
    told = gw("whoami", GW_URL="http://127.0.0.1:9")
    assert told.exit_code == 3


def test_an_unreachable_gateway_is_a_sentence(gw: Gw) -> None:
    told = gw("whoami", GW_URL="http://127.0.0.1:9", GW_TOKEN="gwc_x")
    assert told.exit_code == 1
    assert "cannot be reached" in told.stderr
    as_json = gw("whoami", "--json", GW_URL="http://127.0.0.1:9", GW_TOKEN="gwc_x")
    assert json.loads(as_json.stdout)["code"] == "unreachable"


@pytest.mark.parametrize(
    "url",
    ["http://gw.example", "ftp://x", "gw.example", "https://u:p@gw.example", "http://", "https://x?y=1", "http://["],
)
def test_addresses_that_will_not_do(gw: Gw, url: str) -> None:
    told = gw("whoami", GW_URL=url, GW_TOKEN="gwc_secret")
    assert told.exit_code == 2, told.output
    assert "gwc_secret" not in told.output


def test_a_broken_state_file_is_a_sentence(gw: Gw) -> None:
    gw.home.mkdir()
    (gw.home / "credentials.json").write_text("{")
    told = gw("whoami")
    assert told.exit_code == 1
    assert "Remove it" in told.stderr


def test_a_home_that_cannot_be_made(gw: Gw) -> None:
    told = gw("whoami", GW_HOME="/proc/nowhere/gw")
    assert told.exit_code == 1
    assert "GW_HOME" in told.stderr


def test_a_server_that_is_something_else(gw: Gw, serve: object) -> None:
    told = gw("login", "--no-browser", "--url", gw.url + "/static")
    assert told.exit_code in (1, 4)


def test_shutting_out_and_letting_in(gw: Gw) -> None:
    lead, oncall = gw.as_("lead"), gw.as_("oncall")
    assert "is disabled" in lead("users", "disable", "oncall", "--reason", "left").output
    assert oncall("whoami").exit_code == 3
    assert lead("users", "disable", "oncall").exit_code == 5
    assert "may sign in again" in lead("users", "enable", "oncall").output
    assert lead("users", "enable", "nobody").exit_code == 4


def test_a_token_file_that_was_replaced_keeps_its_mode(tmp_path: object, gw: Gw) -> None:
    path = gw.home / "x"
    client.write_private(path, b"one")
    path.chmod(0o644)
    client.write_private(path, b"two")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in gw.home.iterdir()] == ["x"]
