import re
from dataclasses import replace
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient

from gateway.app.providers import Providers
from gateway.edges.http.app import create_app
from tests.unit.edges.device import DeviceClient
from tests.unit.edges.http.conftest import DOORS
from tests.unit.edges.stage import Stage
from tests.unit.edges.trusting_provider import TrustingProvider

GRANT = "urn:ietf:params:oauth:grant-type:device_code"


def state_of(location: str) -> str:
    return parse_qs(urlsplit(location).query)["state"][0]


def sign_in(client: TestClient, name: str, next_path: str = "/") -> str:
    """The location that the browser is sent to in the end."""
    sent = client.get("/login", params={"next": next_path})
    assert sent.status_code == 303
    back = client.get("/callback", params={"state": state_of(sent.headers["location"]), "code": name})
    assert back.status_code == 303, back.text
    return str(back.headers["location"])


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    return found[1]


def begin(client: TestClient) -> dict[str, str]:
    return client.post("/api/device/code", data={"client_id": "gw"}).json()


def poll(client: TestClient, stage: Stage, code: str) -> tuple[int, dict[str, str]]:
    stage.clock.advance(timedelta(seconds=7))
    answer = client.post("/api/device/token", data={"grant_type": GRANT, "device_code": code})
    return answer.status_code, answer.json()


def test_a_browser_that_is_signed_in_reaches_recordings(client: TestClient) -> None:
    for path in ("/sessions/ses_x/replay", "/api/sessions/ses_x/cast"):
        client.cookies.clear()
        assert client.get(path).status_code == 401
        sign_in(client, "auditor")
        client.get("/")
        assert client.get(path).status_code == 404


def test_a_person_signs_in_and_out(client: TestClient) -> None:
    assert "not signed in" in client.get("/").text
    assert sign_in(client, "oncall") == "/"
    page = client.get("/").text
    assert "signed in as oncall" in page
    kept = client.cookies.get("gw-session")
    out = client.post("/logout", data={"csrf": csrf_of(page)})
    assert out.status_code == 303
    client.cookies.set("gw-session", kept)
    assert "not signed in" in client.get("/").text  # the session is gone at the gateway, not just the cookie


def test_whoever_finishes_at_the_provider_is_signed_in_and_nobody_else(client: TestClient) -> None:
    sign_in(client, "alice")
    before = client.cookies.get("gw-session")
    sent = client.get("/login")
    client.get("/callback", params={"state": state_of(sent.headers["location"]), "code": "bob"})
    assert "signed in as bob" in client.get("/").text
    assert client.cookies.get("gw-session") != before
    client.cookies.clear()
    client.cookies.set("gw-session", before)
    assert "not signed in" in client.get("/").text


def test_a_state_is_used_once_and_by_its_own_browser(client: TestClient, stage: Stage) -> None:
    sent = client.get("/login")
    state = state_of(sent.headers["location"])
    app = create_app(stage.ctx, Providers([TrustingProvider()]), DOORS, public_url="http://testserver")
    with DeviceClient(app, follow_redirects=False) as other:  # login CSRF: a victim opens the attacker's callback
        assert other.get("/callback", params={"state": state, "code": "mallory"}).status_code == 401
        assert "gw-session" not in other.cookies
    cookie = client.cookies.get("gw-login")
    assert client.get("/callback", params={"state": state, "code": "oncall"}).status_code == 303
    client.cookies.set("gw-login", cookie)
    assert client.get("/callback", params={"state": state, "code": "oncall"}).status_code == 401


@pytest.mark.parametrize(
    "query", [{}, {"error": "access_denied"}, {"state": "x"}, {"code": "c"}, {"state": "ä", "code": "c"}]
)
def test_callbacks_that_make_no_sense(client: TestClient, query: dict[str, str]) -> None:
    answer = client.get("/callback", params=query)
    assert answer.status_code in (401, 403)
    assert "gw-session" not in client.cookies


@pytest.mark.parametrize("evil", ["//evil.example", "https://evil.example", "/\\evil.example", "/%09/evil.example"])
def test_after_login_one_stays_on_this_site(client: TestClient, evil: str) -> None:
    target = sign_in(client, "oncall", evil)
    assert target == "/" or target.startswith("/%09")
    assert not target.startswith(("//", "http"))


def test_after_login_one_goes_on_to_where_one_was(client: TestClient) -> None:
    code = begin(client)["user_code"]
    away = client.get("/device", params={"user_code": code})
    assert away.status_code == 303
    wanted = parse_qs(urlsplit(away.headers["location"]).query)["next"][0]
    assert sign_in(client, "oncall", wanted) == f"/device?user_code={code}"


def test_the_device_flow_end_to_end(client: TestClient, stage: Stage) -> None:
    start = begin(client)
    assert start["verification_uri"] == "http://testserver/device"
    assert start["user_code"] in start["verification_uri_complete"]
    assert start["expires_in"] <= 600
    assert poll(client, stage, start["device_code"]) == (400, {"error": "authorization_pending"})
    sign_in(client, "oncall")
    page = client.get("/device", params={"user_code": start["user_code"]}).text
    assert start["user_code"] in page
    assert "testclient" in page  # the address that the code was asked from
    assert "oncall" in page
    done = client.post("/device", data={"user_code": start["user_code"], "action": "confirm", "csrf": csrf_of(page)})
    assert "Confirmed" in done.text
    status, token = poll(client, stage, start["device_code"])
    assert (status, token["user"], token["token_type"]) == (200, "oncall", "DPoP")
    me = client.get("/api/whoami", headers={"authorization": f"Bearer {token['access_token']}"})
    assert me.json()["name"] == "oncall"
    assert poll(client, stage, start["device_code"]) == (400, {"error": "expired_token"})


def test_opening_the_link_confirms_nothing(client: TestClient, stage: Stage) -> None:
    start = begin(client)
    sign_in(client, "victim")
    client.get("/device", params={"user_code": start["user_code"]})
    client.get("/device", params={"user_code": start["user_code"], "action": "confirm"})
    assert poll(client, stage, start["device_code"])[1]["error"] == "authorization_pending"


def test_a_form_of_another_site_confirms_nothing(client: TestClient, stage: Stage) -> None:
    start = begin(client)
    sign_in(client, "victim")
    csrf = csrf_of(client.get("/device", params={"user_code": start["user_code"]}).text)
    form = {"user_code": start["user_code"], "action": "confirm"}
    for data, headers in (
        (form, {}), ({**form, "csrf": ""}, {}), ({**form, "csrf": "x" * 43}, {}), ({**form, "csrf": "ä"}, {}),
        ({**form, "csrf": csrf}, {"origin": "https://evil.example"}), ({**form, "csrf": csrf}, {"origin": "null"}),
    ):  # fmt: skip
        assert client.post("/device", data=data, headers=headers).status_code == 403
    json_as_text = client.post("/device", content=b"user_code=x", headers={"content-type": "text/plain"})
    assert json_as_text.status_code == 415
    assert poll(client, stage, start["device_code"])[1]["error"] == "authorization_pending"
    mine = client.post("/device", data={**form, "csrf": csrf}, headers={"origin": "http://testserver"})
    assert mine.status_code == 200


def test_a_csrf_token_belongs_to_one_session(client: TestClient) -> None:
    start = begin(client)
    sign_in(client, "mallory")
    csrf = csrf_of(client.get("/").text)
    sign_in(client, "victim")
    form = {"user_code": start["user_code"], "action": "confirm", "csrf": csrf}
    assert client.post("/device", data=form).status_code == 403


def test_nobody_confirms_without_a_session(client: TestClient) -> None:
    start = begin(client)
    form = {"user_code": start["user_code"], "action": "confirm", "csrf": "x"}
    assert client.post("/device", data=form).status_code == 401


def test_denying_is_final(client: TestClient, stage: Stage) -> None:
    start = begin(client)
    sign_in(client, "oncall")
    csrf = csrf_of(client.get("/device", params={"user_code": start["user_code"]}).text)
    client.post("/device", data={"user_code": start["user_code"], "action": "deny", "csrf": csrf})
    assert poll(client, stage, start["device_code"]) == (400, {"error": "access_denied"})


def test_other_grant_types_are_not_served(client: TestClient) -> None:
    start = begin(client)
    for grant in ("password", "authorization_code", ""):
        answer = client.post("/api/device/token", data={"grant_type": grant, "device_code": start["device_code"]})
        assert answer.status_code in (400, 422)


def test_pages_show_foreign_text_harmlessly(client: TestClient) -> None:
    sign_in(client, "oncall")
    page = client.get("/device", params={"user_code": "<script>alert(1)</script>"})
    assert page.status_code == 404
    assert "<script>" not in page.text


def test_without_a_provider_nobody_signs_in(stage: Stage) -> None:
    app = create_app(stage.ctx, Providers(), DOORS, public_url="http://testserver")
    with DeviceClient(app, follow_redirects=False) as client:
        assert client.get("/login").status_code == 503


def test_a_disabled_person_sees_it_in_words(client: TestClient, stage: Stage) -> None:
    sign_in(client, "oncall")
    lead = {"authorization": f"Bearer {stage.token(stage.user('lead'))}"}
    client.post("/api/users/oncall/disable", json={}, headers=lead)
    assert "not signed in" in client.get("/").text
    sent = client.get("/login")
    back = client.get("/callback", params={"state": state_of(sent.headers["location"]), "code": "oncall"})
    assert back.status_code == 401
    assert "disabled" in back.text


def test_the_page_warns_of_a_terminal_elsewhere_and_asks_for_a_word(client: TestClient, stage: Stage) -> None:
    start = begin(client)
    with stage.ctx.store.begin() as uow:
        device = uow.credentials.find_by_data("device", "user_code", start["user_code"])
        assert device is not None
        uow.credentials.save(replace(device, data={**(device.data or {}), "client": "203.0.113.9"}))
    sign_in(client, "victim")
    page = client.get("/device", params={"user_code": start["user_code"]}).text
    assert "somewhere else" in page
    assert "203.0.113.9" in page
    form = {"user_code": start["user_code"], "action": "confirm", "csrf": csrf_of(page)}
    no = client.post("/device", data=form)
    assert no.status_code == 403
    assert "another address" in no.text
    assert poll(client, stage, start["device_code"])[1]["error"] == "authorization_pending"
    assert client.post("/device", data={**form, "elsewhere": "known"}).status_code == 200
    assert poll(client, stage, start["device_code"])[0] == 200
