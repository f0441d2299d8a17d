"""What a provider tells after the sign-in: that it still vouches (refresh), or that somebody signed out there."""

from datetime import timedelta
from typing import Any

import httpx2
import pytest
import stamina

from gateway.core.errors import Denied, Unavailable
from tests.fakes import FakeClock
from tests.unit.adapters.test_oidc import ISSUER, NOW, Idp, claims, provider_of, redeem

EVENT = "http://schemas.openid.net/event/backchannel-logout"
LOGOUT = {"typ": "logout+jwt", "alg": "RS256", "kid": "r1"}


@pytest.fixture
def idp() -> Idp:
    return Idp()


@pytest.fixture
def moving() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture(autouse=True)
def without_waiting() -> Any:
    with stamina.set_testing(True, attempts=2):
        yield


def answers(idp: Idp, status: int, **body: object) -> None:
    idp.bend = lambda request: httpx2.Response(status, json=body) if request.url.path == "/token" else None


def test_a_refresh_tells_of_groups_and_gives_the_next_token(idp: Idp, moving: FakeClock) -> None:
    token = idp.sign(claims(nonce=None, groups=["engineers"]))
    answers(idp, 200, access_token="at", token_type="Bearer", id_token=token, refresh_token="rt2")
    told = provider_of(idp, moving).refresh("rt1")
    assert told.claims["groups"] == ["engineers"]
    assert told.tells_groups
    assert told.refresh_token == "rt2"
    assert "rt2" not in repr(told)
    asked = next(call for call in idp.calls if call.url.path == "/token")
    assert b"grant_type=refresh_token" in asked.content
    assert b"refresh_token=rt1" in asked.content


def test_a_refresh_without_a_word_about_groups_changes_none(idp: Idp, moving: FakeClock) -> None:
    idp.userinfo = {"sub": "s1"}
    answers(idp, 200, access_token="at", token_type="Bearer")
    assert not provider_of(idp, moving).refresh("rt1").tells_groups
    idp.userinfo = {"sub": "s1", "groups": ["leads"]}
    told = provider_of(idp, moving).refresh("rt1")
    assert told.tells_groups
    assert told.claims["sub"] == "s1"
    assert told.refresh_token == ""


def test_only_invalid_grant_is_about_the_person(idp: Idp, moving: FakeClock) -> None:
    answers(idp, 400, error="invalid_grant")
    with pytest.raises(Denied):
        provider_of(idp, moving).refresh("rt1")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": "invalid_client"}), (401, {"error": "invalid_client"}), (400, {"error": "unauthorized_client"}),
        (400, {"error": "temporarily_unavailable"}), (500, {"error": "invalid_grant"}), (503, {}), (404, {}), (302, {}),
    ],
)  # fmt: skip
def test_everything_else_is_an_outage_and_signs_nobody_out(
    idp: Idp, moving: FakeClock, status: int, body: dict[str, object]
) -> None:
    answers(idp, status, **body)
    with pytest.raises(Unavailable):
        provider_of(idp, moving).refresh("rt1")
    asked = [call for call in idp.calls if call.url.path == "/token"]
    assert len(asked) == 2  # one lost answer is not half a minute of delay


@pytest.mark.parametrize("body", [{}, {"access_token": 7}, {"error": "slow_down"}, {"refresh_token": ["rt2"]}])
def test_after_a_200_the_old_token_is_not_sent_again(idp: Idp, moving: FakeClock, body: dict[str, object]) -> None:
    answers(idp, 200, **body)
    with pytest.raises(Unavailable):
        provider_of(idp, moving).refresh("rt1")
    assert len([call for call in idp.calls if call.url.path == "/token"]) == 1


@pytest.mark.parametrize("broken", ["/userinfo", "/jwks", "forged", "other", "no-access-token"])
def test_a_token_that_came_is_never_thrown_away(idp: Idp, moving: FakeClock, broken: str) -> None:
    """The provider replaces refresh tokens, and what it knows of the person cannot be had for a moment."""
    idp.userinfo = {"sub": "s2" if broken == "other" else "s1", "groups": ["leads"]}
    token = "x.y.z" if broken == "forged" else idp.sign(claims(nonce=None))
    access = {} if broken == "no-access-token" else {"access_token": "at"}
    body = {**access, "token_type": "Bearer", "id_token": token, "refresh_token": "rt2"}

    def bend(request: httpx2.Request) -> httpx2.Response | None:
        if request.url.path == "/token":
            return httpx2.Response(200, json=body)
        return httpx2.Response(503) if request.url.path == broken else None

    idp.bend = bend
    told = provider_of(idp, moving).refresh("rt1")
    assert (told.refresh_token, told.tells_groups, dict(told.claims)) == ("rt2", False, {})
    assert told.flaw
    assert len([call for call in idp.calls if call.url.path == "/token"]) == 1


def test_what_only_the_signed_token_may_say_is_not_taken_from_userinfo(idp: Idp, moving: FakeClock) -> None:
    idp.userinfo = {"sub": "s1", "auth_time": int(NOW.timestamp()), "sid": "sid-of-another", "amr": ["mfa"]}
    assert not {"auth_time", "sid", "amr"} & set(redeem(idp, moving, idp.sign(claims())))
    told = redeem(idp, moving, idp.sign(claims(auth_time=7, sid="mine")))
    assert (told["auth_time"], told["sid"]) == (7, "mine")


def logout_claims(**more: Any) -> dict[str, Any]:
    at = int(NOW.timestamp())
    good = {
        "iss": ISSUER, "aud": "gw", "iat": at, "exp": at + 120, "jti": "j1", "sub": "s1", "sid": "sid1",
        "events": {EVENT: {}},
    }  # fmt: skip
    return {key: value for key, value in {**good, **more}.items() if value is not None}


def test_a_good_logout_token(idp: Idp, moving: FakeClock) -> None:
    told = provider_of(idp, moving).verify_logout(idp.sign(logout_claims(), LOGOUT))
    assert (told.subject, told.sid, told.jti) == ("s1", "sid1", "j1")
    without_time_limit = idp.sign(logout_claims(exp=None, sid=None), {"alg": "RS256", "kid": "r1"})
    assert provider_of(idp, moving).verify_logout(without_time_limit).sid == ""


@pytest.mark.parametrize(
    "bent",
    [
        {"iss": "https://evil.example"}, {"aud": "somebody-else"}, {"aud": ["x"]}, {"iat": None}, {"iat": "now"},
        {"iat": int(NOW.timestamp()) + 300}, {"iat": int(NOW.timestamp()) - 3600}, {"exp": int(NOW.timestamp()) - 300},
        {"jti": None}, {"jti": ""}, {"jti": 7}, {"jti": "j" * 256}, {"sub": None, "sid": None}, {"sub": ["s1"]},
        {"events": None}, {"events": {}}, {"events": {EVENT: "x"}}, {"events": [EVENT]}, {"nonce": "n"},
    ],
)  # fmt: skip
def test_logout_tokens_that_are_none(idp: Idp, moving: FakeClock, bent: dict[str, Any]) -> None:
    with pytest.raises(Denied):
        provider_of(idp, moving).verify_logout(idp.sign(logout_claims(**bent), LOGOUT))


def test_an_id_token_signs_nobody_out(idp: Idp, moving: FakeClock) -> None:
    for token in (idp.sign(claims()), idp.sign(claims(nonce=None)), "", "a.b", "a.b.c"):
        with pytest.raises(Denied):
            provider_of(idp, moving).verify_logout(token)


def test_a_logout_token_of_another_kind_or_key_is_none(idp: Idp, moving: FakeClock) -> None:
    other = Idp()
    for token in (idp.sign(logout_claims(), {**LOGOUT, "typ": "at+jwt"}), other.sign(logout_claims(), LOGOUT)):
        with pytest.raises(Denied):
            provider_of(idp, moving).verify_logout(token)


def test_a_logout_token_grows_old(idp: Idp, moving: FakeClock) -> None:
    token = idp.sign(logout_claims(exp=None), LOGOUT)
    moving.advance(timedelta(minutes=11))
    with pytest.raises(Denied):
        provider_of(idp, moving).verify_logout(token)


def test_strangers_tokens_ask_a_provider_that_does_not_answer_no_more_often(idp: Idp, moving: FakeClock) -> None:
    """Each would take one of the few places for exchanges, which people who sign in need."""
    provider = provider_of(idp, moving)
    idp.bend = lambda request: httpx2.Response(500) if request.url.path == "/jwks" else None
    for number in range(20):
        with pytest.raises(Unavailable):
            provider.verify_logout(idp.sign(logout_claims(), {**LOGOUT, "kid": f"guess-{number}"}))
    assert sum(call.url.path == "/jwks" for call in idp.calls) == 1
    idp.bend = lambda _: None
    moving.advance(timedelta(seconds=5))
    assert provider.verify_logout(idp.sign(logout_claims(), LOGOUT)).sid
