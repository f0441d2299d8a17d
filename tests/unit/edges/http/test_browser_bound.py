"""A browser's cookie is worth a look for five minutes, and nothing else, without the key of the browser that signed in."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from gateway.app.browser_session import BIND_WITHIN, COOKIE_COMES, PROVE_EVERY
from gateway.app.providers import Providers
from gateway.demo.browser import PROVE
from gateway.edges.cli.device import DeviceKey
from gateway.edges.http.app import create_app
from gateway.edges.web.views import csrf_token
from tests.unit.edges.device import BROWSER, DEVICE, DeviceClient
from tests.unit.edges.http.conftest import DOORS
from tests.unit.edges.http.test_login import csrf_of, sign_in
from tests.unit.edges.stage import Stage
from tests.unit.edges.trusting_provider import TrustingProvider

COOKIE = "gw-session"
SITE = "http://testserver"


def app_of(stage: Stage) -> Any:
    return create_app(stage.ctx, Providers([TrustingProvider()]), DOORS, public_url=SITE)


@pytest.fixture
def thief(stage: Stage) -> Iterator[DeviceClient]:
    with DeviceClient(app_of(stage), browser=DeviceKey.new(), follow_redirects=False) as made:
        yield made


@dataclass
class Robbed:
    """A signed-in browser whose cookie the thief has copied."""

    owner: DeviceClient
    csrf: str
    cookie: str


@pytest.fixture
def robbed(client: DeviceClient, thief: DeviceClient) -> Robbed:
    sign_in(client, "oncall")
    csrf = csrf_of(client.get("/").text)
    cookie = client.cookies.get(COOKIE)
    assert cookie is not None
    thief.cookies.set(COOKIE, cookie)
    return Robbed(client, csrf, cookie)


FORMS = [
    ("/device", {"user_code": "BCDF-GHJK", "action": "confirm"}),
    ("/logins/revoke", {"id": "lgn_1"}),
    ("/passkeys/remove", {"passkey": "x"}),
    ("/logout", {}),
]


@pytest.mark.parametrize(("path", "form"), FORMS)
@pytest.mark.parametrize("proof", ["another key", "none", "garbage"])
def test_a_copied_cookie_sends_no_form(
    robbed: Robbed, thief: DeviceClient, stage: Stage, path: str, form: dict[str, str], proof: str
) -> None:
    told = {"another key": {}, "none": {"proof": ""}, "garbage": {"proof": "a.b.c"}}[proof]
    no = thief.post(path, data={**form, "csrf": robbed.csrf, **told})
    assert no.status_code == 401
    assert "scripts allowed" in no.text
    assert stage.events()[-1] == ("login:unproven", "denied")
    assert robbed.owner.post(path, data={**form, "csrf": robbed.csrf}).status_code in (303, 403, 404)


@pytest.mark.parametrize("path", ["/api/passkeys/begin", "/api/passkeys/unlock/begin", PROVE])
def test_nor_what_our_scripts_send(robbed: Robbed, thief: DeviceClient, path: str) -> None:
    assert thief.post(path, json={"csrf": robbed.csrf}).status_code == 401


def test_it_opens_pages_until_the_owner_or_time_renews_it(robbed: Robbed, thief: DeviceClient, stage: Stage) -> None:
    assert "signed in as oncall" in thief.get("/").text  # what docs/identity.md says a copy is worth
    stage.clock.advance(PROVE_EVERY)
    assert thief.get("/").json()["code"] == "proof-of-another-device"
    assert thief.get("/api/sessions/ses_x/cast").json()["code"] == "browser-unproven"
    assert "signed in as oncall" in robbed.owner.get("/").text
    assert robbed.owner.cookies.get(COOKIE) != robbed.cookie
    assert thief.get("/").json()["code"] == "proof-of-another-device"
    assert ("login:reused", "denied") not in stage.events()  # what nobody can use need not end for both


def test_a_page_that_was_replaced_opens_no_more(robbed: Robbed, thief: DeviceClient, stage: Stage) -> None:
    stage.clock.advance(PROVE_EVERY)
    robbed.owner.get("/")
    assert "One moment" in TestClient.get(thief, "/").text  # at once


def test_of_two_tabs_one_gets_the_cookie_and_the_other_is_told_to_load_again(robbed: Robbed, stage: Stage) -> None:
    """What browser.js takes for "another tab was faster"; the code is part of what it reads."""
    stage.clock.advance(PROVE_EVERY)
    first = robbed.owner.post(PROVE, json={"csrf": robbed.csrf})
    second = robbed.owner.post(PROVE, json={"csrf": robbed.csrf})  # with the new cookie and the old page's token
    assert (first.status_code, second.status_code, second.json()["code"]) == (204, 403, "csrf")
    assert "signed in as oncall" in robbed.owner.get("/").text


def test_nobody_else_binds_a_sign_in_that_is_bound(client: DeviceClient, thief: DeviceClient, stage: Stage) -> None:
    sign_in(client, "oncall")
    fresh = client.cookies.get(COOKIE)
    assert fresh is not None
    client.get("/")
    thief.cookies.set(COOKIE, fresh)  # from before it was bound
    for _ in range(2):
        assert thief.post(PROVE, json={"csrf": csrf_token(fresh)}).json()["code"] == "proof-of-another-device"
        stage.clock.advance(COOKIE_COMES / 3)
    assert "signed in as oncall" in client.get("/").text
    assert stage.events().count(("login:bound", "ok")) == 1


def test_a_lost_answer_binds_it_to_the_same_key_only(client: DeviceClient, thief: DeviceClient, stage: Stage) -> None:
    sign_in(client, "oncall")
    fresh = client.cookies.get(COOKIE)
    assert fresh is not None
    assert client.post(PROVE, json={"csrf": csrf_token(fresh)}).status_code == 204
    client.cookies.set(COOKIE, fresh, domain="testserver.local")  # the answer never came
    thief.cookies.set(COOKIE, fresh)
    stage.clock.advance(COOKIE_COMES)
    assert thief.post(PROVE, json={"csrf": csrf_token(fresh)}).json()["code"] == "proof-of-another-device"
    assert client.post(PROVE, json={"csrf": csrf_token(fresh)}).status_code == 204
    assert client.cookies[COOKIE] != fresh
    assert "signed in as oncall" in client.get("/").text


def test_it_is_bound_soon_or_never(client: DeviceClient, stage: Stage) -> None:
    sign_in(client, "oncall")
    stage.clock.advance(BIND_WITHIN)
    assert "not signed in" in client.get("/").text
    assert client.get("/device", params={"user_code": "BCDF-GHJK"}).headers["location"].startswith("/login?next=")
    no = client.post(PROVE, json={"csrf": csrf_token(client.cookies[COOKIE])})
    assert (no.status_code, no.json()["code"]) == (401, "browser-unbound")
    assert stage.events()[-1] == ("login:unproven", "denied")
    assert ("login:bound", "ok") not in stage.events()


def test_without_a_proof_nothing_is_bound(client: DeviceClient, stage: Stage) -> None:
    sign_in(client, "oncall")
    csrf = csrf_token(client.cookies[COOKIE])
    assert TestClient.post(client, PROVE, json={"csrf": csrf}).json()["code"] == "proof-missing"
    assert ("login:bound", "ok") not in stage.events()


def test_a_proof_is_for_one_page_one_session_and_one_time(robbed: Robbed, stage: Stage) -> None:
    owner, path, form = robbed.owner, *FORMS[1]
    now = stage.clock.now().timestamp()
    good = owner.page_proof("POST", f"{SITE}{path}", robbed.csrf)
    wrong = [
        owner.page_proof("POST", f"{SITE}/device", robbed.csrf),
        owner.page_proof("GET", f"{SITE}{path}", robbed.csrf),
        owner.page_proof("POST", f"{SITE}{path}", "another session's token"),
        BROWSER.proof("POST", f"https://evil.example{path}", robbed.csrf, now),
        BROWSER.proof("POST", f"{SITE}{path}", robbed.csrf, now - 61),
    ]
    for proof in wrong:
        assert owner.post(path, data={**form, "csrf": robbed.csrf, "proof": proof}).status_code == 401
    assert owner.post(path, data={**form, "csrf": robbed.csrf, "proof": good}).status_code == 404  # no such sign-in
    assert owner.post(path, data={**form, "csrf": robbed.csrf, "proof": good}).status_code == 401


def test_a_proof_of_a_change_counts_once_for_all_workers_and_after_a_restart(robbed: Robbed, stage: Stage) -> None:
    path, form = FORMS[1]
    sent = {**form, "csrf": robbed.csrf, "proof": robbed.owner.page_proof("POST", f"{SITE}{path}", robbed.csrf)}
    with DeviceClient(app_of(stage), follow_redirects=False) as worker:
        worker.cookies.set(COOKIE, robbed.cookie)
        assert worker.post(path, data=sent).status_code == 404
    assert robbed.owner.post(path, data=sent).status_code == 401
    stage.clock.advance(timedelta(seconds=1))
    assert stage.events()[-1] == ("login:unproven", "denied")


def test_so_does_one_of_a_terminal(client: DeviceClient, stage: Stage) -> None:
    token = stage.token(stage.user("oncall"))
    for method, path, taken in (("POST", "/api/token/rotate", 200), ("GET", "/api/whoami", 200)):
        proof = DEVICE.proof(method, f"{SITE}{path}", token, stage.clock.now().timestamp())
        sent = {"authorization": f"DPoP {token}", "dpop": proof}
        assert client.request(method, path, headers=sent).status_code == taken
        with DeviceClient(app_of(stage)) as worker:
            assert worker.request(method, path, headers=sent).status_code == (401 if method == "POST" else 200)
