from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app.authenticate import authenticate, sign_out
from gateway.app.browser_session import authenticate_web
from gateway.app.identity import ClaimNames, NotSignedIn, SignedClaims, person_of, user_id_of
from gateway.app.shut_out import disable_user, enable_user
from gateway.app.sign_in import SignedIn, derived
from gateway.app.web_login import begin_web_login, complete_web_login, local_path
from gateway.core.decision import Action
from gateway.core.errors import Conflict, Denied, NotFound, Refusal
from gateway.core.principal import User
from tests.unit.edges.stage import ISSUER, Stage, make_stage
from tests.unit.edges.trusting_provider import TrustingProvider


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = make_stage(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def provider() -> TrustingProvider:
    return TrustingProvider()


def sign_in(stage: Stage, provider: TrustingProvider, name: str) -> SignedIn:
    start = begin_web_login(stage.ctx, provider, "127.0.0.1")
    state = derived(start.secret, "state")
    return complete_web_login(stage.ctx, provider, secret=start.secret, state=state, code=name)


def test_the_person_is_whoever_the_provider_says(stage: Stage, provider: TrustingProvider) -> None:
    provider.claims = {"groups": ["engineers", "leads"], "email": "a@evil@corp.test", "email_verified": False}
    done = sign_in(stage, provider, "oncall")
    assert done.user.name == "oncall"
    assert done.user.id == user_id_of(ISSUER, "sub-oncall")
    assert done.user.groups == {"engineers", "leads"}
    assert authenticate_web(stage.ctx, done.secret) == done.user
    assert ("login:succeeded", "ok") in stage.events()


def test_pkce_and_nonce_belong_to_one_login(stage: Stage, provider: TrustingProvider) -> None:
    from base64 import urlsafe_b64encode
    from hashlib import sha256

    sign_in(stage, provider, "oncall")
    challenge = urlsafe_b64encode(sha256(provider.seen["verifier"].encode()).digest()).rstrip(b"=").decode()
    assert challenge == provider.seen["challenge"]
    assert provider.seen["nonce"] == provider.seen["redeemed_nonce"]
    assert len({provider.seen[name] for name in ("state", "nonce", "verifier")}) == 3
    assert 43 <= len(provider.seen["verifier"]) <= 128  # RFC 7636 §4.1


def test_a_login_is_finished_once_and_by_the_browser_that_began_it(stage: Stage, provider: TrustingProvider) -> None:
    mine = begin_web_login(stage.ctx, provider, "127.0.0.1")
    theirs = begin_web_login(stage.ctx, provider, "127.0.0.1")
    with pytest.raises(NotSignedIn):
        complete_web_login(
            stage.ctx, provider, secret=mine.secret, state=derived(theirs.secret, "state"), code="mallory"
        )
    state = derived(mine.secret, "state")
    assert complete_web_login(stage.ctx, provider, secret=mine.secret, state=state, code="oncall").user.name == "oncall"
    with pytest.raises(NotSignedIn):
        complete_web_login(stage.ctx, provider, secret=mine.secret, state=state, code="oncall")
    assert ("login:failed", "denied") in stage.events()


@pytest.mark.parametrize("secret", ["", "unknown", "x" * 10_000])
def test_a_callback_that_nobody_began_is_refused_without_filling_the_log(
    stage: Stage, provider: TrustingProvider, secret: str
) -> None:
    with pytest.raises(NotSignedIn):
        complete_web_login(stage.ctx, provider, secret=secret, state="x", code="oncall")
    assert stage.events() == []


def test_a_login_in_flight_grows_stale(stage: Stage, provider: TrustingProvider) -> None:
    start = begin_web_login(stage.ctx, provider, "127.0.0.1")
    stage.clock.advance(timedelta(minutes=11))
    with pytest.raises(NotSignedIn):
        complete_web_login(stage.ctx, provider, secret=start.secret, state=derived(start.secret, "state"), code="a")


def test_an_answer_of_another_issuer_is_a_mix_up(stage: Stage, provider: TrustingProvider) -> None:
    start = begin_web_login(stage.ctx, provider, "127.0.0.1")
    with pytest.raises(NotSignedIn) as no:
        complete_web_login(
            stage.ctx, provider, secret=start.secret, state=derived(start.secret, "state"), code="a",
            issuer="https://evil.example",
        )  # fmt: skip
    assert no.value.refusal.code == "issuer-mismatch"


def test_a_code_that_the_provider_refuses_signs_nobody_in(stage: Stage, provider: TrustingProvider) -> None:
    provider.refuses = True
    with pytest.raises(NotSignedIn):
        sign_in(stage, provider, "oncall")
    assert ("login:failed", "denied") in stage.events()


def test_groups_follow_the_claims_at_each_login(stage: Stage, provider: TrustingProvider) -> None:
    provider.claims = {"groups": ["leads"]}
    sign_in(stage, provider, "lead")
    provider.claims = {}
    assert sign_in(stage, provider, "lead").user.groups == frozenset()


def test_a_name_is_never_taken_over(stage: Stage, provider: TrustingProvider) -> None:
    sign_in(stage, provider, "oncall")
    provider.claims = {"sub": "another"}
    with pytest.raises(NotSignedIn) as no:
        sign_in(stage, provider, "oncall")
    assert no.value.refusal.code == "name-taken"


@pytest.mark.parametrize(
    "claims",
    [
        {"preferred_username": None}, {"preferred_username": "Big Name"}, {"preferred_username": "a\x1b[31m"},
        {"preferred_username": "a/b"}, {"preferred_username": ".a"}, {"preferred_username": "a" * 64},
        {"preferred_username": 7}, {"sub": ""}, {"sub": None}, {"sub": "x" * 256}, {"iss": None},
        {"groups": "leads"}, {"groups": [1]}, {"groups": ["a\nb"]}, {"groups": ["g"] * 501},
    ],
)  # fmt: skip
def test_claims_that_lack_something_are_a_no(claims: dict[str, object]) -> None:
    good = {"iss": ISSUER, "sub": "s", "preferred_username": "oncall", "groups": ["a"]}
    assert isinstance(person_of(SignedClaims(good), ClaimNames()), User)
    assert isinstance(person_of(SignedClaims({**good, **claims}), ClaimNames()), Refusal)


def test_an_identity_is_issuer_and_subject_together() -> None:
    ids = {user_id_of("ab", "c"), user_id_of("a", "bc"), user_id_of("ab", "d")}
    assert len(ids) == 3
    assert all(len(each) == 30 and each.startswith("usr_") for each in ids)


def test_a_bearer_is_worth_its_time_only(stage: Stage) -> None:
    user = stage.user("oncall")
    token = stage.token(user)
    assert authenticate(stage.ctx, token) == user
    stage.clock.advance(timedelta(hours=12))
    with pytest.raises(NotSignedIn):
        authenticate(stage.ctx, token)


def test_credentials_of_one_purpose_open_nothing_else(stage: Stage) -> None:
    user = stage.user("oncall")
    for purpose in ("web", "ticket", "device", "login", "attempts"):
        with pytest.raises(NotSignedIn):
            authenticate(stage.ctx, stage.token(user, purpose))
    with pytest.raises(NotSignedIn):
        authenticate_web(stage.ctx, stage.token(user, "cli"))


def test_secrets_are_stored_as_digests_only(stage: Stage, provider: TrustingProvider) -> None:
    start = begin_web_login(stage.ctx, provider, "127.0.0.1")
    state = derived(start.secret, "state")
    done = complete_web_login(stage.ctx, provider, secret=start.secret, state=state, code="oncall")
    stored = stage.dump()
    for secret in (start.secret, done.secret, state, provider.seen["verifier"], provider.seen["nonce"]):
        assert secret not in stored
    assert done.secret not in repr(done)
    assert start.secret not in repr(start)


def test_signing_out_ends_that_credential_only(stage: Stage) -> None:
    user = stage.user("oncall")
    one, other = stage.token(user), stage.token(user)
    sign_out(stage.ctx, one)
    sign_out(stage.ctx, one)
    sign_out(stage.ctx, "gwc_unknown")
    with pytest.raises(NotSignedIn):
        authenticate(stage.ctx, one)
    assert authenticate(stage.ctx, other) == user


def test_a_disabled_person_is_out_and_stays_out(stage: Stage, provider: TrustingProvider) -> None:
    woken: list[bool] = []
    stage.ctx = replace(stage.ctx, wake=lambda: woken.append(True))
    lead = stage.user("lead")
    done = sign_in(stage, provider, "oncall")
    token = stage.token(done.user)
    gone = disable_user(stage.ctx, lead, "oncall", "left the company")
    assert not gone.is_enabled()
    assert woken
    for purpose in (lambda: authenticate(stage.ctx, token), lambda: authenticate_web(stage.ctx, done.secret)):
        with pytest.raises(NotSignedIn):
            purpose()
    with pytest.raises(NotSignedIn) as no:
        sign_in(stage, provider, "oncall")
    assert no.value.refusal.code == "user-disabled"
    with pytest.raises(Conflict):
        disable_user(stage.ctx, lead, "oncall")
    enable_user(stage.ctx, lead, "oncall")
    with pytest.raises(NotSignedIn):
        authenticate(stage.ctx, token)  # what was removed does not come back
    assert sign_in(stage, provider, "oncall").user.is_enabled()
    assert ("user:disabled", "ok") in stage.events()


def test_disabling_needs_the_right_to_administer(stage: Stage) -> None:
    developer, victim = stage.user("developer"), stage.user("oncall")
    stage.forbid(Action.ADMINISTER)
    with pytest.raises(Denied):
        disable_user(stage.ctx, developer, "oncall")
    with pytest.raises(Denied):
        enable_user(stage.ctx, developer, "oncall")
    with stage.ctx.store.read() as uow:
        found = uow.users.get(victim.id)
    assert found is not None
    assert found.is_enabled()


def test_nobody_is_made_by_disabling(stage: Stage) -> None:
    with pytest.raises(NotFound):
        disable_user(stage.ctx, stage.user("lead"), "nobody")


def test_logins_from_one_address_are_limited(stage: Stage, provider: TrustingProvider) -> None:
    for _ in range(300):
        begin_web_login(stage.ctx, provider, "10.0.0.1")
    with pytest.raises(Denied) as no:
        begin_web_login(stage.ctx, provider, "10.0.0.1")
    assert no.value.refusal.code == "too-many-attempts"
    begin_web_login(stage.ctx, provider, "10.0.0.2")
    stage.clock.advance(timedelta(minutes=10))
    begin_web_login(stage.ctx, provider, "10.0.0.1")


@pytest.mark.parametrize(
    "evil",
    [
        "//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil", "javascript:alert(1)", "evil", "",
        "/\t/evil.example", "/\n/evil", "///evil", "/" + "a" * 600,
    ],
)  # fmt: skip
def test_only_local_paths_are_gone_on_to(evil: str) -> None:
    assert local_path(evil) == "/"


def test_local_paths_are_kept() -> None:
    assert local_path("/device?user_code=BCDF-GHJK") == "/device?user_code=BCDF-GHJK"


@given(st.text(max_size=40))
def test_no_text_leaves_the_site(text: str) -> None:
    from urllib.parse import urljoin

    import httpx2

    target = httpx2.URL(urljoin("https://gw.example/login", local_path(text)))
    assert target.host == "gw.example"
