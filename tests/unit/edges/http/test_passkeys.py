"""Passkeys over HTTP, with an authenticator in software that says everything a real one says: and its attacks."""

import re
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from gateway.core.obligation import Obligations, StepUp
from gateway.demo.passkey import PRESENT, SoftPasskey
from tests.unit.edges.http.passkey_steps import (
    ASK,
    ORIGIN,
    PROOF,
    alice,
    fresh,
    headers,
    page_csrf,
    prove,
    register,
    start,
)
from tests.unit.edges.http.test_login import csrf_of, sign_in
from tests.unit.edges.stage import Stage
from tests.unit.edges.trusting_provider import TrustingProvider

# ---------------------------------------------------------------- the journey


def test_policy_demands_a_passkey_and_a_step_up_gives_it(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    stage.policy.obligations = PROOF
    token = stage.token(alice(stage))
    no = client.post("/api/break-glass", json=ASK, headers=headers(token))
    assert (no.status_code, no.json()["code"]) == (403, "step-up-required")
    assert "gw step-up" in " ".join(no.json()["next_steps"])
    code = start(client, token)
    client.cookies.clear()  # the browser with the key need not be signed in
    page = client.get("/step-up", params={"code": code})
    assert code in page.text
    assert "alice" in page.text
    assert "testclient" in page.text
    assert client.get(f"/api/step-up/{code}", headers=headers(token)).json() == {"state": "pending"}
    assert prove(client, code, key).status_code == 204
    assert client.get(f"/api/step-up/{code}", headers=headers(token)).json() == {"state": "proved"}
    granted = client.post("/api/break-glass", json=ASK, headers=headers(token))
    assert granted.status_code == 201, granted.text
    assert granted.json()["decision"]["facts"]["level"] == "admin"
    assert [e[0] for e in stage.events() if e[0].startswith("step-up")] == ["step-up:started", "step-up:proved"]


def test_a_proof_grows_old(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    stage.policy.obligations = PROOF
    token = stage.token(alice(stage))
    assert prove(client, start(client, token), key).status_code == 204
    stage.clock.advance(timedelta(minutes=10, seconds=1))
    assert client.post("/api/break-glass", json=ASK, headers=headers(token)).json()["code"] == "step-up-required"


def test_a_proof_is_of_one_sign_in(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    stage.policy.obligations = PROOF
    mine, other = stage.token(alice(stage)), stage.token(alice(stage))
    assert prove(client, start(client, mine), key).status_code == 204
    assert client.post("/api/break-glass", json=ASK, headers=headers(other)).json()["code"] == "step-up-required"


def test_where_each_request_needs_its_own_a_proof_is_good_once(
    client: TestClient, stage: Stage, key: SoftPasskey
) -> None:
    stage.policy.obligations = Obligations(step_up=StepUp.EACH, max_auth_age=timedelta(minutes=10))
    token = stage.token(alice(stage))
    assert prove(client, start(client, token), key).status_code == 204
    assert client.post("/api/break-glass", json=ASK, headers=headers(token)).status_code == 201
    again = client.post("/api/break-glass", json=ASK, headers=headers(token))
    assert (again.status_code, again.json()["code"]) == (403, "step-up-required")
    assert prove(client, start(client, token), key).status_code == 204
    assert client.post("/api/break-glass", json=ASK, headers=headers(token)).status_code == 201


def test_an_age_alone_is_met_by_a_fresh_sign_in(client: TestClient, stage: Stage, provider: TrustingProvider) -> None:
    stage.policy.obligations = Obligations(max_auth_age=timedelta(minutes=5))
    fresh(stage, provider)
    sign_in(client, "alice")
    token = device_token(client, stage)
    assert client.post("/api/requests", json=ASK, headers=headers(token)).status_code == 201
    stage.clock.advance(timedelta(minutes=6))
    assert client.post("/api/requests", json=ASK, headers=headers(token)).json()["code"] == "step-up-required"


def test_a_provider_that_does_not_say_when_has_said_nothing(client: TestClient, stage: Stage) -> None:
    stage.policy.obligations = Obligations(max_auth_age=timedelta(minutes=5))
    sign_in(client, "alice")
    token = device_token(client, stage)
    assert client.post("/api/requests", json=ASK, headers=headers(token)).json()["code"] == "step-up-required"


def device_token(client: TestClient, stage: Stage) -> str:
    begun = client.post("/api/device/code").json()
    page = client.get("/device", params={"user_code": begun["user_code"]}).text
    client.post("/device", data={"user_code": begun["user_code"], "action": "confirm", "csrf": csrf_of(page)})
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": begun["device_code"]}
    return str(client.post("/api/device/token", data=form).json()["access_token"])


def test_denying_in_the_browser_ends_the_wait(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    token = stage.token(alice(stage))
    code = start(client, token)
    assert client.post("/step-up", data={"code": code}, headers={"origin": "https://evil.example"}).status_code == 403
    assert "Denied" in client.post("/step-up", data={"code": code}).text
    assert client.get(f"/api/step-up/{code}", headers=headers(token)).json() == {"state": "denied"}
    assert prove(client, code, key).status_code == 404


def test_nobody_without_a_passkey_starts_a_step_up(client: TestClient, stage: Stage) -> None:
    no = client.post("/api/step-up", headers=headers(stage.token(stage.user("bob"))))
    assert (no.status_code, no.json()["code"]) == (403, "no-passkey")


# ---------------------------------------------------------------- what a passkey's answer must be


def test_a_replayed_answer_proves_nothing(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    token = stage.token(alice(stage))
    first = start(client, token)
    answer = key.get(client.post("/api/step-up/begin", json={"code": first}).json())
    assert client.post("/api/step-up/finish", json={"code": first, "credential": answer}).status_code == 204
    again = start(client, token)
    no = client.post("/api/step-up/finish", json={"code": again, "credential": answer})
    assert (no.status_code, no.json()["code"]) == (403, "passkey-refused")
    assert client.get(f"/api/step-up/{again}", headers=headers(token)).json() == {"state": "pending"}


def test_a_failed_answer_uses_its_challenge_up(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    code = start(client, stage.token(alice(stage)))
    options = client.post("/api/step-up/begin", json={"code": code}).json()
    key.flags = PRESENT
    assert client.post("/api/step-up/finish", json={"code": code, "credential": key.get(options)}).status_code == 403
    key.flags = SoftPasskey(ORIGIN).flags
    assert client.post("/api/step-up/finish", json={"code": code, "credential": key.get(options)}).status_code == 403
    assert prove(client, code, key).status_code == 204


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("origin", "https://testserver.evil.example", "another address"),
        ("origin", "http://testserver:81", "another address"),
        ("rp_id", "evil.example", "another site"),
        ("flags", PRESENT, "not verified"),
        ("flags", 0x04, "touch"),
    ],
)
def test_an_answer_made_elsewhere_or_without_the_person(
    client: TestClient, stage: Stage, key: SoftPasskey, field: str, value: object, said: str
) -> None:
    setattr(key, field, value)
    no = prove(client, start(client, stage.token(alice(stage))), key)
    assert (no.status_code, no.json()["code"]) == (403, "passkey-refused")
    assert said in no.json()["detail"]
    assert ("passkey:refused", "denied") in stage.events()
    assert register(client, key).status_code == 403


def test_a_counter_that_goes_back_is_a_copy(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    token = stage.token(alice(stage))
    key.count = 41
    assert prove(client, start(client, token), key).status_code == 204
    key.count = 7
    no = prove(client, start(client, token), key)
    assert (no.status_code, no.json()["code"]) == (403, "passkey-copied")
    assert ("passkey:copied", "denied") in stage.events()
    assert any("copied" in title for _, title in stage.ctx.notifier.notes)
    key.count = 42
    assert prove(client, start(client, token), key).status_code == 204


def test_a_challenge_of_another_purpose(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    csrf = page_csrf(client)
    unlock = client.post("/api/passkeys/unlock/begin", json={"csrf": csrf}).json()
    code = start(client, stage.token(alice(stage)))
    no = client.post("/api/step-up/finish", json={"code": code, "credential": key.get(unlock)})
    assert no.status_code == 403
    assert "something else" in no.json()["detail"]


def test_a_challenge_of_another_terminal(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    one, other = (start(client, stage.token(alice(stage))) for _ in range(2))
    answer = key.get(client.post("/api/step-up/begin", json={"code": one}).json())
    assert client.post("/api/step-up/finish", json={"code": other, "credential": answer}).status_code == 403


def test_a_challenge_of_nobody(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    code = start(client, stage.token(alice(stage)))
    answer = key.get({"challenge": "A" * 43})
    assert client.post("/api/step-up/finish", json={"code": code, "credential": answer}).status_code == 403


def test_a_challenge_that_grew_old(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    csrf = page_csrf(client)
    unlock = client.post("/api/passkeys/unlock/begin", json={"csrf": csrf}).json()
    stage.clock.advance(timedelta(minutes=5))
    no = client.post("/api/passkeys/unlock/finish", json={"csrf": csrf, "credential": key.get(unlock)})
    assert no.status_code == 403
    assert "too old" in no.json()["detail"]


def test_the_passkey_of_alice_proves_nothing_about_bob(
    client: TestClient, stage: Stage, provider: TrustingProvider, key: SoftPasskey
) -> None:
    fresh(stage, provider)
    sign_in(client, "bob")
    assert register(client, SoftPasskey(ORIGIN)).status_code == 201
    with stage.ctx.store.read() as uow:
        bob = uow.users.by_name("bob")
    assert bob is not None
    code = start(client, stage.token(bob))
    for handle in (key.user_handle, "", SoftPasskey(ORIGIN).user_handle):
        key.user_handle = handle
        no = prove(client, code, key)
        assert no.status_code == 403
        assert "somebody else's" in no.json()["detail"]


def test_an_answer_signed_by_another_key(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    thief = SoftPasskey(ORIGIN, credential_id=key.credential_id, user_handle=key.user_handle)
    no = prove(client, start(client, stage.token(alice(stage))), thief)
    assert no.status_code == 403
    assert "signature" in no.json()["detail"]


@pytest.mark.parametrize(
    "bent",
    [
        {}, {"id": 7}, {"response": None}, {"response": {}}, {"response": {"clientDataJSON": 7}},
        {"response": {"clientDataJSON": "e30"}}, {"response": {"clientDataJSON": "W10"}}, {"response": {"clientDataJSON": "\u00e4"}},
    ],
)  # fmt: skip
def test_answers_that_do_not_read(client: TestClient, stage: Stage, key: SoftPasskey, bent: dict[str, Any]) -> None:
    code = start(client, stage.token(alice(stage)))
    client.post("/api/step-up/begin", json={"code": code})
    no = client.post("/api/step-up/finish", json={"code": code, "credential": bent})
    assert (no.status_code, no.json()["code"]) == (403, "passkey-refused")


def test_every_part_of_an_answer_is_looked_at(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    """Cut short, or with a byte changed, no part passes."""
    token = stage.token(alice(stage))
    for part in ("clientDataJSON", "authenticatorData", "signature"):
        for change in (lambda t: t[:-4], lambda t: ("B" if t[8] != "B" else "C").join((t[:8], t[9:])), lambda _: ""):
            code = start(client, token)
            answer = key.get(client.post("/api/step-up/begin", json={"code": code}).json())
            answer["response"][part] = change(answer["response"][part])
            no = client.post("/api/step-up/finish", json={"code": code, "credential": answer})
            assert no.status_code == 403, (part, no.text)


def test_an_answer_from_another_sites_frame(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    key.cross_origin = True
    assert prove(client, start(client, stage.token(alice(stage))), key).status_code == 403


# ---------------------------------------------------------------- adding and removing


def test_a_stale_sign_in_adds_no_passkey(client: TestClient, stage: Stage, provider: TrustingProvider) -> None:
    provider.claims["auth_time"] = int((stage.clock.now() - timedelta(minutes=11)).timestamp())
    sign_in(client, "alice")
    page = client.get("/passkeys").text
    assert "Sign in once more" in page
    csrf = csrf_of(client.get("/").text)
    no = client.post("/api/passkeys/begin", json={"csrf": csrf})
    assert (no.status_code, no.json()["code"]) == (403, "step-up-required")
    assert ("passkey:refused", "denied") in stage.events()


def test_a_sign_in_that_grew_stale_meanwhile_adds_none_either(
    client: TestClient, stage: Stage, provider: TrustingProvider
) -> None:
    fresh(stage, provider)
    sign_in(client, "alice")
    csrf = page_csrf(client)
    options = client.post("/api/passkeys/begin", json={"csrf": csrf}).json()
    stage.clock.advance(timedelta(minutes=10, seconds=1))
    answer = SoftPasskey(ORIGIN).create(options)
    assert client.post("/api/passkeys/finish", json={"csrf": csrf, "credential": answer}).status_code == 403


def test_signing_in_once_more_must_really_ask(client: TestClient, stage: Stage, provider: TrustingProvider) -> None:
    for claims in ({}, {"auth_time": int((stage.clock.now() - timedelta(minutes=5)).timestamp())}, {"auth_time": True}):
        provider.claims.pop("auth_time", None)
        provider.claims.update(claims)
        begun = client.get("/login", params={"fresh": "yes", "next": "/passkeys"})
        assert begun.status_code == 303
        assert provider.seen["fresh"] == "True"
        done = client.get("/callback", params={"code": "alice", "state": provider.seen["state"]})
        assert done.status_code == 401, claims
        assert "ask you anew" in done.text
    fresh(stage, provider)
    client.get("/login", params={"fresh": "yes", "next": "/passkeys"})
    done = client.get("/callback", params={"code": "alice", "state": provider.seen["state"]})
    assert (done.status_code, done.headers["location"]) == (303, "/passkeys")


def test_a_passkey_that_is_there_lets_another_one_in(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    stage.clock.advance(timedelta(minutes=30))
    csrf = page_csrf(client)
    assert client.post("/api/passkeys/begin", json={"csrf": csrf}).status_code == 403
    unlock = client.post("/api/passkeys/unlock/begin", json={"csrf": csrf}).json()
    done = client.post("/api/passkeys/unlock/finish", json={"csrf": csrf, "credential": key.get(unlock)})
    assert done.status_code == 204, done.text
    assert register(client, SoftPasskey(ORIGIN)).status_code == 201
    assert client.get("/passkeys").text.count("blue key") == 2


def test_a_page_of_another_site_adds_none(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    csrf = page_csrf(client)
    for body, more in (({"csrf": "x" * 43}, {}), ({"csrf": csrf}, {"origin": "https://evil.example"})):
        assert client.post("/api/passkeys/begin", json=body, headers=more).status_code == 403
    as_text = client.post("/api/passkeys/begin", content=b"{}", headers={"content-type": "text/plain"})
    assert as_text.status_code == 415


def test_the_same_key_is_not_added_twice(client: TestClient, key: SoftPasskey) -> None:
    assert register(client, key).status_code == 409


def test_removing(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    token = stage.token(alice(stage))
    (mine,) = client.get("/api/passkeys", headers=headers(token)).json()["passkeys"]
    path = f"/api/passkeys/{mine['id']}/remove"
    assert client.post(path, headers=headers(stage.token(stage.user("bob")))).status_code == 404
    assert client.post(path, headers=headers(token)).json()["code"] == "step-up-required"
    assert prove(client, start(client, token), key).status_code == 204
    assert client.post(path, headers=headers(token)).json()["name"] == "blue key"
    assert client.get("/api/passkeys", headers=headers(token)).json()["passkeys"] == []
    assert ("passkey:removed", "ok") in stage.events()
    assert client.post("/api/step-up", headers=headers(token)).json()["code"] == "no-passkey"


def test_removing_on_the_page(client: TestClient, key: SoftPasskey) -> None:
    csrf = page_csrf(client)
    found = re.search(r'name="passkey" value="([^"]*)"', client.get("/passkeys").text)
    assert found
    assert client.post("/passkeys/remove", data={"csrf": "", "passkey": found[1]}).status_code == 403
    assert client.post("/passkeys/remove", data={"csrf": csrf, "passkey": found[1]}).status_code == 303
    assert "None yet" in client.get("/passkeys").text


def test_a_disabled_person_proves_nothing(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    from gateway.app.shut_out import disable_user

    code = start(client, stage.token(alice(stage)))
    disable_user(stage.ctx, stage.user("lead"), "alice")
    assert prove(client, code, key).status_code in (403, 404)


def test_the_pages_load_scripts_of_this_site_only(client: TestClient, key: SoftPasskey, stage: Stage) -> None:
    code = start(client, stage.token(alice(stage)))
    for path in ("/passkeys", f"/step-up?code={code}", "/step-up", "/emergency"):
        page = client.get(path)
        policy = page.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert not re.search(r"<script(?! src=\"/static/(passkeys.js\" defer|browser.js\")></script>)", page.text)
        assert not re.search(r"\son\w+=", page.text)
    assert "javascript" in client.get("/static/passkeys.js").headers["content-type"]


def test_wrong_codes_from_one_address_are_limited(client: TestClient, stage: Stage, key: SoftPasskey) -> None:
    code = start(client, stage.token(alice(stage)))
    answers = [client.get("/step-up", params={"code": "BBBB-BBBB"}).status_code for _ in range(21)]
    assert answers == [404] * 20 + [429]
    assert client.get("/step-up", params={"code": code}).status_code == 429
