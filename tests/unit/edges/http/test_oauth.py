"""Token exchange over HTTP: RFC 8693's wire format, RFC 6749's errors, and tokens in the wrong place."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from gateway.app.exchange_token import exchange_token
from gateway.app.providers import Providers
from gateway.app.verify_deploy_token import authenticate_workload, revoke_deploy_token
from gateway.core.decision import Action
from gateway.core.errors import Denied
from gateway.edges.http.app import create_app
from gateway.edges.http.routes_oauth import EXCHANGE
from tests.pipelines import Pipelines, pipelines
from tests.unit.edges.device import DeviceClient
from tests.unit.edges.http.conftest import DOORS
from tests.unit.edges.trusting_provider import TrustingProvider

HERE = "https://gw.example.org"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ACCESS = "urn:ietf:params:oauth:token-type:access_token"


@pytest.fixture
def ci(tmp_path: Path) -> Iterator[Pipelines]:
    with pipelines(tmp_path) as made:
        yield made


@pytest.fixture
def api(ci: Pipelines) -> TestClient:
    return DeviceClient(application(ci), base_url=HERE)


def application(ci: Pipelines) -> FastAPI:
    return create_app(ci.stage.ctx, Providers([TrustingProvider()]), DOORS, public_url=HERE)


def form(token: str, **changes: str) -> dict[str, str]:
    return {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": JWT, **changes}


def test_an_exchange(ci: Pipelines, api: TestClient):
    answer = api.post("/oauth/token", data=form(ci.github.github(), audience=HERE, resource=HERE))
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    body = answer.json()
    assert body["access_token"].startswith("gwd_")
    assert (body["issued_token_type"], body["token_type"]) == (ACCESS, "Bearer")
    assert 899 <= body["expires_in"] <= 900
    assert body["scope"] == "deploy:web-1 deploy:web-2 rollback:web-1 rollback:web-2"
    assert "refresh_token" not in body
    assert authenticate_workload(ci.stage.ctx, body["access_token"]).workload.run == "github/987/1"


def test_fewer_rights_can_be_asked_for(ci: Pipelines, api: TestClient):
    answer = api.post("/oauth/token", data=form(ci.github.github(), scope="deploy:web-2"))
    assert answer.json()["scope"] == "deploy:web-2"


@pytest.mark.parametrize(
    "scope", ["deploy:web-9", "migrate:web-1", "deploy:stage-1", "deploy", "deploy:*", "deploy:web-1  x", " "]
)
def test_other_rights_cannot(ci: Pipelines, api: TestClient, scope: str):
    answer = api.post("/oauth/token", data=form(ci.github.github(), scope=scope))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")


def test_in_production_a_rule_without_environment_gives_nothing(ci: Pipelines, api: TestClient):
    """The staging rule names web-1, which is in production, by mistake."""
    job = ci.github.github(environment=None, sub="repo:acme/web:ref:refs/heads/main")
    assert api.post("/oauth/token", data=form(job)).json()["scope"] == "deploy:stage-1"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
        ({"grant_type": ""}, "invalid_request"),
        ({"subject_token": ""}, "invalid_request"),
        ({"subject_token_type": ""}, "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "invalid_request"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"),
        ({"actor_token": "x", "actor_token_type": JWT}, "invalid_request"),
        ({"actor_token_type": JWT}, "invalid_request"),
        ({"audience": "https://other.example"}, "invalid_target"),
        ({"resource": "https://gw.example.org.evil.example"}, "invalid_target"),
        ({"subject_token": "gwc_" + "x" * 43}, "invalid_request"),
        ({"subject_token": "not.a.token"}, "invalid_request"),
    ],
)
def test_each_error_has_its_code(ci: Pipelines, api: TestClient, changes: dict[str, str], error: str):
    answer = api.post("/oauth/token", data=form(ci.github.github(), **changes))
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["error_description"].isascii()


def test_a_field_that_comes_twice(ci: Pipelines, api: TestClient):
    good = ci.github.github()
    pairs = f"grant_type={EXCHANGE}&subject_token={good}&subject_token=x&subject_token_type={JWT}"
    answer = api.post("/oauth/token", content=pairs, headers={"content-type": "application/x-www-form-urlencoded"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_it_takes_forms_of_bounded_size(ci: Pipelines, api: TestClient):
    assert api.post("/oauth/token", json=form(ci.github.github())).status_code == 415
    assert api.post("/oauth/token", data=form("x" * 70_000)).status_code == 413
    assert api.post("/oauth/token", data=form("x" * 20_000)).json()["code"] == "job-token-refused"
    assert api.post("/oauth/token").json()["error"] == "invalid_request"
    assert api.get("/oauth/token").status_code == 405


def test_clients_do_not_authenticate(ci: Pipelines, api: TestClient):
    person = ci.stage.token(ci.stage.user("oncall"))
    headers = {"authorization": f"Bearer {person}"}
    answer = api.post("/oauth/token", data=form(ci.github.github()), headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_a_replay_and_a_refusal_say_what_to_do(ci: Pipelines, api: TestClient):
    job = form(ci.github.github())
    assert api.post("/oauth/token", data=job).status_code == 200
    answer = api.post("/oauth/token", data=job).json()
    assert (answer["error"], answer["code"]) == ("invalid_request", "token-used")
    assert answer["next_steps"]
    wrong = api.post("/oauth/token", data=form(ci.github.github(ref="refs/heads/x"))).json()
    assert wrong["missing"] == ["ref"]
    assert "refs/heads/main" in wrong["error_description"]


def test_an_issuer_that_is_down_is_no_refusal(ci: Pipelines, api: TestClient):
    ci.github.mood = "down"
    job = form(ci.github.github())
    answer = api.post("/oauth/token", data=job)
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    assert ("token:refused", "failed") in ci.stage.events()


def test_metadata(api: TestClient):
    found = api.get("/.well-known/oauth-authorization-server").json()
    assert (found["issuer"], found["token_endpoint"]) == (HERE, f"{HERE}/oauth/token")
    assert found["grant_types_supported"] == [EXCHANGE]
    assert found["token_endpoint_auth_methods_supported"] == ["none"]
    assert api.get(found["jwks_uri"].removeprefix(HERE)).json() == {"keys": []}


# ---------------------------------------------------------------- tokens in the wrong place


def test_a_deploy_token_opens_no_route_for_people(ci: Pipelines, api: TestClient):
    """Every route that takes a bearer token, whatever its method."""
    token = exchange_token(ci.stage.ctx, ci.github.github()).token
    headers = {"authorization": f"Bearer {token}"}
    routes = [
        (method.upper(), path, operation)
        for path, methods in application(ci).openapi()["paths"].items()
        for method, operation in methods.items()
        if {"bearer": []} in operation.get("security", []) and not f"{path}/".startswith("/api/deploy/")
    ]
    assert len(routes) > 25
    for method, path, operation in routes:
        place = path
        for parameter in operation.get("parameters", []):
            place = place.replace("{" + parameter["name"] + "}", "x")
        answer = api.request(method, place, headers=headers, json={} if method == "POST" else None)
        assert answer.status_code in (403, 422), (method, path)
        if answer.status_code == 403:
            assert answer.json()["code"] == "deploy-token-misplaced", path
    whoami = api.get("/api/whoami", headers=headers).json()
    assert "can only run deploy verbs" in whoami["detail"]


def test_a_persons_token_is_no_deploy_token(ci: Pipelines):
    person = ci.stage.token(ci.stage.user("oncall"))
    with pytest.raises(Denied) as no:
        authenticate_workload(ci.stage.ctx, person)
    assert no.value.refusal.code == "not-a-workload"
    assert "gw deploy rollback" in no.value.refusal.sentence()


def test_taking_one_back_is_for_whoever_administers(ci: Pipelines, api: TestClient):
    found = exchange_token(ci.stage.ctx, ci.github.github())
    lead = {"authorization": f"Bearer {ci.stage.token(ci.stage.user('lead', 'leads'))}"}
    ci.stage.forbid(Action.ADMINISTER)
    place = f"/api/deploy-tokens/{found.id}/revoke"
    assert api.post(place, json={"reason": "leaked"}, headers=lead).status_code == 403
    assert authenticate_workload(ci.stage.ctx, found.token)
    ci.stage.policy.permits = lambda _: True
    assert api.post(place, json={"reason": "leaked"}, headers=lead).status_code == 204
    assert api.post(place, json={}, headers=lead).status_code == 409
    assert api.post("/api/deploy-tokens/web-1/revoke", json={}, headers=lead).status_code == 404
    with pytest.raises(Denied, match="revoked"):
        authenticate_workload(ci.stage.ctx, found.token)


def test_a_revoked_token_is_refused_whatever_was_added_to_it(ci: Pipelines):
    from gateway.core.deploy_token import Caveat, Tag, attenuate

    found = exchange_token(ci.stage.ctx, ci.github.github())
    narrowed = attenuate(found.token, Caveat(Tag.VERB, frozenset({"deploy"})))
    assert authenticate_workload(ci.stage.ctx, narrowed)
    assert revoke_deploy_token(ci.stage.ctx, found.id, "lead", "leaked")
    assert not revoke_deploy_token(ci.stage.ctx, found.id, "lead")
    for token in (found.token, narrowed):
        with pytest.raises(Denied) as no:
            authenticate_workload(ci.stage.ctx, token)
        assert no.value.refusal.code == "token-revoked"
    assert ci.stage.events()[-3:] == [("deploy-token:revoked", "ok"), *[("deploy-token:refused", "denied")] * 2]
