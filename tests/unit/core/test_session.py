from dataclasses import replace
from datetime import datetime

import pytest

from gateway.core.errors import Refusal
from gateway.core.grant import Grant
from gateway.core.session import EndReason, Protocol, Session, begin, end, verdict
from tests.unit.core.values import HOUR, MINUTE, T0, TICK, grant


def _begin(held: Grant, at: datetime) -> Session | Refusal:
    return begin(held, session_id="ses_1", protocol=Protocol.SSH, client="192.0.2.7:5", gateway="gw-a", at=at)


def _live() -> Session:
    session = _begin(grant(), T0)
    assert isinstance(session, Session)
    return session


REVOKED = grant(revoked_at=T0, revoked_by="lead")


def test_a_session_takes_its_deadline_and_its_right_from_the_grant() -> None:
    held = grant()
    session = _begin(held, T0 + MINUTE)
    assert isinstance(session, Session)
    assert session.is_live()
    assert (session.deadline, session.started_at) == (held.window.not_after, T0 + MINUTE)
    assert (session.grant, session.holder, session.holder_name) == (held.id, held.holder, held.holder_name)
    assert (session.target, session.level, session.gateway) == (held.target, held.level, "gw-a")
    assert (session.protocol, session.client) == (Protocol.SSH, "192.0.2.7:5")


@pytest.mark.parametrize(
    ("held", "at", "code"),
    [
        (grant(), T0 - TICK, "grant-pending"),
        (grant(), T0 + HOUR, "grant-expired"),
        (REVOKED, T0 + MINUTE, "grant-revoked"),
    ],
)
def test_no_session_without_an_active_grant(held: Grant, at: datetime, code: str) -> None:
    refused = _begin(held, at)
    assert isinstance(refused, Refusal)
    assert refused.code == code
    assert "gw request orders-db --level read" in refused.sentence()


def test_the_first_end_reason_stands() -> None:
    ended = end(_live(), EndReason.KILLED, T0 + MINUTE, "by lead", "feed")
    assert isinstance(ended, Session)
    assert not ended.is_live()
    assert (ended.ended_at, ended.end_reason) == (T0 + MINUTE, EndReason.KILLED)
    assert (ended.end_detail, ended.recording_digest) == ("by lead", "feed")
    for reason in EndReason:
        again = end(ended, reason, T0)
        assert isinstance(again, Refusal)
        assert again.code == "session-over"


def test_a_session_never_ends_before_it_began() -> None:
    ended = end(_live(), EndReason.INTERRUPTED, T0 - HOUR)
    assert isinstance(ended, Session)
    assert ended.ended_at == T0


@pytest.mark.parametrize(
    ("held", "at", "enabled", "killed_by", "expected"),
    [
        (grant(), T0, True, "", None),
        (grant(), T0 + HOUR - TICK, True, "", None),
        (grant(), T0 + HOUR, True, "", EndReason.GRANT_EXPIRED),
        (grant(), T0 - TICK, True, "", EndReason.GRANT_EXPIRED),
        (REVOKED, T0, True, "", EndReason.GRANT_REVOKED),
        (REVOKED, T0 + HOUR, True, "", EndReason.GRANT_REVOKED),
        (REVOKED, T0, False, "", EndReason.USER_DISABLED),
        (REVOKED, T0, False, "lead", EndReason.KILLED),
        (grant(), T0, True, "lead", EndReason.KILLED),
    ],
)
def test_why_a_live_session_must_end(
    held: Grant, at: datetime, enabled: bool, killed_by: str, expected: EndReason | None
) -> None:
    assert verdict(held, at, user_enabled=enabled, killed_by=killed_by) is expected


@pytest.mark.parametrize("reason", EndReason)
def test_every_end_has_a_sentence_for_a_person(reason: EndReason) -> None:
    assert reason.sentence().endswith(".")
    assert reason.sentence("INC-7") == f"{reason.sentence()} (INC-7)"


def test_replacing_is_not_ending() -> None:
    assert replace(_live(), kill_requested_by="lead").is_live()
