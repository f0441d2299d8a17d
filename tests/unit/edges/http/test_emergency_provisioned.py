"""Whom the identity provider took away before it went down does not come in by passkey."""

from dataclasses import replace
from datetime import timedelta

import pytest

from gateway.adapters.webauthn import WebAuthnRelyingParty
from gateway.app.api_tokens import WRITE_SCIM, create_api_token
from gateway.app.identity import ClaimNames
from gateway.app.providers import Providers
from gateway.app.revalidate import Revalidation
from gateway.core.errors import Denied, Refusal
from gateway.demo.passkey import SoftPasskey
from gateway.edges.http.app import create_app
from tests.unit.edges.device import DeviceClient
from tests.unit.edges.http.conftest import DOORS
from tests.unit.edges.http.passkey_steps import ORIGIN, fresh, register
from tests.unit.edges.http.test_emergency import come_in
from tests.unit.edges.http.test_login import sign_in
from tests.unit.edges.http.test_scim import Scim
from tests.unit.edges.stage import Stage
from tests.unit.edges.trusting_provider import TrustingProvider

SCIM = ClaimNames(provisioned=True, from_scim=True)


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("welcome", ""), ("delete", "not-provisioned"), ("external-id", "not-provisioned"),
        ("invalid-grant", "groups-too-old"), ("scim-switched-on", "not-provisioned"),
    ],
)  # fmt: skip
def test_whom_it_took_away_does_not_come_in(stage: Stage, how: str, code: str) -> None:
    is_later = how == "scim-switched-on"
    provider = TrustingProvider(names=replace(SCIM, provisioned=not is_later), refresh_token="r1")
    made = create_api_token(stage.ctx, stage.user("lead"), "entra", [WRITE_SCIM], timedelta(days=90), "oidc")
    party = WebAuthnRelyingParty(ORIGIN)
    app = create_app(stage.ctx, Providers([provider]), DOORS, public_url=ORIGIN, passkeys=party)
    with DeviceClient(app, follow_redirects=False) as client:
        scim = Scim(client, stage, provider, made.secret)
        row = "" if is_later else scim.add()
        fresh(stage, provider)
        sign_in(client, "alice")
        key = SoftPasskey(ORIGIN)
        assert register(client, key).status_code == 201
        if how == "delete":
            scim("DELETE", f"/Users/{row}", status=204)
        elif how == "external-id":
            scim.patch(f"/Users/{row}", {"op": "replace", "path": "externalId", "value": "somebody-else"})
        elif how == "invalid-grant":
            provider.answers = [Denied(Refusal("sign-in-over", "invalid_grant"))]
            stage.clock.advance(timedelta(seconds=40))
            assert Revalidation(stage.ctx, provider).step()
        provider.names = SCIM
        provider.is_down = True
        client.cookies.clear()
        done, _ = come_in(client, stage, key)
        assert done.status_code == (403 if code else 204), done.text
        assert (done.json()["code"] if code else "") == code
