"""The identity provider is down: whoever has a passkey comes in to break the glass, and for nothing else."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from gateway.core.decision import Action
from gateway.core.obligation import Obligations, StepUp
from gateway.core.request import RequestKind
from gateway.demo.passkey import PRESENT, SoftPasskey
from tests.unit.edges.http.passkey_steps import ASK, alice, headers, start
from tests.unit.edges.http.test_login import poll
from tests.unit.edges.stage import Stage
from tests.unit.edges.trusting_provider import TrustingProvider

# Every route that such a sign-in may use; a new route is refused to it until it is written here on purpose.
OPEN = {
    ("POST", "/api/break-glass"),
    ("POST", "/api/deploy"),  # with override
    ("POST", "/api/targets/{target}/ticket"),
    ("GET", "/api/whoami"),
    ("POST", "/api/logout"),
}
# These ask nobody who they are.
PUBLIC = {
    "/api/device/code", "/api/device/token", "/api/door", "/api/log/key", "/api/ssh/target-ca", "/api/ssh/krl",
    "/api/step-up/begin", "/api/step-up/finish", "/api/emergency/begin", "/api/emergency/finish",
    "/api/backchannel-logout/{provider}", "/healthz", "/oauth/jwks", "/.well-known/oauth-authorization-server",
    "/oauth/token",
}  # fmt: skip
# These take a browser's cookie and no token at all.
BY_COOKIE = {
    "/api/passkeys/begin", "/api/passkeys/finish", "/api/passkeys/unlock/begin", "/api/passkeys/unlock/finish",
    "/api/browser/prove",
}  # fmt: skip


def come_in(client: TestClient, stage: Stage, key: SoftPasskey, **more: object) -> tuple[Any, str]:
    """(answer, device code): the terminal asks, the browser with the passkey answers."""
    begun = client.post("/api/device/code").json()
    assert "/emergency?" in begun["passkey_uri_complete"]
    code = begun["user_code"]
    options = client.post("/api/emergency/begin", json={"code": code})
    if options.status_code != 200:
        return options, begun["device_code"]
    answer = {"code": code, "credential": key.get(options.json()), **more}
    return client.post("/api/emergency/finish", json=answer), begun["device_code"]


@pytest.fixture
def token(client: TestClient, stage: Stage, provider: TrustingProvider, key: SoftPasskey) -> str:
    provider.is_down = True
    client.cookies.clear()
    done, device = come_in(client, stage, key)
    assert done.status_code == 204, done.text
    status, told = poll(client, stage, device)
    assert status == 200
    assert told["only"] == "break-glass"
    return str(told["access_token"])


def test_whoever_is_signed_in_goes_on(
    client: TestClient, stage: Stage, provider: TrustingProvider, key: SoftPasskey
) -> None:
    mine = stage.token(alice(stage))
    granted = client.post("/api/requests", json=ASK, headers=headers(mine)).json()["grant"]["id"]
    provider.is_down = True
    assert client.get("/api/whoami", headers=headers(mine)).json()["only"] == ""
    assert client.get(f"/api/grants/{granted}", headers=headers(mine)).json()["state"] == "active"
    assert client.post("/api/targets/orders-db/ticket", json={}, headers=headers(mine)).status_code == 201
    assert client.post("/api/requests", json=ASK, headers=headers(mine)).status_code == 201
    assert client.get("/passkeys").status_code == 200


def test_coming_in_breaks_the_glass_and_is_loud(client: TestClient, stage: Stage, token: str) -> None:
    stage.policy.obligations = Obligations(step_up=StepUp.WEBAUTHN, max_auth_age=timedelta(minutes=10))
    me = client.get("/api/whoami", headers=headers(token)).json()
    assert (me["name"], me["only"]) == ("alice", "break-glass")
    granted = client.post("/api/break-glass", json={**ASK, "duration": "8h"}, headers=headers(token))
    assert granted.status_code == 201, granted.text
    grant = granted.json()["grant"]
    assert grant["review"]  # whatever policy says
    with stage.ctx.store.read() as uow:
        kept = uow.grants.get(grant["id"])
        assert uow.reviews.by_grant(grant["id"]) is not None
    assert kept is not None
    assert kept.window.not_after - kept.window.not_before == timedelta(hours=1)
    assert kept.kind is RequestKind.BREAK_GLASS
    assert kept.obligations.record.value == "require"
    ticket = client.post("/api/targets/orders-db/ticket", json={}, headers=headers(token))
    assert (ticket.status_code, ticket.json()["grant"]) == (201, grant["id"])
    told = [title for _, title in stage.ctx.notifier.notes]
    assert any("came in by passkey" in title for title in told)
    assert any(title.startswith("Break-glass: alice has admin") for title in told)
    types = [e for e in stage.events() if e[0].startswith(("emergency", "login", "request", "grant"))]
    assert types[-4:] == [
        ("emergency:opened", "ok"), ("login:succeeded", "ok"), ("request:created", "ok"), ("grant:issued", "ok"),
    ]  # fmt: skip


def test_every_other_route_refuses_it_in_a_sentence(client: TestClient, stage: Stage, token: str) -> None:
    document = client.get("/api/openapi.json").json()
    routes = {(m.upper(), path) for path, methods in document["paths"].items() for m in methods}
    assert routes >= OPEN
    tried = 0
    for method, path in sorted(routes):
        if path in PUBLIC or path in BY_COOKIE or (method, path) in OPEN:
            continue
        url = path.replace("{", "").replace("}", "")
        before = len(stage.events())
        no = client.request(method, url, json={} if method == "POST" else None, headers=headers(token))
        assert (no.status_code, no.json()["code"]) == (403, "break-glass-only"), (method, path, no.text)
        assert "gw break-glass" in " ".join((no.json()["detail"], *no.json()["next_steps"]))
        assert stage.events()[before:] == [("emergency:denied", "denied")], (method, path)
        tried += 1
    assert tried > 35
    for method, path in routes:
        if path in BY_COOKIE:
            assert client.request(method, path, json={}, headers=headers(token)).status_code == 401


def test_a_deploy_that_is_no_override_is_refused(client: TestClient, stage: Stage, token: str) -> None:
    plain = {"verb": "rollback", "targets": ["web-1"], "to": "previous"}
    no = client.post("/api/deploy", json=plain, headers=headers(token))
    assert (no.status_code, no.json()["code"]) == (403, "break-glass-only")
    assert "--override" in " ".join(no.json()["next_steps"])
    asked = client.post("/api/deploy", json={**plain, "override": True, "reason": "it burns"}, headers=headers(token))
    assert asked.json()["code"] == "unknown-verb"  # its targets have none: past the door, and judged


def test_pages_know_nothing_of_it(client: TestClient, token: str) -> None:
    assert client.get("/passkeys", headers=headers(token)).headers["location"].startswith("/login")
    client.cookies.set("gw-session", token)
    assert client.get("/passkeys").headers["location"].startswith("/login")
    assert "not signed in" in client.get("/").text


def test_a_grant_that_the_person_had_before_is_not_opened_by_it(
    client: TestClient, stage: Stage, provider: TrustingProvider, key: SoftPasskey
) -> None:
    mine = stage.token(alice(stage))
    assert client.post("/api/requests", json=ASK, headers=headers(mine)).status_code == 201
    provider.is_down = True
    _, device = come_in(client, stage, key)
    token = poll(client, stage, device)[1]["access_token"]
    no = client.post("/api/targets/orders-db/ticket", json={}, headers=headers(token))
    assert (no.status_code, no.json()["code"]) == (403, "no-grant")


def test_policy_still_decides(client: TestClient, stage: Stage, token: str) -> None:
    stage.forbid(Action.CONNECT)
    assert client.post("/api/break-glass", json=ASK, headers=headers(token)).status_code == 403


def test_it_is_short_and_can_be_given_back(client: TestClient, stage: Stage, token: str) -> None:
    stage.clock.advance(timedelta(minutes=29))
    assert client.get("/api/whoami", headers=headers(token)).status_code == 200
    assert client.post("/api/logout", headers=headers(token)).status_code == 204
    assert client.get("/api/whoami", headers=headers(token)).status_code == 401


def test_it_ends_by_itself(client: TestClient, stage: Stage, token: str) -> None:
    stage.clock.advance(timedelta(minutes=30))
    for path in ("/api/whoami", "/api/grants"):
        assert client.get(path, headers=headers(token)).status_code == 401
    assert client.post("/api/break-glass", json=ASK, headers=headers(token)).status_code == 401


def test_a_person_who_is_shut_out_is_out(client: TestClient, stage: Stage, token: str) -> None:
    from gateway.app.shut_out import disable_user

    disable_user(stage.ctx, stage.user("lead"), "alice")
    assert client.post("/api/break-glass", json=ASK, headers=headers(token)).status_code == 401


# ---------------------------------------------------------------- who does not come in


def test_nobody_comes_in_while_the_provider_answers(
    client: TestClient, stage: Stage, provider: TrustingProvider, key: SoftPasskey
) -> None:
    no, device = come_in(client, stage, key)
    assert (no.status_code, no.json()["code"]) == (403, "provider-answers")
    assert "gw login" in " ".join(no.json()["next_steps"])
    assert ("emergency:denied", "denied") in stage.events()
    assert poll(client, stage, device)[1] == {"error": "authorization_pending"}


def test_a_provider_that_came_back_meanwhile_shuts_the_door(
    client: TestClient, stage: Stage, provider: TrustingProvider, key: SoftPasskey
) -> None:
    provider.is_down = True
    begun = client.post("/api/device/code").json()
    options = client.post("/api/emergency/begin", json={"code": begun["user_code"]}).json()
    provider.is_down = False
    answer = {"code": begun["user_code"], "credential": key.get(options)}
    no = client.post("/api/emergency/finish", json=answer)
    assert (no.status_code, no.json()["code"]) == (403, "provider-answers")
    assert poll(client, stage, begun["device_code"])[1] == {"error": "authorization_pending"}


def test_while_it_is_not_known_whether_the_provider_answers_one_comes_back_later(
    client: TestClient, stage: Stage, provider: TrustingProvider, key: SoftPasskey
) -> None:
    provider.is_down = provider.is_not_known = True
    no, _ = come_in(client, stage, key)
    assert (no.status_code, no.json()["code"]) == (503, "provider-not-known")
    assert no.json()["next_steps"]
    assert stage.events()[-1] == ("emergency:denied", "failed")
    provider.is_not_known = False
    assert come_in(client, stage, key)[0].status_code == 204


def test_the_providers_last_word_must_not_be_old(
    client: TestClient, stage: Stage, provider: TrustingProvider, key: SoftPasskey
) -> None:
    stage.clock.advance(timedelta(days=7, seconds=1))
    provider.is_down = True
    no, _ = come_in(client, stage, key)
    assert (no.status_code, no.json()["code"]) == (403, "groups-too-old")


def test_a_stranger_with_a_code_does_not(client: TestClient, stage: Stage, provider: TrustingProvider) -> None:
    provider.is_down = True
    no, _ = come_in(client, stage, SoftPasskey("http://testserver"))
    assert (no.status_code, no.json()["code"]) == (403, "passkey-refused")


def test_a_key_that_did_not_verify_its_person_does_not(
    client: TestClient, stage: Stage, provider: TrustingProvider, key: SoftPasskey
) -> None:
    provider.is_down = True
    key.flags = PRESENT
    assert come_in(client, stage, key)[0].status_code == 403


def test_an_answer_for_another_terminal_does_not(
    client: TestClient, stage: Stage, provider: TrustingProvider, key: SoftPasskey
) -> None:
    provider.is_down = True
    one, other = (client.post("/api/device/code").json() for _ in range(2))
    options = client.post("/api/emergency/begin", json={"code": one["user_code"]}).json()
    answer = {"code": other["user_code"], "credential": key.get(options)}
    assert client.post("/api/emergency/finish", json=answer).status_code == 403


def test_a_step_up_is_no_way_in(client: TestClient, stage: Stage, provider: TrustingProvider, key: SoftPasskey) -> None:
    provider.is_down = True
    code = start(client, stage.token(alice(stage)))
    options = client.post("/api/step-up/begin", json={"code": code}).json()
    begun = client.post("/api/device/code").json()
    answer = {"code": begun["user_code"], "credential": key.get(options)}
    assert client.post("/api/emergency/finish", json=answer).status_code == 403
    assert client.post("/api/step-up/begin", json={"code": begun["user_code"]}).status_code == 404


def test_a_person_of_a_provider_that_answers_goes_there(
    client: TestClient, stage: Stage, provider: TrustingProvider, key: SoftPasskey
) -> None:
    """Another provider's outage opens nothing for people of this one."""
    provider.is_down = True
    done, device = come_in(client, stage, key)
    assert done.status_code == 204
    provider.is_down = False
    other = TrustingProvider(issuer="https://other.example", name="other", is_down=True)
    client.app.state.wiring.providers._by_name["other"] = other  # type: ignore[attr-defined]
    no, _ = come_in(client, stage, key)
    assert (no.status_code, no.json()["code"]) == (403, "provider-answers")


def test_the_page_says_what_it_is(client: TestClient, provider: TrustingProvider) -> None:
    begun = client.post("/api/device/code").json()
    page = client.get("/emergency", params={"user_code": begun["user_code"]}).text
    assert begun["user_code"] in page
    assert "gw break-glass" in page
    assert client.get("/emergency", params={"user_code": "BBBB-BBBB"}).status_code == 404


def test_a_terminal_elsewhere_takes_a_word(
    client: TestClient, stage: Stage, provider: TrustingProvider, key: SoftPasskey
) -> None:
    provider.is_down = True
    begun = client.post("/api/device/code").json()
    with stage.ctx.store.begin() as uow:
        device = uow.credentials.find_by_data("device", "user_code", begun["user_code"])
        assert device is not None
        uow.credentials.save(replace(device, data={**(device.data or {}), "client": "203.0.113.9"}))
    page = client.get("/emergency", params={"user_code": begun["user_code"]}).text
    assert "203.0.113.9" in page
    assert "somewhere else" in page
    for knows, status in ((False, 403), (True, 204)):
        options = client.post("/api/emergency/begin", json={"code": begun["user_code"]}).json()
        answer = {"code": begun["user_code"], "credential": key.get(options), "elsewhere": knows}
        assert client.post("/api/emergency/finish", json=answer).status_code == status
