"""Issuers' keys: kept through outages, asked seldom, fetched with care. The issuer is a real HTTP server."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import monotonic

import pytest
from joserfc.jwk import ECKey, OctKey

from gateway.adapters.issuer_keys import ASK_EVERY, FRESH_FOR, USABLE_FOR, IssuerKeys
from gateway.adapters.job_tokens import SignedJobTokens
from gateway.core.errors import Unavailable
from gateway.core.trust import ClaimResult, Issuer, IssuerKind
from gateway.demo.ci_issuer import AUDIENCE, DISCOVERY, KEYS, CiIssuer, ci_issuer
from tests.fakes import FakeClock

SECOND = timedelta(seconds=1)
Start = Callable[[Path], IssuerKeys]


@pytest.fixture
def ci(clock: FakeClock) -> Iterator[CiIssuer]:
    with ci_issuer(clock.now) as issuer:
        yield issuer


@pytest.fixture
def keys(clock: FakeClock) -> Iterator[IssuerKeys]:
    made = IssuerKeys(clock)
    yield made
    made.close()


def issuer_of(ci: CiIssuer, **changes: object) -> Issuer:
    return replace(Issuer("ci", IssuerKind.GITHUB, ci.url, AUDIENCE), **changes)


def is_known(keys: IssuerKeys, ci: CiIssuer, kid: str = "") -> bool:
    return not isinstance(keys.find(issuer_of(ci), kid or ci.kid, "RS256"), str)


def test_they_are_discovered_once(keys: IssuerKeys, ci: CiIssuer, clock: FakeClock):
    for _ in range(5):
        assert is_known(keys, ci)
        clock.advance(FRESH_FOR / 6)
    assert ci.asked == [DISCOVERY, KEYS]


def test_a_declared_place_is_asked_directly(keys: IssuerKeys, ci: CiIssuer):
    declared = issuer_of(ci, url="https://ci.invalid", jwks_url=f"{ci.url}{KEYS}")
    assert not isinstance(keys.find(declared, ci.kid, "RS256"), str)
    assert ci.asked == [KEYS]


def test_a_file_will_do_where_nothing_can_be_fetched(keys: IssuerKeys, ci: CiIssuer, tmp_path: Path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(ci.key_set()))
    assert not isinstance(keys.find(issuer_of(ci, jwks_file=str(path)), ci.kid, "RS256"), str)
    assert ci.asked == []
    with pytest.raises(Unavailable, match="cannot be fetched"):
        keys.find(issuer_of(ci, jwks_file=str(tmp_path / "none.json")), ci.kid, "RS256")


# ---------------------------------------------------------------- outages


@pytest.fixture
def started_anew(clock: FakeClock) -> Iterator[Start]:
    """A new process, with what the last one kept."""
    with ExitStack() as open_now:

        def start(kept: Path) -> IssuerKeys:
            made = IssuerKeys(clock, kept=kept)
            open_now.callback(made.close)
            return made

        yield start


def test_a_gateway_that_starts_during_an_outage_knows_the_last_keys(
    started_anew: Start, ci: CiIssuer, clock: FakeClock, tmp_path: Path
):
    assert is_known(started_anew(tmp_path), ci)
    ci.mood = "down"
    clock.advance(USABLE_FOR - SECOND)
    assert is_known(started_anew(tmp_path), ci)
    clock.advance(2 * SECOND)
    with pytest.raises(Unavailable):  # of the day since they were fetched, not since the start
        is_known(started_anew(tmp_path), ci)


def test_kept_keys_are_read_again_when_the_issuer_answers(
    started_anew: Start, ci: CiIssuer, clock: FakeClock, tmp_path: Path
):
    assert is_known(started_anew(tmp_path), ci)
    clock.advance(FRESH_FOR + SECOND)
    ci.asked.clear()
    assert is_known(started_anew(tmp_path), ci)
    assert ci.asked == [DISCOVERY, KEYS]


def test_keys_of_another_time_place_or_shape_are_not_believed(
    started_anew: Start, ci: CiIssuer, clock: FakeClock, tmp_path: Path
):
    assert is_known(started_anew(tmp_path), ci)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    ci.mood = "down"
    elsewhere = issuer_of(ci, jwks_url=f"{ci.url}/elsewhere")
    with pytest.raises(Unavailable):
        started_anew(tmp_path).find(elsewhere, ci.kid, "RS256")
    told = json.loads(whole)
    later = {**told, "fetched_at": (clock.now() + SECOND).isoformat()}
    for damaged in (
        json.dumps(later).encode(), whole[:-9], b"", b"[]", b"{}", json.dumps({**told, "document": []}).encode(),
        json.dumps({**told, "issuer": "https://other.example"}).encode(), json.dumps({**told, "fetched_at": 1}).encode(),
    ):  # fmt: skip
        kept.write_bytes(damaged)
        with pytest.raises(Unavailable):
            is_known(started_anew(tmp_path), ci)
    kept.write_bytes(whole)
    assert is_known(started_anew(tmp_path), ci)


def test_a_place_that_cannot_be_written_stops_nobody(started_anew: Start, ci: CiIssuer, tmp_path: Path):
    assert is_known(started_anew(tmp_path / "missing"), ci)


@pytest.mark.parametrize("mood", ["down", "not-json", "redirect", "other-issuer", "foreign-keys", "huge", "no-keys"])
def test_an_outage_stops_nobody_whose_keys_are_known(keys: IssuerKeys, ci: CiIssuer, clock: FakeClock, mood: str):
    assert is_known(keys, ci)
    ci.mood = mood
    for _ in range(6):
        clock.advance(USABLE_FOR / 6)
        assert is_known(keys, ci)
    clock.advance(SECOND)
    with pytest.raises(Unavailable):  # a day is the most
        is_known(keys, ci)
    ci.mood = ""
    clock.advance(ASK_EVERY)
    assert is_known(keys, ci)


@pytest.mark.parametrize(
    ("mood", "why"),
    [
        ("down", "503"),
        ("not-json", "no JSON"),
        ("redirect", "302"),
        ("other-issuer", "names another issuer"),
        ("foreign-keys", "declare it as jwks_url"),
        ("huge", "too large"),
        ("no-keys", "no key"),
        ("dribble", "too long"),
        ("dribble-head", "too long"),
    ],
)
def test_what_is_not_known_is_a_no_that_says_why(keys: IssuerKeys, ci: CiIssuer, mood: str, why: str):
    ci.mood = mood
    with pytest.raises(Unavailable) as no:
        is_known(keys, ci)
    assert why in no.value.refusal.message
    assert "http://127.0.0.1:1/elsewhere" not in ci.asked


def test_nobody_answers_at_all(keys: IssuerKeys, clock: FakeClock):
    with ci_issuer(clock.now) as gone:
        pass
    with pytest.raises(Unavailable, match="does not answer"):
        is_known(keys, gone)


def test_an_issuer_that_stalls_holds_up_one_caller_and_not_for_long(keys: IssuerKeys, ci: CiIssuer, clock: FakeClock):
    assert is_known(keys, ci)
    ci.mood = "stall"
    clock.advance(FRESH_FOR + SECOND)
    began = monotonic()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: is_known(keys, ci), range(64)))
    assert monotonic() - began < 30  # a limit, not a measurement: 64 callers one after the other would take minutes
    assert len(ci.asked) == 3


# ---------------------------------------------------------------- how often


def test_an_unknown_key_is_looked_for_once_a_minute(keys: IssuerKeys, ci: CiIssuer, clock: FakeClock):
    assert is_known(keys, ci)
    before = len(ci.asked)
    clock.advance(ASK_EVERY)
    for number in range(100):
        assert not is_known(keys, ci, f"forged-{number}")
    assert len(ci.asked) == before + 2
    clock.advance(ASK_EVERY)
    assert not is_known(keys, ci, "forged")
    assert len(ci.asked) == before + 4


def test_an_issuer_that_is_down_is_asked_once_a_minute_too(keys: IssuerKeys, ci: CiIssuer, clock: FakeClock):
    ci.mood = "down"
    for _ in range(50):
        with pytest.raises(Unavailable):
            is_known(keys, ci)
    assert ci.asked == [DISCOVERY]
    ci.mood = ""
    clock.advance(ASK_EVERY)
    assert is_known(keys, ci)


def test_a_new_key_is_found(keys: IssuerKeys, ci: CiIssuer, clock: FakeClock):
    assert is_known(keys, ci)
    old = ci.kid
    ci.rotate()
    assert not is_known(keys, ci)  # asked within the minute
    clock.advance(ASK_EVERY)
    assert is_known(keys, ci)
    assert is_known(keys, ci, old)


def test_a_withdrawn_key_is_not_believed_for_long(keys: IssuerKeys, ci: CiIssuer, clock: FakeClock):
    assert is_known(keys, ci)
    old = ci.kid
    ci.rotate(keep=False)
    clock.advance(FRESH_FOR + SECOND)
    assert not is_known(keys, ci, old)


def test_a_clock_that_jumps_back_does_not_stop_the_asking(keys: IssuerKeys, ci: CiIssuer, clock: FakeClock):
    assert is_known(keys, ci)
    clock.advance(-timedelta(days=2))
    assert is_known(keys, ci)
    assert len(ci.asked) == 4


def test_issuers_are_kept_apart(keys: IssuerKeys, ci: CiIssuer, clock: FakeClock):
    with ci_issuer(clock.now) as other:
        assert is_known(keys, ci)
        assert is_known(keys, other)
        assert not is_known(keys, other, ci.kid)


# ---------------------------------------------------------------- which keys


@pytest.mark.filterwarnings("ignore:Key size should be")  # the library says of the weak one what we do about it
def test_keys_that_cannot_sign(keys: IssuerKeys, ci: CiIssuer, tmp_path: Path):
    entries = {
        "oct": {**OctKey.generate_key(256).as_dict(), "kid": "oct"},
        "enc": {**ci.public_key(), "kid": "enc", "use": "enc"},
        "other-alg": {**ci.public_key(), "kid": "other-alg", "alg": "RS512"},
        "p384": {**ECKey.generate_key("P-384").as_dict(private=False), "kid": "p384"},
        "broken": {"kty": "RSA", "n": "!", "e": "AQAB", "kid": "broken"},
        "weak": {"kty": "RSA", "n": "sXchDaQebHnPiGvyDOAT4saGEUetSyo9MKLOoWFsueri", "e": "AQAB", "kid": "weak"},
        "ec": {**ECKey.generate_key("P-256").as_dict(private=False), "kid": "ec"},
    }
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [*entries.values(), {"kty": "RSA"}, 7, ci.public_key()]}))
    issuer = issuer_of(ci, jwks_file=str(path), algorithms=frozenset({"RS256"}))
    tokens = SignedJobTokens(keys)
    for kid in entries:
        token = tokens.read(ci.signed(ci.github_claims(), kid=kid))
        assert token is not None
        found = tokens.verify(issuer, token)
        assert isinstance(found, ClaimResult), kid
        assert found.claim == "kid"
    good = tokens.read(ci.github())
    assert good is not None
    assert not isinstance(tokens.verify(issuer, good), ClaimResult)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"keys": {}}', '{"keys": []}', '{"keys": [{"kty": "RSA"}]}', "[" * 9999]
)
def test_what_is_no_key_set(keys: IssuerKeys, ci: CiIssuer, tmp_path: Path, content: str):
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(Unavailable):
        keys.find(issuer_of(ci, jwks_file=str(path)), ci.kid, "RS256")


def test_too_many_keys(keys: IssuerKeys, ci: CiIssuer, tmp_path: Path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{**ci.public_key(), "kid": str(n)} for n in range(101)]}))
    with pytest.raises(Unavailable, match="cannot be fetched"):
        keys.find(issuer_of(ci, jwks_file=str(path)), "1", "RS256")
