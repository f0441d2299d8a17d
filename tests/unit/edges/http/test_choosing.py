"""Several identity providers in a browser: choosing one, and never ending up at another's or elsewhere."""

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient

from gateway.app.identity import ClaimNames
from gateway.app.providers import Providers
from gateway.edges.http.app import create_app
from tests.unit.edges.device import DeviceClient
from tests.unit.edges.http.conftest import DOORS
from tests.unit.edges.http.test_login import state_of
from tests.unit.edges.stage import Stage
from tests.unit.edges.trusting_provider import TrustingProvider

PARTNER = "https://login.partner.example"


@pytest.fixture
def both(stage: Stage) -> Iterator[TestClient]:
    partner = TrustingProvider(
        name="partner", label="<Partner> Ltd", issuer=PARTNER,
        names=ClaimNames(suffix=".partner", group_prefix="partner/"),
    )  # fmt: skip
    app = create_app(stage.ctx, Providers([TrustingProvider(), partner]), DOORS, public_url="http://testserver")
    with DeviceClient(app, follow_redirects=False) as made:
        yield made


def test_a_person_chooses_where_to_sign_in(both: TestClient) -> None:
    page = both.get("/login", params={"next": "/device?user_code=BCDF-GHJK"})
    assert page.status_code == 200
    assert "&lt;Partner&gt; Ltd" in page.text
    assert "provider=partner&amp;next=%2Fdevice%3Fuser_code%3DBCDF-GHJK" in page.text
    sent = both.get("/login", params={"provider": "partner", "next": "/device"})
    assert sent.headers["location"].startswith(PARTNER)
    back = both.get("/callback/partner", params={"state": state_of(sent.headers["location"]), "code": "alice"})
    assert back.headers["location"] == "/device"
    assert "signed in as alice.partner" in both.get("/").text


@pytest.mark.parametrize("evil", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_the_choice_leads_nowhere_else(both: TestClient, evil: str) -> None:
    page = both.get("/login", params={"next": evil})
    assert "evil" not in page.text
    assert "javascript" not in page.text
    assert both.get("/login", params={"provider": evil}).status_code == 404


@pytest.mark.parametrize("path", ["/callback", "/callback/partner", "/callback/other", "/callback/%2e%2e"])
def test_a_login_begun_at_one_is_not_finished_at_another(both: TestClient, path: str) -> None:
    begun, right = ("oidc", "/callback") if path != "/callback" else ("partner", "/callback/partner")
    sent = both.get("/login", params={"provider": begun})
    state = state_of(sent.headers["location"])
    assert both.get(path, params={"state": state, "code": "alice"}).status_code in (401, 404)
    assert "gw-session" not in both.cookies
    assert right != path


def test_a_terminal_may_ask_for_one(both: TestClient) -> None:
    start = both.post("/api/device/code", data={"client_id": "gw", "provider": "partner"}).json()
    query = parse_qs(urlsplit(start["verification_uri_complete"]).query)
    assert query["provider"] == ["partner"]
    away = both.get("/device", params={"user_code": start["user_code"], "provider": "partner"})
    assert "provider=partner" in away.headers["location"]
    assert both.post("/api/device/code", data={"provider": "other"}).status_code == 404
