from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app.authenticate import authenticate
from gateway.app.device_flow import (
    ALPHABET,
    NotYet,
    confirm_device,
    deny_device,
    find_device,
    normal_code,
    poll_device,
    start_device,
)
from gateway.app.place import is_elsewhere
from gateway.app.shut_out import disable_user
from gateway.app.sign_in import SignedIn
from gateway.core.errors import Conflict, Denied, NotFound
from tests.unit.edges.stage import Stage, make_stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = make_stage(tmp_path)
    yield made
    made.store.close()


def poll(stage: Stage, code: str) -> SignedIn | NotYet:
    stage.clock.advance(timedelta(seconds=7))
    return poll_device(stage.ctx, code)


def test_the_token_comes_once_after_confirmation(stage: Stage) -> None:
    user = stage.user("oncall")
    start = start_device(stage.ctx, "10.0.0.1")
    assert poll(stage, start.device_code) is NotYet.AUTHORIZATION_PENDING
    view = find_device(stage.ctx, user, start.user_code.lower().replace("-", " "), "10.0.0.1")
    assert (view.user_code, view.client) == (start.user_code, "10.0.0.1")
    confirm_device(stage.ctx, user, start.user_code, "10.0.0.1")
    done = poll(stage, start.device_code)
    assert isinstance(done, SignedIn)
    assert authenticate(stage.ctx, done.secret) == user
    assert poll(stage, start.device_code) is NotYet.EXPIRED_TOKEN  # replay
    assert [e[0] for e in stage.events()] == ["device:started", "device:confirmed", "login:succeeded"]


def test_nothing_secret_is_stored_or_shown(stage: Stage) -> None:
    start = start_device(stage.ctx, "10.0.0.1")
    confirm_device(stage.ctx, stage.user("oncall"), start.user_code, "10.0.0.1")
    done = poll(stage, start.device_code)
    assert isinstance(done, SignedIn)
    assert done.secret.startswith("gwc_")
    assert done.secret not in stage.dump()
    assert start.device_code not in stage.dump()
    assert start.device_code not in repr(start)


def test_a_denied_terminal_stays_out(stage: Stage) -> None:
    user = stage.user("oncall")
    start = start_device(stage.ctx, "10.0.0.1")
    deny_device(stage.ctx, user, start.user_code, "10.0.0.1")
    assert poll(stage, start.device_code) is NotYet.ACCESS_DENIED
    with pytest.raises(NotFound):
        confirm_device(stage.ctx, user, start.user_code, "10.0.0.1")


def test_the_first_answer_stands(stage: Stage) -> None:
    start = start_device(stage.ctx, "10.0.0.1")
    confirm_device(stage.ctx, stage.user("oncall"), start.user_code, "10.0.0.1")
    with pytest.raises((NotFound, Conflict)):
        confirm_device(stage.ctx, stage.user("mallory"), start.user_code, "10.0.0.1")
    done = poll(stage, start.device_code)
    assert isinstance(done, SignedIn)
    assert done.user.name == "oncall"


def test_a_code_lives_ten_minutes(stage: Stage) -> None:
    user = stage.user("oncall")
    start = start_device(stage.ctx, "10.0.0.1")
    stage.clock.advance(timedelta(minutes=10))
    assert poll_device(stage.ctx, start.device_code) is NotYet.EXPIRED_TOKEN
    with pytest.raises(NotFound):
        confirm_device(stage.ctx, user, start.user_code, "10.0.0.1")


def test_a_confirmed_code_that_grew_old_is_worth_nothing(stage: Stage) -> None:
    start = start_device(stage.ctx, "10.0.0.1")
    confirm_device(stage.ctx, stage.user("oncall"), start.user_code, "10.0.0.1")
    stage.clock.advance(timedelta(minutes=10))
    assert poll_device(stage.ctx, start.device_code) is NotYet.EXPIRED_TOKEN


def test_polling_faster_than_told_slows_down(stage: Stage) -> None:
    code = start_device(stage.ctx, "10.0.0.1").device_code
    assert poll_device(stage.ctx, code) is NotYet.AUTHORIZATION_PENDING
    assert poll_device(stage.ctx, code) is NotYet.SLOW_DOWN
    stage.clock.advance(timedelta(seconds=3))
    assert poll_device(stage.ctx, code) is NotYet.SLOW_DOWN  # the interval has grown to 6 s
    stage.clock.advance(timedelta(seconds=11))
    assert poll_device(stage.ctx, code) is NotYet.AUTHORIZATION_PENDING


@pytest.mark.parametrize("code", ["", "gwv_", "gwv_unknown", "gwc_x", "x" * 10_000])
def test_unknown_device_codes_are_expired(stage: Stage, code: str) -> None:
    assert poll_device(stage.ctx, code) is NotYet.EXPIRED_TOKEN


def test_a_device_code_is_no_token_and_a_token_no_device_code(stage: Stage) -> None:
    start = start_device(stage.ctx, "10.0.0.1")
    confirm_device(stage.ctx, stage.user("oncall"), start.user_code, "10.0.0.1")
    with pytest.raises(Denied):
        authenticate(stage.ctx, start.device_code)


def test_a_person_disabled_meanwhile_gets_no_token(stage: Stage) -> None:
    user = stage.user("oncall")
    start = start_device(stage.ctx, "10.0.0.1")
    confirm_device(stage.ctx, user, start.user_code, "10.0.0.1")
    disable_user(stage.ctx, stage.user("lead"), "oncall")
    assert poll(stage, start.device_code) in (NotYet.ACCESS_DENIED, NotYet.EXPIRED_TOKEN)


def test_guessing_user_codes_is_limited_across_logins(stage: Stage) -> None:
    user = stage.user("mallory")
    start = start_device(stage.ctx, "10.0.0.1")
    for _ in range(10):
        with pytest.raises(NotFound):
            find_device(stage.ctx, user, "BBBB-BBBB", "10.0.0.1")
    with pytest.raises(Denied) as no:
        find_device(stage.ctx, user, "BBBB-BBBB", "10.0.0.1")
    assert no.value.refusal.code == "too-many-attempts"
    with pytest.raises(Denied):
        confirm_device(stage.ctx, user, start.user_code, "10.0.0.1")  # not even the right one now
    find_device(stage.ctx, stage.user("oncall"), start.user_code, "10.0.0.1")  # nobody else suffers
    stage.clock.advance(timedelta(minutes=10))
    fresh = start_device(stage.ctx, "10.0.0.1")
    find_device(stage.ctx, user, fresh.user_code, "10.0.0.1")


def test_starts_from_one_address_are_limited(stage: Stage) -> None:
    for _ in range(120):
        start_device(stage.ctx, "10.0.0.1")
    with pytest.raises(Denied):
        start_device(stage.ctx, "10.0.0.1")
    start_device(stage.ctx, "10.0.0.2")


def test_codes_are_unrelated_and_unambiguous(stage: Stage) -> None:
    codes = [start_device(stage.ctx, "10.0.0.1").user_code for _ in range(50)]
    assert len(set(codes)) == 50
    assert all(len(c) == 9 and c[4] == "-" and set(c.replace("-", "")) <= set(ALPHABET) for c in codes)
    assert len({c[0] for c in codes}) > 5


@given(st.text(alphabet=ALPHABET, min_size=8, max_size=8))
def test_a_code_is_read_however_it_is_typed(letters: str) -> None:
    code = f"{letters[:4]}-{letters[4:]}"
    assert normal_code(code) == normal_code(letters.lower()) == normal_code(" " + " ".join(letters)) == code


@given(st.text(max_size=70))
def test_what_is_no_code_is_nothing(text: str) -> None:
    code = normal_code(text)
    assert code == "" or (len(code) == 9 and set(code.replace("-", "")) <= set(ALPHABET))


# ---------------------------------------------------------------- phishing (RFC 8628 §5.4)


def test_a_terminal_elsewhere_is_confirmed_only_by_somebody_who_says_that_they_know(stage: Stage) -> None:
    user = stage.user("victim")
    start = start_device(stage.ctx, "203.0.113.9", agent="gw")
    view = find_device(stage.ctx, user, start.user_code, "198.51.100.7")
    assert (view.is_elsewhere, view.client, view.program) == (True, "203.0.113.9", "gw")
    with pytest.raises(Denied) as no:
        confirm_device(stage.ctx, user, start.user_code, "198.51.100.7")
    assert no.value.refusal.code == "terminal-elsewhere"
    assert "deny it" in no.value.refusal.sentence()
    assert ("device:denied", "denied") in stage.events()
    assert poll(stage, start.device_code) is NotYet.AUTHORIZATION_PENDING
    confirm_device(stage.ctx, user, start.user_code, "198.51.100.7", knows_place=True)
    assert isinstance(poll(stage, start.device_code), SignedIn)


@pytest.mark.parametrize(
    ("terminal", "browser", "elsewhere"),
    [
        ("10.0.0.1", "10.0.0.1", False),
        ("10.0.0.1", "10.0.0.2", True),
        ("::ffff:10.0.0.1", "10.0.0.1", False),
        ("2001:db8::1", "2001:db8::2", False),  # one subscriber's /64
        ("2001:db8::1", "2001:db8:0:1::1", True),
        ("127.0.0.1", "::1", False),
        ("127.0.0.1", "10.0.0.1", True),
        ("unknown", "unknown", True),
        ("10.0.0.1", "unknown", True),
        ("", "", True),
    ],
)
def test_where_two_addresses_are(terminal: str, browser: str, elsewhere: bool) -> None:
    assert is_elsewhere(terminal, browser) is elsewhere
