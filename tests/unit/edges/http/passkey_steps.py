"""What people and their software authenticators do over HTTP, step by step."""

import html
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from fastapi.testclient import TestClient

from gateway.core.obligation import Obligations, StepUp
from gateway.core.principal import User
from gateway.demo.passkey import SoftPasskey
from tests.unit.edges.stage import Stage
from tests.unit.edges.trusting_provider import TrustingProvider

ORIGIN = "http://testserver"
PROOF = Obligations(step_up=StepUp.WEBAUTHN, max_auth_age=timedelta(minutes=10))
ASK = {"target": "orders-db", "level": "admin", "reason": "melting", "incident": "INC-1042"}


def fresh(stage: Stage, provider: TrustingProvider) -> None:
    provider.claims["auth_time"] = int(stage.clock.now().timestamp())


def page_csrf(client: TestClient) -> str:
    page = client.get("/passkeys")
    assert page.status_code == 200, page.text
    found = re.search(r'data-csrf="([^"]*)"|name="csrf" value="([^"]*)"', page.text)
    assert found
    return html.unescape(found[1] or found[2])


def register(client: TestClient, key: SoftPasskey, bend: Callable[[dict[str, Any]], None] = lambda _: None) -> Any:
    csrf = page_csrf(client)
    begun = client.post("/api/passkeys/begin", json={"csrf": csrf})
    if begun.status_code != 200:
        return begun
    answer = key.create(begun.json())
    bend(answer)
    return client.post("/api/passkeys/finish", json={"csrf": csrf, "name": "blue key", "credential": answer})


def alice(stage: Stage) -> User:
    with stage.ctx.store.read() as uow:
        found = uow.users.by_name("alice")
    assert found is not None
    return found


def headers(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def start(client: TestClient, token: str) -> str:
    begun = client.post("/api/step-up", headers=headers(token))
    assert begun.status_code == 201, begun.text
    return str(begun.json()["code"])


def prove(client: TestClient, code: str, key: SoftPasskey) -> Any:
    begun = client.post("/api/step-up/begin", json={"code": code})
    if begun.status_code != 200:
        return begun
    return client.post("/api/step-up/finish", json={"code": code, "credential": key.get(begun.json())})
