from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from gateway.app.approve_request import answer
from gateway.app.break_glass import break_glass
from gateway.app.extend_grant import extend_grant
from gateway.app.issue_ticket import issue_ticket
from gateway.app.lease_role import reap_leases
from gateway.app.open_session import user_of_ticket
from gateway.app.reevaluate import Reevaluation
from gateway.app.request_access import request_access
from gateway.app.revoke_grant import revoke_grant
from gateway.core.errors import Conflict, Denied, NotFound, Unavailable
from gateway.core.grant import Grant
from gateway.core.request import Verdict
from gateway.core.session import EndReason
from tests.unit.app.house import House
from tests.unit.app.test_main_job import ADMIN, HOUR, READ, SHELL, granted, opened

MINUTE = timedelta(minutes=1)


def stored(house: House, grant: Grant) -> Grant:
    with house.ctx.store.read() as uow:
        found = uow.grants.get(grant.id)
    assert found is not None
    return found


def valid_until(house: House, role: str) -> datetime:
    target = house.ctx.catalogue.current().targets["orders-db"]
    with psycopg.connect(Path(target.admin_dsn_file).read_text(), autocommit=True) as admin:
        row = admin.execute("SELECT rolvaliduntil FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    assert row is not None
    return row[0]


def test_a_live_session_goes_on_under_the_new_deadline_and_is_told(house: House):
    grant = granted(house)
    session, held = opened(house, grant)
    watch = Reevaluation()
    house.later(HOUR - MINUTE)
    watch.tick(house.ctx, ask_policy=False)
    assert "gw extend" in held.warnings[-1]
    extended = extend_grant(house.ctx, house.people["oncall"], grant.id, HOUR)
    until = house.clock.now() + HOUR
    assert extended.window.not_after == until == stored(house, grant).window.not_after
    watch.tick(house.ctx, ask_policy=False)
    assert f"ends at {until:%H:%M} UTC" in held.warnings[-1]
    house.later(2 * MINUTE)  # past the end that it had
    watch.tick(house.ctx, ask_policy=True)
    assert held.ended == []
    house.later(HOUR - 3 * MINUTE)  # and its new end is announced anew
    watch.tick(house.ctx, ask_policy=False)
    assert "ends in 60 s" in held.warnings[-1]
    house.later(MINUTE)
    watch.tick(house.ctx, ask_policy=False)
    assert [reason for reason, _ in held.ended] == [EndReason.GRANT_EXPIRED]
    assert session.session.id in house.ctx.live.ids()


def test_the_extension_is_in_the_log_with_its_reasons(house: House):
    grant = granted(house)
    house.later(MINUTE)
    extended = extend_grant(house.ctx, house.people["oncall"], grant.id, 2 * HOUR)
    told = house.events("grant:extended")[-1]
    assert (told.grant, told.principal) == (grant.id, "oncall")
    assert told.data["was"] == grant.window.not_after.isoformat()
    assert told.data["not_after"] == extended.window.not_after.isoformat()
    assert told.data["policies"]
    assert house.ctx.log.inclusion_proof(told.id)


def test_the_role_on_the_database_lives_as_long(house: House):
    grant = granted(house, READ)
    session, _ = opened(house, grant)
    assert session.login is not None
    house.later(30 * MINUTE)
    extended = extend_grant(house.ctx, house.people["oncall"], grant.id, HOUR)
    assert valid_until(house, session.login.role) == extended.window.not_after
    with house.ctx.store.read() as uow:
        assert [lease.expires_at for lease in uow.leases.by_grant(grant.id)] == [extended.window.not_after]
    assert ("lease:extended", "ok") in house.types()
    house.later(45 * MINUTE)  # the old end is past: the role is still needed, and a new connection gets in
    assert reap_leases(house.ctx, house.clock.now()) == 0
    ticket = issue_ticket(house.ctx, house.people["oncall"], "orders-db")
    assert user_of_ticket(house.ctx, "oncall", ticket.secret, "orders-db")[1].id == grant.id
    again, _ = opened(house, stored(house, grant))
    assert again.login == session.login


def test_a_database_that_does_not_answer_leaves_the_grant_as_it_is(house: House):
    grant = granted(house, READ)
    opened(house, grant)
    house.later(30 * MINUTE)
    house.roles.faults = ["refuse"]
    with pytest.raises(Unavailable):
        extend_grant(house.ctx, house.people["oncall"], grant.id, HOUR)
    assert stored(house, grant) == grant
    assert house.types()[-1] == ("lease:extended", "failed")


def test_policy_decides_anew(house: House):
    grant = granted(house)
    house.later(MINUTE)
    house.incident(closed_at=house.clock.now() - MINUTE)
    with pytest.raises(Denied):
        extend_grant(house.ctx, house.people["oncall"], grant.id, HOUR)
    assert house.types()[-1] == ("grant:extension-denied", "denied")
    assert stored(house, grant) == grant


def test_policys_longest_time_counts_from_now(house: House):
    grant = granted(house)
    limit = request_access(house.ctx, house.people["oncall"], SHELL).decision.obligations.max_duration
    assert limit is not None
    house.later(10 * MINUTE)
    extended = extend_grant(house.ctx, house.people["oncall"], grant.id, 11 * HOUR)
    assert extended.window.not_after == house.clock.now() + limit


def test_a_level_that_needs_approval_needs_a_new_request(house: House):
    asked = request_access(house.ctx, house.people["oncall"], ADMIN)
    assert asked.grant is None
    grant = answer(house.ctx, house.people["lead"], asked.request.id, Verdict.APPROVE, "go").grant
    assert grant is not None
    house.later(MINUTE)
    with pytest.raises(Denied) as no:
        extend_grant(house.ctx, house.people["oncall"], grant.id, 4 * HOUR)
    assert no.value.refusal.code == "approval-missing"
    assert "gw request" in no.value.refusal.sentence()


def test_emergency_access_is_not_extended(house: House):
    outcome = break_glass(house.ctx, house.proved("oncall"), replace(ADMIN, reason="all is lost"))
    assert outcome.grant is not None
    house.later(MINUTE)
    with pytest.raises(Denied):
        extend_grant(house.ctx, house.people["oncall"], outcome.grant.id, 4 * HOUR)


def test_nobody_extends_what_is_not_theirs_or_is_over(house: House):
    grant = granted(house)
    for who in ("developer", "lead", "auditor"):
        with pytest.raises(NotFound):
            extend_grant(house.ctx, house.people[who], grant.id, 2 * HOUR)
    with pytest.raises(NotFound):
        extend_grant(house.ctx, house.people["oncall"], "grt_none", HOUR)
    revoke_grant(house.ctx, house.people["oncall"], grant.id)
    with pytest.raises(Denied):
        extend_grant(house.ctx, house.people["oncall"], grant.id, 2 * HOUR)


def test_a_grant_that_is_revoked_meanwhile_stays_revoked(house: House, monkeypatch: pytest.MonkeyPatch):
    grant = granted(house)
    decide = house.ctx.policy.decide

    def slow(query: object) -> object:
        decision = decide(query)
        monkeypatch.undo()
        revoke_grant(house.ctx, house.people["lead"], grant.id)
        return decision

    monkeypatch.setattr(house.ctx.policy, "decide", slow)
    with pytest.raises(Conflict):
        extend_grant(house.ctx, house.people["oncall"], grant.id, 2 * HOUR)
    assert stored(house, grant).window == grant.window
