from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from fastapi.testclient import TestClient

from gateway.adapters.store import SqlStore
from gateway.app.browser_session import PROVE_EVERY
from gateway.app.providers import Providers
from gateway.edges.http.app import create_app
from tests.unit.edges.device import DeviceClient
from tests.unit.edges.http.conftest import DOORS
from tests.unit.edges.http.test_login import GRANT, csrf_of, sign_in
from tests.unit.edges.stage import Stage
from tests.unit.edges.trusting_provider import TrustingProvider


def cli(client: TestClient, stage: Stage) -> dict[str, str]:
    """The headers of a terminal that a signed-in browser confirmed."""
    head = {"user-agent": "gw/1 \x1b[31m"}
    start = client.post("/api/device/code", data={"client_id": "gw"}, headers=head).json()
    page = client.get("/device", params={"user_code": start["user_code"]}).text
    answer = {"user_code": start["user_code"], "action": "confirm", "csrf": csrf_of(page)}
    assert client.post("/device", data=answer).status_code == 200
    stage.clock.advance(timedelta(seconds=7))
    token = client.post("/api/device/token", data={"grant_type": GRANT, "device_code": start["device_code"]}).json()
    return {"authorization": f"Bearer {token['access_token']}"}


def test_sign_ins_are_listed_and_ended_one_by_one(client: TestClient, stage: Stage) -> None:
    sign_in(client, "oncall")
    mine = cli(client, stage)
    listed = client.get("/api/logins", headers=mine).json()
    assert [(each["kind"], each["current"]) for each in listed] == [("cli", True), ("web", False)]
    assert listed[0]["agent"] == "gw/1 [31m"  # nothing that draws on a terminal
    web = listed[1]["id"]
    assert client.post(f"/api/logins/{web}/revoke", headers=mine).status_code == 204
    assert "not signed in" in client.get("/").text
    assert client.post(f"/api/logins/{web}/revoke", headers=mine).status_code == 404


def test_the_page_lists_them_and_ends_one_with_a_form_of_its_own(client: TestClient, stage: Stage) -> None:
    sign_in(client, "oncall")
    mine = cli(client, stage)
    page = client.get("/").text
    assert "terminal gw/1" in page
    login = client.get("/api/logins", headers=mine).json()[0]["id"]
    assert client.post("/logins/revoke", data={"id": login}).status_code == 403
    foreign = client.post(
        "/logins/revoke", data={"id": login, "csrf": csrf_of(page)}, headers={"origin": "https://evil.example"}
    )
    assert foreign.status_code == 403
    assert client.post("/logins/revoke", data={"id": login, "csrf": csrf_of(page)}).status_code == 303
    assert client.get("/api/whoami", headers=mine).status_code == 401


def test_a_browser_gets_a_new_cookie_in_time(client: DeviceClient, stage: Stage) -> None:
    sign_in(client, "oncall")
    before = client.cookies.get("gw-session")
    stage.clock.advance(PROVE_EVERY)
    unproven = TestClient.get(client, "/")
    assert "One moment" in unproven.text
    page = client.get("/")
    assert client.cookies.get("gw-session") != before
    sent = client.proven.headers["set-cookie"].lower()
    assert "httponly" in sent
    assert "samesite=lax" in sent
    assert client.post("/logout", data={"csrf": csrf_of(page.text)}).status_code == 303  # the form is the new secret's


def test_a_token_is_renewed_by_its_holder_only(client: TestClient, stage: Stage) -> None:
    sign_in(client, "oncall")
    mine = cli(client, stage)
    renewed = client.post("/api/token/rotate", headers=mine).json()
    assert client.get("/api/whoami", headers={"authorization": f"Bearer {renewed['access_token']}"}).status_code == 200
    stage.clock.advance(timedelta(minutes=2))
    told = client.get("/api/whoami", headers=mine)
    assert told.json()["code"] == "sign-in-copied"
    assert client.get("/api/whoami", headers={"authorization": f"Bearer {renewed['access_token']}"}).status_code == 401


def test_limits_survive_a_restart_and_no_header_resets_them(client: TestClient, stage: Stage, tmp_path: Path) -> None:
    statuses = {client.post("/api/device/code", data={"client_id": "gw"}).status_code for _ in range(120)}
    assert statuses == {200}
    assert client.post("/api/device/code", data={"client_id": "gw"}).status_code == 429
    store = SqlStore(f"sqlite:///{stage.database}")  # another process, after a restart
    ctx = replace(stage.ctx, store=store)
    app = create_app(ctx, Providers([TrustingProvider()]), DOORS, public_url="http://testserver")
    with DeviceClient(app) as restarted:
        for name in ("x-forwarded-for", "x-real-ip", "forwarded", "X_Forwarded_For"):
            spoofed = {name: "for=10.9.9.9" if name == "forwarded" else "10.9.9.9"}
            assert restarted.post("/api/device/code", data={}, headers=spoofed).status_code == 429
    store.close()


def test_nobody_is_somebody_by_a_header(client: TestClient, stage: Stage) -> None:
    stage.user("lead", "leads")
    for name in ("X-Forwarded-User", "X_Forwarded_User", "Remote-User", "X-Remote-User", "X-Forwarded-Email"):
        assert client.get("/api/whoami", headers={name: "lead"}).status_code == 401
        assert "not signed in" in client.get("/", headers={name: "lead"}).text
