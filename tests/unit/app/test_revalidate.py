"""Who is disabled at the provider is out; a provider that is down signs nobody out; groups follow."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gateway.app.authenticate import authenticate
from gateway.app.browser_session import authenticate_web, provider_session_of
from gateway.app.device_flow import confirm_device, poll_device, start_device
from gateway.app.identity import ClaimNames, NotSignedIn, Refreshed, SignedClaims
from gateway.app.provider_logout import provider_logout
from gateway.app.request_access import Ask, request_access
from gateway.app.revalidate import Revalidation
from gateway.app.sign_in import SignedIn, derived
from gateway.app.sign_ins import CHECK_EVERY
from gateway.app.web_login import begin_web_login, complete_web_login
from gateway.core.errors import Denied, Refusal, Unavailable
from gateway.core.grant import Grant
from gateway.core.principal import User
from tests.unit.edges.stage import Stage, make_stage
from tests.unit.edges.trusting_provider import TrustingProvider

PLANTED = "rt-planted-secret-0123456789"
STILL_WELCOME = Refreshed(SignedClaims({}), tells_groups=False)
OVER = Denied(Refusal("sign-in-over", "the identity provider no longer vouches for this sign-in"))
DOWN = Unavailable(Refusal("provider-unavailable", "The identity provider cannot be used now."))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = make_stage(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def provider() -> TrustingProvider:
    return TrustingProvider(refresh_token=PLANTED, answers=[STILL_WELCOME], claims={"sid": "sid-1"})


def sign_in(stage: Stage, provider: TrustingProvider, name: str = "oncall") -> SignedIn:
    start = begin_web_login(stage.ctx, provider, "127.0.0.1")
    return complete_web_login(stage.ctx, provider, secret=start.secret, state=derived(start.secret, "state"), code=name)


def cli_of(stage: Stage, web: SignedIn) -> str:
    start = start_device(stage.ctx, "10.0.0.7")
    confirm_device(stage.ctx, web.user, start.user_code, "10.0.0.7", provider_session_of(stage.ctx, web.secret))
    done = poll_device(stage.ctx, start.device_code)
    assert isinstance(done, SignedIn)
    return done.secret


def arrange_grant(stage: Stage, user: User) -> Grant:
    grant = request_access(stage.ctx, user, Ask("orders-db", "read", timedelta(hours=8), "slow", "INC-1042")).grant
    assert grant is not None
    return grant


def confirmed_at(stage: Stage, user: User) -> datetime | None:
    with stage.store.read() as uow:
        return uow.users.confirmed_at(user.id)


def later(stage: Stage, revalidation: Revalidation) -> bool:
    stage.clock.advance(CHECK_EVERY + timedelta(seconds=1))
    return revalidation.step()


def is_in(stage: Stage, web: SignedIn) -> bool:
    try:
        authenticate_web(stage.ctx, web.secret)
    except NotSignedIn:
        return False
    return True


def test_refresh_tokens_are_not_in_the_database(stage: Stage, provider: TrustingProvider) -> None:
    sign_in(stage, provider)
    provider.answers = [Refreshed(SignedClaims({}), tells_groups=False, refresh_token="rt-second-planted")]
    later(stage, Revalidation(stage.ctx, provider))
    assert provider.asked == [PLANTED]
    assert PLANTED not in stage.dump()
    assert "rt-second-planted" not in stage.dump()
    later(stage, Revalidation(stage.ctx, provider))  # another process, after a restart
    assert provider.asked == [PLANTED, "rt-second-planted"]


def test_who_is_disabled_at_the_provider_is_out_within_a_minute(stage: Stage, provider: TrustingProvider) -> None:
    web = sign_in(stage, provider)
    token = cli_of(stage, web)
    grant = arrange_grant(stage, web.user)
    revalidation = Revalidation(stage.ctx, provider)
    assert later(stage, revalidation) is False
    assert authenticate(stage.ctx, token).id == web.user.id
    assert confirmed_at(stage, web.user) is not None
    provider.answers = [OVER]
    began = stage.clock.now()
    assert later(stage, revalidation) is True
    assert stage.clock.now() - began < timedelta(minutes=1)
    assert not is_in(stage, web)
    with pytest.raises(NotSignedIn):
        authenticate(stage.ctx, token)
    with stage.store.read() as uow:
        kept = uow.grants.get(grant.id)
    assert kept is not None
    assert kept.revoked_at is not None  # and with it every live session, and the SSH door for its certificate
    assert confirmed_at(stage, web.user) is None  # nor does a passkey let them in, should the provider go down now
    assert ("login:ended-by-provider", "ok") in stage.events()
    later(stage, revalidation)
    assert len(provider.asked) == 2  # what is over is not asked about again


def test_a_provider_that_is_down_signs_nobody_out(stage: Stage, provider: TrustingProvider) -> None:
    web, other = sign_in(stage, provider), sign_in(stage, provider, "lead")
    grant = arrange_grant(stage, web.user)
    revalidation = Revalidation(stage.ctx, provider)
    provider.answers = [DOWN]
    for _ in range(20):
        assert later(stage, revalidation) is False
    assert is_in(stage, web)
    assert is_in(stage, other)
    with stage.store.read() as uow:
        kept = uow.grants.get(grant.id)
    assert kept is not None
    assert kept.revoked_at is None
    assert stage.events().count(("provider:unreachable", "failed")) == 1  # told once, not at every try
    assert len(provider.asked) <= 40  # and at most two at once before the rest of a round is spared
    provider.answers = [STILL_WELCOME]
    later(stage, revalidation)
    assert stage.events().count(("provider:reachable", "ok")) == 1


def test_a_sign_in_elsewhere_keeps_the_person_in(stage: Stage, provider: TrustingProvider) -> None:
    first = sign_in(stage, provider)
    grant = arrange_grant(stage, first.user)
    provider.claims, provider.refresh_token = {"sid": "sid-2"}, ""
    second = sign_in(stage, provider)
    provider.answers = [OVER]
    later(stage, Revalidation(stage.ctx, provider))
    assert not is_in(stage, first)
    assert is_in(stage, second)
    with stage.store.read() as uow:
        assert uow.grants.get(grant.id).revoked_at is None


def test_a_sign_in_that_has_run_out_is_not_asked_about_and_nothing_is_concluded(
    stage: Stage, provider: TrustingProvider
) -> None:
    web = sign_in(stage, provider)
    stage.clock.advance(stage.ctx.limits.web_session_lifetime)
    grant = arrange_grant(stage, web.user)
    provider.answers = [OVER]
    assert later(stage, Revalidation(stage.ctx, provider)) is False
    assert provider.asked == []
    with stage.store.read() as uow:
        assert uow.grants.get(grant.id).revoked_at is None


def test_groups_follow_the_provider(stage: Stage, provider: TrustingProvider) -> None:
    provider.claims = {"groups": ["engineers", "leads"]}
    web = sign_in(stage, provider)
    revalidation = Revalidation(stage.ctx, provider)
    provider.answers = [Refreshed(SignedClaims({"sub": "sub-oncall", "groups": ["engineers"]}), tells_groups=True)]
    assert later(stage, revalidation) is True  # policy is asked again about every live session
    assert authenticate_web(stage.ctx, web.secret).groups == {"engineers"}
    assert ("user:groups-changed", "ok") in stage.events()
    assert later(stage, revalidation) is False
    told_at = confirmed_at(stage, web.user)
    assert told_at == stage.clock.now()
    provider.answers = [Refreshed(SignedClaims({"sub": "sub-oncall", "groups": 7}), tells_groups=True)]
    assert later(stage, revalidation) is False
    provider.answers = [STILL_WELCOME]
    assert later(stage, revalidation) is False
    provider.answers = [Refreshed(SignedClaims({"groups": ["leads"]}), tells_groups=True)]  # about whom?
    assert later(stage, revalidation) is False
    assert authenticate_web(stage.ctx, web.secret).groups == {"engineers"}
    assert confirmed_at(stage, web.user) == told_at  # what was not told again grows old


@pytest.mark.parametrize(
    "answer",
    [
        Refreshed(SignedClaims({"sub": "sub-mallory", "groups": ["leads"]}), tells_groups=True, refresh_token="rt-2"),
        Refreshed(SignedClaims({}), tells_groups=False, refresh_token="rt-2", flaw="userinfo is down"),
    ],
)
def test_an_answer_that_is_not_about_the_person_replaces_the_token_and_nothing_else(
    stage: Stage, provider: TrustingProvider, answer: Refreshed
) -> None:
    provider.claims = {"groups": ["engineers"]}
    web = sign_in(stage, provider)
    told_at = confirmed_at(stage, web.user)
    provider.answers = [answer]
    revalidation = Revalidation(stage.ctx, provider)
    for _ in range(3):
        assert later(stage, revalidation) is False
    assert provider.asked == [PLANTED, "rt-2", "rt-2"]
    assert authenticate_web(stage.ctx, web.secret).groups == {"engineers"}
    assert confirmed_at(stage, web.user) == told_at
    assert stage.events().count(("provider:unclear", "failed")) == 1
    with stage.store.read() as uow:
        (kept,) = uow.provider_sessions.alive(user=web.user.id)
    assert kept.failures == 3
    good = Refreshed(SignedClaims({"sub": "sub-oncall", "groups": ["leads"]}), tells_groups=True)
    provider.answers = [good, good, good, good, answer]
    assert later(stage, revalidation) is True
    later(stage, revalidation)
    assert stage.events().count(("provider:unclear", "failed")) == 2  # told again once it had been well


def test_groups_of_scim_are_not_read_from_claims(stage: Stage, provider: TrustingProvider) -> None:
    provider.names = ClaimNames(from_scim=True)
    provider.claims = {"groups": ["leads"]}
    web = sign_in(stage, provider)
    assert web.user.groups == frozenset()
    provider.answers = [Refreshed(SignedClaims({"groups": ["leads"]}), tells_groups=True)]
    assert later(stage, Revalidation(stage.ctx, provider)) is False


def test_two_processes_share_the_checks(stage: Stage, provider: TrustingProvider) -> None:
    for name in ("oncall", "lead", "developer"):
        sign_in(stage, provider, name)
    stage.clock.advance(CHECK_EVERY)
    one, other = Revalidation(stage.ctx, provider), Revalidation(stage.ctx, provider)
    one.step()
    other.step()
    assert len(provider.asked) == 3


# ---------------------------------------------------------------- back-channel logout


def test_a_logout_at_the_provider_ends_browser_command_line_and_grants(
    stage: Stage, provider: TrustingProvider
) -> None:
    web = sign_in(stage, provider)
    token = cli_of(stage, web)
    grant = arrange_grant(stage, web.user)
    bystander = sign_in(stage, TrustingProvider(claims={"sid": "sid-9"}), "lead")
    assert provider_logout(stage.ctx, provider, ",sid-1,j1", "10.0.0.9") == 1
    assert not is_in(stage, web)
    with pytest.raises(NotSignedIn):
        authenticate(stage.ctx, token)
    with stage.store.read() as uow:
        assert uow.grants.get(grant.id).revoked_at is not None
    assert is_in(stage, bystander)


def test_a_logout_of_one_session_leaves_the_other_sign_in(stage: Stage, provider: TrustingProvider) -> None:
    first = sign_in(stage, provider)
    provider.claims = {"sid": "sid-2"}
    second = sign_in(stage, provider)
    provider_logout(stage.ctx, provider, "sub-oncall,sid-2,j1", "10.0.0.9")
    assert is_in(stage, first)
    assert not is_in(stage, second)
    provider_logout(stage.ctx, provider, "sub-oncall,,j2", "10.0.0.9")
    assert not is_in(stage, first)


@pytest.mark.parametrize("token", ["sub-lead,sid-1,j", ",sid-7,j", "nobody,,j"])
def test_a_logout_that_names_nobody_here_ends_nothing(stage: Stage, provider: TrustingProvider, token: str) -> None:
    web = sign_in(stage, provider)
    assert provider_logout(stage.ctx, provider, token, "10.0.0.9") == 0
    assert is_in(stage, web)


def test_one_provider_cannot_sign_out_people_of_another(stage: Stage, provider: TrustingProvider) -> None:
    web = sign_in(stage, provider)
    evil = TrustingProvider(name="partner", issuer="https://partner.example")
    for token in ("sub-oncall,,j1", ",sid-1,j2", "sub-oncall,sid-1,j3"):
        assert provider_logout(stage.ctx, evil, token, "10.0.0.9") == 0
    assert is_in(stage, web)


def test_a_logout_token_is_used_once(stage: Stage, provider: TrustingProvider) -> None:
    sign_in(stage, provider)
    provider_logout(stage.ctx, provider, "sub-oncall,,j1", "10.0.0.9")
    stage.clock.advance(timedelta(seconds=1))
    web = sign_in(stage, provider)
    with pytest.raises(Denied) as no:
        provider_logout(stage.ctx, provider, "sub-oncall,,j1", "10.0.0.9")
    assert no.value.refusal.code == "logout-replayed"
    assert is_in(stage, web)


def test_logout_tokens_that_do_not_verify_are_bounded(stage: Stage, provider: TrustingProvider) -> None:
    with pytest.raises(Denied):
        provider_logout(stage.ctx, provider, "sub-oncall,,", "10.0.0.9")
    assert ("logout:denied", "denied") in stage.events()
    for _ in range(599):
        with pytest.raises(Denied):
            provider_logout(stage.ctx, provider, "sub-oncall,,", "10.0.0.9")
    with pytest.raises(Denied) as no:
        provider_logout(stage.ctx, provider, "sub-oncall,,j", "10.0.0.9")
    assert no.value.refusal.code == "too-many-attempts"
