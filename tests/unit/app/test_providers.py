"""Several identity providers: none can speak for another's people, and no answer of one finishes a login at another."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.adapters.system import SystemClock
from gateway.app.device_flow import confirm_device, find_device, start_device
from gateway.app.identity import ClaimNames, NotSignedIn, SignedClaims, person_of
from gateway.app.providers import Providers
from gateway.app.sign_in import SignedIn, derived
from gateway.app.web_login import begin_web_login, complete_web_login
from gateway.bootstrap import identity_providers
from gateway.core.errors import Denied, NotFound, Unavailable
from gateway.core.principal import User
from gateway.settings import Settings
from tests.unit.edges.stage import Stage, make_stage
from tests.unit.edges.trusting_provider import TrustingProvider

PARTNER = "https://login.partner.example"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = make_stage(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def corp() -> TrustingProvider:
    return TrustingProvider(names=ClaimNames(reserved=(".partner",)))


@pytest.fixture
def partner() -> TrustingProvider:
    names = ClaimNames(suffix=".partner", group_prefix="partner/")
    return TrustingProvider(name="partner", label="Partner Ltd", issuer=PARTNER, names=names)


def finish(stage: Stage, begun: TrustingProvider, finished: TrustingProvider, code: str, issuer: str = "") -> SignedIn:
    start = begin_web_login(stage.ctx, begun, "127.0.0.1")
    state = derived(start.secret, "state")
    return complete_web_login(stage.ctx, finished, secret=start.secret, state=state, code=code, issuer=issuer)


def test_people_of_two_providers_are_two_people(
    stage: Stage, corp: TrustingProvider, partner: TrustingProvider
) -> None:
    partner.claims = {"groups": ["leads"]}
    theirs = finish(stage, partner, partner, "alice").user  # first come, and still not served
    ours = finish(stage, corp, corp, "alice").user
    assert (ours.name, theirs.name) == ("alice", "alice.partner")
    assert theirs.groups == {"partner/leads"}
    assert ours.id != theirs.id


def test_no_name_of_one_provider_looks_like_one_of_another(stage: Stage, corp: TrustingProvider) -> None:
    with pytest.raises(NotSignedIn) as no:
        finish(stage, corp, corp, "alice.partner")
    assert no.value.refusal.code == "name-reserved"


NAMES = st.text("ab.", min_size=1, max_size=8)


@given(NAMES, NAMES, st.sampled_from([("", ".b", (".b",), ()), (".a", ".b", (), ()), (".a.b", ".c", (), ())]))
def test_two_providers_never_give_one_name(
    one: str, other: str, kinds: tuple[str, str, tuple[str, ...], tuple[str, ...]]
) -> None:
    first, second = kinds[:2]
    people = [
        person_of(SignedClaims({"iss": f"https://{i}", "sub": "s", "preferred_username": name}), names)
        for i, (name, names) in enumerate([
            (one, ClaimNames(suffix=first, reserved=kinds[2])), (other, ClaimNames(suffix=second, reserved=kinds[3])),
        ])
    ]  # fmt: skip
    names = [person.name for person in people if isinstance(person, User)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("swap", [False, True])
def test_a_login_begun_at_one_is_not_finished_at_the_other(
    stage: Stage, corp: TrustingProvider, partner: TrustingProvider, swap: bool
) -> None:
    begun, finished = (partner, corp) if swap else (corp, partner)
    with pytest.raises(NotSignedIn) as no:
        finish(stage, begun, finished, "alice")
    assert no.value.refusal.code == "issuer-mismatch"
    assert "verifier" not in finished.seen  # the code went nowhere
    assert ("login:failed", "denied") in stage.events()


@pytest.mark.parametrize("issuer", ["", PARTNER, "https://evil.example"])
def test_a_provider_that_promises_to_name_itself_must(stage: Stage, corp: TrustingProvider, issuer: str) -> None:
    corp.is_self_naming = True
    with pytest.raises(NotSignedIn) as no:
        finish(stage, corp, corp, "alice", issuer)
    assert no.value.refusal.code == "issuer-mismatch"
    assert "verifier" not in corp.seen
    assert finish(stage, corp, corp, "alice", corp.issuer).user.name == "alice"


def test_only_people_of_the_provider_that_a_terminal_asked_for_confirm_it(
    stage: Stage, corp: TrustingProvider, partner: TrustingProvider
) -> None:
    ours = finish(stage, corp, corp, "alice").user
    theirs = finish(stage, partner, partner, "alice").user
    start = start_device(stage.ctx, "10.0.0.1", partner)
    assert find_device(stage.ctx, ours, start.user_code, "10.0.0.1").provider == "Partner Ltd"
    with pytest.raises(Denied) as no:
        confirm_device(stage.ctx, ours, start.user_code, "10.0.0.1")
    assert no.value.refusal.code == "other-provider"
    assert confirm_device(stage.ctx, theirs, start.user_code, "10.0.0.1").provider == "Partner Ltd"


def test_choosing(corp: TrustingProvider, partner: TrustingProvider) -> None:
    both = Providers([corp, partner])
    assert both.chosen() is None
    assert both.chosen("partner") is partner
    assert both.of_issuer(PARTNER) is partner
    assert both.of_issuer("https://evil.example") is None
    assert Providers([corp]).chosen() is corp
    with pytest.raises(NotFound):
        both.chosen("evil")
    with pytest.raises(Unavailable):
        Providers().chosen()
    with pytest.raises(ValueError):
        Providers([corp, TrustingProvider(name="again")])


def settings(**more: object) -> Settings:
    return Settings.model_validate({"oidc": {"issuer": "https://corp.example"}, **more})


def test_settings_of_one_provider_stay_as_they_were() -> None:
    made = settings()
    assert list(made.identity_providers()) == ["oidc"]
    assert made.name_suffixes() == {"oidc": ""}
    assert made.group_prefix("oidc") == ""


def test_settings_of_more_providers_keep_their_people_apart() -> None:
    made = settings(providers={"partner": {"issuer": PARTNER}})
    assert made.name_suffixes() == {"oidc": "", "partner": ".partner"}
    assert made.group_prefix("partner") == "partner/"


def test_each_provider_is_wired_with_an_address_and_names_of_its_own() -> None:
    made = settings(
        providers={"partner": {"issuer": PARTNER, "scim": "groups", "scim_external_id_claim": "oid", "label": "P Ltd"}},
        api={"public_url": "https://gw.example"},
    )
    first, partner = identity_providers(made, SystemClock())
    assert (first.name, first._redirect_uri) == ("oidc", "https://gw.example/callback")
    assert (partner.name, partner._redirect_uri) == ("partner", "https://gw.example/callback/partner")
    assert first.names == ClaimNames(reserved=(".partner",))
    assert partner.names == ClaimNames(
        suffix=".partner", group_prefix="partner/", provisioned=True, from_scim=True, external_id="oid"
    )
    assert partner.label == "P Ltd"
    for each in (first, partner):
        each.close()


def test_what_makes_an_authorization_request_safe_is_no_setting() -> None:
    for name in ("redirect_uri", "state", "nonce", "code_challenge", "scope"):
        with pytest.raises(ValidationError):
            Settings.model_validate({"oidc": {"issuer": "https://corp.example", "parameters": {name: "x"}}})


@pytest.mark.parametrize(
    "providers",
    [
        {"partner": {"issuer": "https://corp.example"}},
        {"partner": {"issuer": PARTNER, "name_suffix": ""}},
        {"a": {"issuer": PARTNER, "name_suffix": ".x"}, "b": {"issuer": "https://b.example", "name_suffix": ".y.x"}},
        {"a": {"issuer": PARTNER, "name_suffix": ".x"}, "b": {"issuer": "https://b.example", "name_suffix": ".x"}},
        {"oidc": {"issuer": PARTNER}},
        {"Partner/..": {"issuer": PARTNER}},
        {"partner": {}},
    ],
)
def test_providers_whose_people_could_not_be_told_apart_do_not_start(providers: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        settings(providers=providers)
