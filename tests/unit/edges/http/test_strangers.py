"""Whoever has proved nothing can knock as often as they like: the log, which only grows, tells of it in bounds."""

import base64
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute, Route

from gateway.adapters.issuer_keys import IssuerKeys
from gateway.adapters.job_tokens import SignedJobTokens
from gateway.adapters.webauthn import WebAuthnRelyingParty
from gateway.app import journal
from gateway.app.api_tokens import READ_AUDIT, WRITE_SCIM, authenticate_machine, create_api_token
from gateway.app.attempts import WINDOW
from gateway.app.device_flow import STARTS_PER_WINDOW as STARTS
from gateway.app.open_session import user_of_ticket
from gateway.app.place import origin_of
from gateway.app.providers import Providers
from gateway.app.refuse_stranger import MOST_TOLD, refuse_stranger
from gateway.app.sign_in import derived
from gateway.app.ssh_sign_in import BAD_TICKET
from gateway.core.errors import Denied, Refusal
from gateway.core.target import Kind
from gateway.edges.http.app import create_app
from gateway.edges.http.routes_oauth import EXCHANGE
from gateway.edges.proxy.ssh_door import doorkeeper
from tests.pipelines import Pipelines, pipelines
from tests.unit.edges.device import DeviceClient
from tests.unit.edges.http.conftest import DOORS
from tests.unit.edges.http.test_login import state_of
from tests.unit.edges.stage import Stage
from tests.unit.edges.trusting_provider import TrustingProvider

KNOCKS = 300
QUIET_KNOCKS = 30  # where none may leave anything; more than the codes that may be guessed
Knock = Callable[["Outside", int], httpx2.Response]


class Outside:
    """Somebody at one address, with a code of a terminal of their own, while an issuer's keys are away."""

    def __init__(self, ci: Pipelines, client: TestClient, code: str) -> None:
        self.ci, self.client, self.code = ci, client, code

    def callback(self, number: int) -> httpx2.Response:
        """Every other time with a cookie that was made up, else with a sign-in of their own and a wrong code."""
        if number % 2:
            secret = f"made-up-{number}"
            self.client.cookies.set("gw-login", secret)
            return self.client.get("/callback", params={"state": derived(secret, "state"), "code": "x"})
        state = state_of(self.client.get("/login").headers["location"])
        return self.client.get("/callback", params={"state": state, "code": "x", "iss": "https://evil.example"})

    def exchange(self, number: int) -> httpx2.Response:
        token = _unsigned(self.ci.github.url) if number % 2 else f"no.token.{number}"
        kind = "urn:ietf:params:oauth:token-type:jwt"
        form = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": kind}
        return self.client.post("/oauth/token", data=form)


def _unsigned(issuer: str) -> str:
    parts = ({"alg": "RS256", "kid": "x", "typ": "JWT"}, {"iss": issuer})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + ".AA"


def _gets(path: str) -> Knock:
    return lambda out, number: out.client.get(path, params={"user_code": f"BCDF-{number}"})


def _posts(path: str, **body: object) -> Knock:
    return lambda out, number: out.client.post(path, json={"code": f"BCDF-{number}", **body})


def _sends(path: str, **form: str) -> Knock:
    return lambda out, number: out.client.post(path, data={"csrf": f"{number}", **form})


def _own(path: str, **body: object) -> Knock:
    """With the code that the stranger's own terminal shows."""
    return lambda out, _: out.client.post(path, json={"code": out.code, **body})


_GARBAGE = {"id": "x"}
_CALM = (
    "/", "/api/openapi.json", "/api/log/key", "/api/ssh/target-ca", "/api/ssh/krl", "/healthz", "/api/door",
    "/.well-known/oauth-authorization-server", "/oauth/jwks", "/login", "/device", "/passkeys", "/step-up",
    "/emergency", "/callback/{provider}",
)  # fmt: skip
# How each route that asks nobody who they are is made to say no. A new one is written here on purpose.
PUBLIC: dict[tuple[str, str], Knock] = {
    **{("GET", path): _gets(path.replace("{provider}", "oidc")) for path in _CALM},
    ("GET", "/callback"): Outside.callback,
    ("POST", "/oauth/token"): Outside.exchange,
    ("POST", "/api/emergency/begin"): _own("/api/emergency/begin"),
    ("POST", "/api/emergency/finish"): _own("/api/emergency/finish", credential=_GARBAGE),
    ("POST", "/api/step-up/begin"): _posts("/api/step-up/begin"),
    ("POST", "/api/step-up/finish"): _posts("/api/step-up/finish", credential=_GARBAGE),
    ("POST", "/api/device/code"): _sends("/api/device/code"),
    ("POST", "/api/device/token"): _posts("/api/device/token", device_code="gwv_x"),
    ("POST", "/api/backchannel-logout/{provider}"): _sends("/api/backchannel-logout/oidc", logout_token=",,"),
    ("POST", "/logins/revoke"): _sends("/logins/revoke", id="x", login="x"),
    ("POST", "/passkeys/remove"): _sends("/passkeys/remove", id="x"),
    ("POST", "/device"): _sends("/device", user_code="BCDF-GHJK", answer="confirm"),
    ("POST", "/step-up"): _sends("/step-up", user_code="BCDF-GHJK", code="BCDF-GHJK"),
}

LOUD = {
    ("GET", "/callback"), ("POST", "/oauth/token"), ("POST", "/api/emergency/begin"),
    ("POST", "/api/emergency/finish"), ("POST", "/api/device/code"), ("POST", "/api/backchannel-logout/{provider}"),
}  # fmt: skip


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    provider = TrustingProvider()
    with pipelines(tmp_path) as ci:
        away = SignedJobTokens(IssuerKeys(ci.stage.clock, httpx2.MockTransport(lambda _: httpx2.Response(503))))
        ctx = replace(ci.stage.ctx, job_tokens=away)
        app = create_app(
            ctx, Providers([provider]), DOORS, public_url="http://testserver",
            passkeys=WebAuthnRelyingParty("http://testserver"),
        )  # fmt: skip
        with DeviceClient(app, follow_redirects=False, raise_server_exceptions=False) as client:
            yield Outside(ci, client, client.post("/api/device/code").json()["user_code"])
        away.close()


def _routes(routes: Sequence[BaseRoute]) -> Iterator[tuple[str, str]]:
    for route in routes:
        if isinstance(route, Route | APIRoute):
            yield from ((method, route.path) for method in (route.methods or set()) - {"HEAD", "OPTIONS"})
        elif (router := getattr(route, "original_router", None)) is not None:
            yield from _routes(router.routes)


def _asks_who(client: TestClient, method: str, path: str) -> bool:
    answer = client.request(method, path.replace("{", "").replace("}", "").replace(":path", ""))
    return answer.status_code == 401


def test_every_route_that_strangers_reach_is_knocked_at(outside: Outside) -> None:
    found = set(_routes(outside.client.app.routes))  # type: ignore[attr-defined]
    assert len(found) > 80
    assert {known for known in found if not _asks_who(outside.client, *known)} == set(PUBLIC)


@pytest.mark.parametrize("route", sorted(PUBLIC), ids=" ".join)
def test_strangers_do_not_fill_the_log(outside: Outside, route: tuple[str, str]) -> None:
    before = len(outside.ci.stage.events())
    times = KNOCKS if route in LOUD else QUIET_KNOCKS
    statuses = {PUBLIC[route](outside, number).status_code for number in range(times)}
    told = Counter(outside.ci.stage.events()[before:])
    most = STARTS if route == ("POST", "/api/device/code") else MOST_TOLD
    assert sum(told.values()) <= most, told
    assert 500 not in statuses
    assert bool(told) is (route in LOUD), (told, statuses)


def test_a_cookie_that_was_made_up_leaves_nothing(outside: Outside) -> None:
    before = len(outside.ci.stage.events())
    assert outside.callback(1).status_code == 401
    assert outside.ci.stage.events()[before:] == []


def test_each_address_has_bounds_of_its_own_and_time_lifts_them(stage: Stage) -> None:
    no = Refusal("no", "No.")

    def knock(client: str, kind: str = "login:failed") -> int:
        before = len(stage.events())
        assert refuse_stranger(stage.ctx, client, kind, no).refusal == no
        return len(stage.events()) - before

    assert [knock(f"[2001:db8::{n:x}]:40000") for n in range(MOST_TOLD + 1)] == [1] * MOST_TOLD + [0]
    assert knock("2001:db8::ffff") == 0
    assert knock("2001:db8:0:1::1") == knock("192.0.2.1:5") == knock("2001:db8::1", "logout:denied") == 1
    stage.clock.advance(WINDOW)
    assert knock("2001:db8::1") == 1


@pytest.mark.parametrize(
    ("client", "origin"),
    [
        ("192.0.2.1", "192.0.2.1"), ("192.0.2.1:5432", "192.0.2.1"), ("[2001:db8::1]:22", "2001:db8::/64"),
        ("2001:db8::1", "2001:db8::/64"), ("2001:db8::1:5432", "2001:db8::/64"), ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::1]:22", "loopback"), ("127.0.0.1:1", "loopback"), ("unknown", ""), ("", ""), ("testclient", "testclient"),
    ],
)  # fmt: skip
def test_where_somebody_comes_from(client: str, origin: str) -> None:
    assert origin_of(client) == origin


@pytest.mark.parametrize("door", [Kind.POSTGRES, Kind.SSH])
def test_names_that_were_made_up_at_the_doors(stage: Stage, door: Kind) -> None:
    before = len(stage.events())
    for number in range(KNOCKS):
        with pytest.raises(Denied):
            user_of_ticket(stage.ctx, f"nobody-{number}", f"x{number}", f"db-{number}", door, f"192.0.2.1:{number}")
    assert Counter(stage.events()[before:]) == {("session:denied", "denied"): MOST_TOLD}


def test_refused_logins_of_one_address_at_the_ssh_door(stage: Stage) -> None:
    refused = doorkeeper(stage.ctx).refused
    before = len(stage.events())
    for number in range(KNOCKS):
        stage.clock.advance(timedelta(seconds=1))
        refused(f"nobody-{number}", f"192.0.2.1:{number}", BAD_TICKET)
        refused(f"nobody-{number}", f"192.0.2.1:{number}", Refusal("certificate-foreign", "No."))
    assert Counter(stage.events()[before:]) == {("ssh:refused", "denied"): MOST_TOLD}


def test_a_token_of_another_scope(stage: Stage) -> None:
    made = create_api_token(stage.ctx, stage.user("lead"), "siem", [READ_AUDIT], timedelta(days=9))
    before = len(stage.events())
    for _ in range(KNOCKS):
        with pytest.raises(Denied):
            authenticate_machine(stage.ctx, made.secret, WRITE_SCIM, "192.0.2.1")
    assert Counter(stage.events()[before:]) == {("token:denied", "denied"): MOST_TOLD}


def test_people_do_not_fill_the_log_either(stage: Stage) -> None:
    no = Refusal("no", "No.")

    def told(principal: str, kind: str = "request:denied") -> int:
        before = len(stage.events())
        assert journal.refuse(stage.ctx, kind, no, principal=principal).refusal == no
        return len(stage.events()) - before

    def says_last() -> list[int]:
        with closing(sqlite3.connect(stage.database)) as database:
            rows = database.execute("SELECT leaf FROM event ORDER BY ordinal").fetchall()
        return [n for n, (leaf,) in enumerate(rows, start=1) if b"is_last_told" in leaf]

    most = journal.MOST_REFUSALS
    assert [told("mallory") for _ in range(most + 2)] == [1] * most + [0, 0]
    assert says_last() == [most]
    assert told("oncall") == told("mallory", "token:denied") == 1
    stage.clock.advance(WINDOW)
    assert told("mallory") == 1
