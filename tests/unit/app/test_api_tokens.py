from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app.api_tokens import (
    READ_AUDIT,
    WRITE_SCIM,
    authenticate_machine,
    create_api_token,
    is_well_formed,
    list_api_tokens,
    revoke_api_token,
    with_checksum,
)
from gateway.app.authenticate import authenticate
from gateway.app.browser_session import authenticate_web
from gateway.app.identity import NotSignedIn
from gateway.app.inspect_log import search_events
from gateway.app.log_ports import EventFilter
from gateway.core.decision import Action
from gateway.core.errors import Conflict, Denied, NotFound
from gateway.core.principal import Machine
from tests.unit.edges.stage import Stage, make_stage

DAY = timedelta(days=1)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = make_stage(tmp_path)
    yield made
    made.store.close()


def test_a_token_does_what_its_scope_says_until_its_end(stage: Stage) -> None:
    made = create_api_token(stage.ctx, stage.user("auditor"), "siem", [READ_AUDIT], 90 * DAY)
    machine = authenticate_machine(stage.ctx, made.secret, READ_AUDIT, "10.0.0.5")
    assert machine.name == "token:siem"
    search_events(stage.ctx, machine, EventFilter())
    with pytest.raises(Denied):
        authenticate_machine(stage.ctx, made.secret, WRITE_SCIM, "10.0.0.5")
    assert ("token:denied", "denied") in stage.events()
    stage.clock.advance(90 * DAY)
    with pytest.raises(NotSignedIn):
        authenticate_machine(stage.ctx, made.secret, READ_AUDIT, "10.0.0.5")


def test_the_secret_is_nowhere_but_in_the_answer(stage: Stage) -> None:
    made = create_api_token(stage.ctx, stage.user("auditor"), "siem", [READ_AUDIT], DAY)
    authenticate_machine(stage.ctx, made.secret, READ_AUDIT, "10.0.0.5")
    assert made.secret[4:] not in stage.dump()
    assert made.secret not in repr(made)


def test_a_token_is_nobodys_sign_in(stage: Stage) -> None:
    made = create_api_token(stage.ctx, stage.user("auditor"), "siem", [READ_AUDIT], DAY)
    for way in (authenticate, authenticate_web):
        with pytest.raises(NotSignedIn):
            way(stage.ctx, made.secret)
    person = stage.token(stage.user("oncall"))
    with pytest.raises(NotSignedIn):
        authenticate_machine(stage.ctx, person, READ_AUDIT, "10.0.0.5")


@pytest.mark.parametrize(("scope", "action"), [(READ_AUDIT, Action.AUDIT), (WRITE_SCIM, Action.ADMINISTER)])
def test_nobody_gives_what_they_may_not_do(stage: Stage, scope: str, action: Action) -> None:
    user = stage.user("developer")
    provider = "oidc" if scope == WRITE_SCIM else ""
    stage.forbid(action)
    with pytest.raises(Denied):
        create_api_token(stage.ctx, user, "mine", [scope], DAY, provider)
    assert ("token:created", "ok") not in stage.events()


@pytest.mark.parametrize(
    ("name", "scopes", "lifetime", "provider"),
    [
        ("siem", [], DAY, ""), ("siem", ["everything"], DAY, ""), ("siem", [READ_AUDIT, "x"], DAY, ""),
        ("siem", [READ_AUDIT], 91 * DAY, ""), ("siem", [READ_AUDIT], timedelta(0), ""),
        ("siem", [READ_AUDIT], -DAY, ""), ("a b", [READ_AUDIT], DAY, ""), ("a\x1b[31m", [READ_AUDIT], DAY, ""),
        ("siem", [WRITE_SCIM], DAY, ""), ("siem", [READ_AUDIT], DAY, "oidc"),
    ],
)  # fmt: skip
def test_tokens_that_are_not_made(
    stage: Stage, name: str, scopes: list[str], lifetime: timedelta, provider: str
) -> None:
    with pytest.raises(Denied):
        create_api_token(stage.ctx, stage.user("lead"), name, scopes, lifetime, provider)


def test_a_name_is_used_once_at_a_time_and_a_revoked_token_is_worth_nothing(stage: Stage) -> None:
    lead = stage.user("lead")
    first = create_api_token(stage.ctx, lead, "siem", [READ_AUDIT], DAY)
    with pytest.raises(Conflict):
        create_api_token(stage.ctx, lead, "siem", [READ_AUDIT], DAY)
    revoke_api_token(stage.ctx, lead, "siem")
    with pytest.raises(NotSignedIn):
        authenticate_machine(stage.ctx, first.secret, READ_AUDIT, "10.0.0.5")
    with pytest.raises(NotFound):
        revoke_api_token(stage.ctx, lead, "siem")
    again = create_api_token(stage.ctx, lead, "siem", [READ_AUDIT], DAY)
    assert isinstance(authenticate_machine(stage.ctx, again.secret, READ_AUDIT, "10.0.0.5"), Machine)


def test_last_use_is_shown(stage: Stage) -> None:
    lead = stage.user("lead")
    made = create_api_token(stage.ctx, lead, "siem", [READ_AUDIT], DAY)
    assert list_api_tokens(stage.ctx, lead)[0].last_used_at is None
    authenticate_machine(stage.ctx, made.secret, READ_AUDIT, "10.0.0.5")
    used = stage.clock.now()
    stage.clock.advance(timedelta(seconds=10))
    authenticate_machine(stage.ctx, made.secret, READ_AUDIT, "10.0.0.5")
    shown = list_api_tokens(stage.ctx, lead)[0]
    assert (shown.last_used_at, shown.last_used_from) == (used, "10.0.0.5")
    authenticate_machine(stage.ctx, made.secret, READ_AUDIT, "10.9.9.9")  # from elsewhere is told at once
    assert list_api_tokens(stage.ctx, lead)[0].last_used_from == "10.9.9.9"


def test_others_tokens_are_for_administrators_and_auditors(stage: Stage) -> None:
    lead, other = stage.user("lead"), stage.user("oncall")
    create_api_token(stage.ctx, lead, "siem", [READ_AUDIT], DAY)
    assert len(list_api_tokens(stage.ctx, other)) == 1
    stage.forbid(Action.ADMINISTER, Action.AUDIT)
    assert list_api_tokens(stage.ctx, other) == []
    assert len(list_api_tokens(stage.ctx, lead)) == 1
    with pytest.raises(Denied):
        revoke_api_token(stage.ctx, other, "siem")
    revoke_api_token(stage.ctx, lead, "siem")


@given(st.text("abcXYZ019_-", min_size=43, max_size=43), st.integers(4, 52))
def test_a_checksum_tells_a_token_from_noise(body: str, place: int) -> None:
    token = with_checksum("gwa_" + body)
    assert len(token) == 53
    assert is_well_formed(token)
    other = "q" if token[place] != "q" else "r"
    assert not is_well_formed(token[:place] + other + token[place + 1 :])


def test_the_checksum_is_the_one_that_is_documented() -> None:
    from zlib import crc32

    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    token = with_checksum("gwa_" + "A" * 43)
    number = 0
    for digit in token[-6:]:
        number = number * 62 + digits.index(digit)
    assert number == crc32(token[:-6].encode())
