from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from gateway.adapters.webauthn import WebAuthnRelyingParty
from gateway.app.providers import Providers
from gateway.demo.passkey import SoftPasskey
from gateway.edges.http.app import DoorFacts, create_app
from tests.unit.edges.device import DeviceClient
from tests.unit.edges.http.passkey_steps import ORIGIN, fresh, register
from tests.unit.edges.stage import Stage
from tests.unit.edges.trusting_provider import TrustingProvider

DOORS = DoorFacts("127.0.0.1", 2222, "ssh-ed25519 AAAAdoor", "127.0.0.1", 5433, "-----BEGIN CERTIFICATE-----\n", "vkey")


@pytest.fixture
def provider() -> TrustingProvider:
    return TrustingProvider()


@pytest.fixture
def client(stage: Stage, provider: TrustingProvider) -> Iterator[TestClient]:
    app = create_app(
        stage.ctx,
        Providers([provider]),
        DOORS,
        public_url="http://testserver",
        passkeys=WebAuthnRelyingParty("http://testserver"),
    )
    with DeviceClient(app, follow_redirects=False, raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def key(client: TestClient, stage: Stage, provider: TrustingProvider) -> SoftPasskey:
    """The person alice has signed in in the browser just now, and added a passkey."""
    from tests.unit.edges.http.test_login import sign_in  # which needs this file

    fresh(stage, provider)
    sign_in(client, "alice")
    made = SoftPasskey(ORIGIN)
    assert register(client, made).status_code == 201
    return made
