import pytest
from fastapi.testclient import TestClient

from tests.unit.edges.stage import Stage

READS = ("/api/audit/events", "/api/log/checkpoint")


@pytest.fixture
def lead(stage: Stage) -> dict[str, str]:
    return {"authorization": f"Bearer {stage.token(stage.user('lead'))}"}


def create(client: TestClient, lead: dict[str, str], **more: object) -> dict[str, str]:
    body = {"name": "siem", "scopes": ["audit:read"], "expires": "90d", **more}
    answer = client.post("/api/tokens", json=body, headers=lead)
    assert answer.status_code == 201, answer.text
    return {"authorization": f"Bearer {answer.json()['secret']}"}


def test_a_token_is_made_listed_used_and_revoked(client: TestClient, lead: dict[str, str]) -> None:
    machine = create(client, lead)
    for path in READS:
        assert client.get(path, headers=machine).status_code == 200
    (shown,) = client.get("/api/tokens", headers=lead).json()
    assert shown["last_used_at"]
    assert "secret" not in shown
    assert "digest" not in shown
    assert client.post("/api/tokens/siem/revoke", headers=lead).status_code == 200
    assert client.get(READS[0], headers=machine).status_code == 401


def test_a_scope_opens_its_own_routes_and_no_other(client: TestClient, lead: dict[str, str]) -> None:
    siem = create(client, lead)
    scim = create(client, lead, name="okta", scopes=["scim:write"], provider="oidc")
    document = client.get("/api/openapi.json").json()
    tried = 0
    for path, methods in document["paths"].items():
        is_for_readers = path.startswith(("/api/audit/", "/api/log/"))
        for method in methods:
            if not path.startswith("/api/"):
                continue
            url = path.replace("{", "").replace("}", "")
            body = {} if method == "post" else None
            by_scim = client.request(method.upper(), url, json=body, headers=scim).status_code
            by_siem = client.request(method.upper(), url, json=body, headers=siem).status_code
            nobody = client.request(method.upper(), url, json=body).status_code
            is_for_readers = is_for_readers and nobody == 401
            assert by_scim == (403 if is_for_readers else nobody), (method, path)  # no more than without a token
            assert (by_siem in (200, 404, 503)) if is_for_readers else (by_siem == nobody), (method, path)
            tried += nobody == 401
    assert tried > 30


def test_a_token_for_an_unknown_provider_is_not_made(client: TestClient, lead: dict[str, str]) -> None:
    body = {"name": "okta", "scopes": ["scim:write"], "expires": "90d", "provider": "other"}
    assert client.post("/api/tokens", json=body, headers=lead).status_code == 404


@pytest.mark.parametrize("bent", [{"expires": None}, {"expires": ""}, {"expires": "0d"}, {"scopes": []}, {"name": ""}])
def test_an_end_and_a_scope_are_no_option(client: TestClient, lead: dict[str, str], bent: dict[str, object]) -> None:
    body = {"name": "siem", "scopes": ["audit:read"], "expires": "90d", **bent}
    wanted = {key: value for key, value in body.items() if value is not None}
    assert client.post("/api/tokens", json=wanted, headers=lead).status_code == 422
