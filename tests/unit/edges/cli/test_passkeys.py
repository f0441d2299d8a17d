import json
from datetime import timedelta
from threading import Thread

import httpx2
import pytest

from gateway.adapters.webauthn import WebAuthnRelyingParty
from gateway.app.passkey_ports import Passkey
from gateway.core.obligation import Obligations, StepUp
from gateway.core.principal import User
from gateway.demo.passkey import SoftPasskey
from gateway.edges.cli import passkeys
from tests.unit.edges.cli.conftest import Gw

ASK = ("break-glass", "orders-db", "--level", "admin", "--reason", "melting")


def key_of(gw: Gw, user: User) -> SoftPasskey:
    """A passkey of somebody, as if it had been added in a browser."""
    origin = gw.url.replace("127.0.0.1", "localhost")
    party, key = WebAuthnRelyingParty(origin), SoftPasskey(origin)
    made = party.verify_creation(key.create(party.creation_options(user, "c" * 43, ())), "c" * 43)
    with gw.stage.ctx.store.begin() as uow:
        at = gw.stage.clock.now()
        uow.passkeys.add(Passkey(made.id, user.id, "blue key", made.public_key, 0, (), at))
    return key


@pytest.fixture
def oncall(gw: Gw) -> tuple[Gw, SoftPasskey]:
    mine = gw.as_("oncall")
    with gw.stage.ctx.store.read() as uow:
        user = uow.users.by_name("oncall")
    assert user is not None
    return mine, key_of(gw, user)


@pytest.fixture
def touching(oncall: tuple[Gw, SoftPasskey], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A person at a browser, who answers (or denies) for every code that a terminal shows."""
    actions, (gw, key) = ["answer"], oncall
    shown = passkeys.say

    def touch(code: str) -> None:
        with httpx2.Client(base_url=gw.url, trust_env=False) as browser:
            if actions[0] == "deny":
                assert browser.post("/step-up", data={"code": code}).status_code == 200
                return
            options = browser.post("/api/step-up/begin", json={"code": code}).json()
            body = {"code": code, "credential": key.get(options)}
            assert browser.post("/api/step-up/finish", json=body).status_code == 204

    def say(text: str = "", *, err: bool = False) -> None:
        shown(text, err=err)
        if text.startswith("\n"):
            Thread(target=touch, args=(text.split(maxsplit=1)[0],)).start()

    monkeypatch.setattr(passkeys, "say", say)
    return actions


def test_a_no_says_what_to_run_and_has_an_exit_code_of_its_own(oncall: tuple[Gw, SoftPasskey]) -> None:
    gw, _ = oncall
    gw.stage.policy.obligations = Obligations(step_up=StepUp.WEBAUTHN, max_auth_age=timedelta(minutes=10))
    told = gw(*ASK)
    assert told.exit_code == 6
    assert "gw step-up" in told.stderr
    as_json = gw(*ASK, "--json")
    assert (as_json.exit_code, json.loads(as_json.stdout)["code"]) == (6, "step-up-required")
    assert "gw step-up" in gw("targets").output


def test_step_up_waits_and_then_the_request_works(oncall: tuple[Gw, SoftPasskey], touching: list[str]) -> None:
    gw, _ = oncall
    gw.stage.policy.obligations = Obligations(step_up=StepUp.WEBAUTHN, max_auth_age=timedelta(minutes=10))
    told = gw("step-up", "--no-browser")
    assert told.exit_code == 0, told.output
    assert "/step-up?code=" in told.stderr
    assert "Proved" in told.stdout
    granted = gw(*ASK)
    assert granted.exit_code == 0, granted.output
    assert "proved by passkey" in granted.output


def test_scripts_get_one_value(oncall: tuple[Gw, SoftPasskey], touching: list[str]) -> None:
    gw, _ = oncall
    assert json.loads(gw("step-up", "--no-browser", "--json").stdout) == {"state": "proved"}


def test_denied_in_the_browser(oncall: tuple[Gw, SoftPasskey], touching: list[str]) -> None:
    gw, _ = oncall
    touching[0] = "deny"
    told = gw("step-up", "--no-browser")
    assert told.exit_code == 3
    assert "denied in the browser" in told.stderr


def test_nobody_without_a_passkey_waits(gw: Gw) -> None:
    told = gw.as_("lead")("step-up", "--no-browser")
    assert told.exit_code == 3
    assert "gw passkeys" in told.stderr


def test_listing_and_removing(oncall: tuple[Gw, SoftPasskey], touching: list[str]) -> None:
    gw, _ = oncall
    listed = gw("passkeys")
    assert "blue key" in listed.output
    assert "/passkeys" in listed.output
    assert gw("passkeys", "remove", "blue key").exit_code == 6
    assert gw("step-up", "--no-browser").exit_code == 0
    assert gw("passkeys", "remove", "blue key").output == "Removed blue key.\n"
    assert gw("passkeys", "remove", "blue key").exit_code == 4
    assert gw.json("passkeys")["passkeys"] == []


def test_an_emergency_sign_in_says_what_it_is(gw: Gw) -> None:
    user = gw.stage.user("oncall")
    gw = gw.as_("oncall")
    gw.token = gw.stage.token(user, "emergency", "gwe_")
    assert "good for gw break-glass only" in gw("whoami").output
    told = gw("request", "orders-db", "--level", "read", "--reason", "x")
    assert told.exit_code == 3
    assert "gw break-glass" in told.stderr
