from fastapi.testclient import TestClient

from tests.unit.edges.http.test_login import sign_in
from tests.unit.edges.trusting_provider import TrustingProvider


def test_a_provider_signs_a_browser_out(client: TestClient, provider: TrustingProvider) -> None:
    provider.claims = {"sid": "sid-1"}
    sign_in(client, "oncall")
    answer = client.post("/api/backchannel-logout/oidc", data={"logout_token": ",sid-1,j1"})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert "not signed in" in client.get("/").text


def test_what_is_no_logout_token_is_a_400_as_the_specification_says(client: TestClient) -> None:
    sign_in(client, "oncall")
    answer = client.post("/api/backchannel-logout/oidc", data={"logout_token": "sub-oncall,,"})
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_request"
    assert "signed in as oncall" in client.get("/").text


def test_the_shape_of_the_call_is_judged_first(client: TestClient) -> None:
    path = "/api/backchannel-logout/oidc"
    assert client.post(path, json={"logout_token": "sub-oncall,,j"}).status_code == 415
    assert client.post(path, data={}).status_code == 422
    assert client.post(path, data={"logout_token": "x" * 20_000}).status_code == 422
    assert client.post("/api/backchannel-logout/other", data={"logout_token": "sub-oncall,,j"}).status_code == 404
    assert client.get(path).status_code == 405
