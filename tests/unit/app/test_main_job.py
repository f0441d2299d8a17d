"""The main job at the level of the use cases: who gets in, who does not, what ends it, what is written down."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.app.approve_request import answer, pending_for
from gateway.app.break_glass import break_glass
from gateway.app.end_session import end_session
from gateway.app.issue_ticket import issue_ticket
from gateway.app.kill_session import kill_session
from gateway.app.lapse_requests import lapse_requests
from gateway.app.lease_role import login_refused, reap_leases
from gateway.app.open_session import Opened, grant_for, open_session, user_of_ticket
from gateway.app.reconcile import Reconciliation
from gateway.app.recover import recover
from gateway.app.reevaluate import Reevaluation
from gateway.app.request_access import Ask, request_access
from gateway.app.review_grant import open_reviews, sign
from gateway.app.revoke_grant import revoke_grant
from gateway.core.errors import Conflict, Denied, NotFound, Unavailable
from gateway.core.grant import Grant, GrantState
from gateway.core.request import RequestState, Verdict
from gateway.core.session import EndReason
from tests.unit.app.house import INCIDENT, Held, House

HOUR = timedelta(hours=1)
READ = Ask("orders-db", "read", HOUR, "p99 of search 8 s", INCIDENT)
ADMIN = replace(READ, level="admin")
SHELL = Ask("web-1", "shell", HOUR, "disk is filling", INCIDENT)


def granted(house: House, ask: Ask = SHELL) -> Grant:
    outcome = request_access(house.ctx, house.people["oncall"], ask)
    assert outcome.grant is not None
    return outcome.grant


def opened(house: House, grant: Grant) -> tuple[Opened, Held]:
    session = open_session(house.ctx, house.people["oncall"], grant, "127.0.0.1:5000")
    held = Held()
    house.ctx.live.add(session.session.id, held)
    return session, held


# ---------------------------------------------------------------- asking


def test_the_engineer_on_call_gets_in_at_once_and_the_grant_says_why(house: House):
    outcome = request_access(house.ctx, house.people["oncall"], READ)
    assert outcome.grant is not None
    assert outcome.decision.policies == ("oncall-look",)
    assert outcome.grant.window.not_after == house.clock.now() + HOUR
    issued = house.events("grant:issued")[-1]
    assert issued.grant == outcome.grant.id
    assert issued.data["policies"] == ["oncall-look"]
    assert issued.data["facts"]["on_call"]["is_on_call"] is True
    assert issued.data["facts"]["incident"]["id"] == INCIDENT
    assert house.ctx.log.inclusion_proof(issued.id).startswith("c2sp.org/tlog-proof@v1")


def test_who_is_not_on_call_learns_who_is_and_that_deploys_go_through_ci(house: House):
    with pytest.raises(Denied) as no:
        request_access(house.ctx, house.people["developer"], READ)
    said = no.value.refusal.sentence()
    assert "oncall" in said
    assert "CI" in said
    assert house.types()[-1] == ("request:denied", "denied")
    with house.ctx.store.read() as uow:
        assert not uow.grants.list()


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        (replace(READ, target="nope"), NotFound),
        (replace(READ, level="god"), NotFound),
        (replace(READ, reason="  "), Denied),
        (replace(READ, reason="x" * 501), Denied),
        (replace(READ, reason="\x1b[31mred\nalert"), Denied),
        (replace(READ, duration=timedelta(0)), Denied),
        (replace(READ, duration=timedelta(hours=13)), Denied),
        (replace(READ, incident="INC-0"), Denied),
        (replace(READ, target="x" * 5000), NotFound),
    ],
)
def test_every_no_is_an_event_and_leaves_nothing(house: House, ask: Ask, kind: type[Exception]):
    with pytest.raises(kind):
        request_access(house.ctx, house.people["oncall"], ask)
    assert house.types()[-1] == ("request:denied", "denied")
    with house.ctx.store.read() as uow:
        assert not uow.requests.list()
        assert not uow.grants.list()


def test_policy_shortens_what_was_asked_for(house: House):
    long = request_access(house.ctx, house.people["oncall"], replace(READ, duration=timedelta(hours=10)))
    assert long.grant is not None
    assert long.grant.window.not_after - long.grant.window.not_before == timedelta(hours=4)


# ---------------------------------------------------------------- approving


def test_a_no_to_an_approval_is_told_of_whoever_tried_to_give_it(house: House):
    """And counts as theirs: how many are told of a person is bounded, so nobody uses up another's."""
    asked = request_access(house.ctx, house.people["oncall"], ADMIN)
    with house.ctx.store.begin() as uow:
        uow.users.upsert(replace(house.people["oncall"], disabled_at=house.clock.now()))
    with pytest.raises(Denied, match="disabled"):
        answer(house.ctx, house.people["lead"], asked.request.id, Verdict.APPROVE)
    told = house.events("approval:denied")[-1]
    assert (told.principal, told.request, told.data["requester"]) == ("lead", asked.request.id, "oncall")


def test_an_approval_by_somebody_else_starts_the_clock(house: House):
    asked = request_access(house.ctx, house.people["oncall"], ADMIN)
    assert asked.grant is None
    with pytest.raises(Denied, match="somebody else"):
        answer(house.ctx, house.people["oncall"], asked.request.id, Verdict.APPROVE)
    with pytest.raises(Denied):
        answer(house.ctx, house.people["developer"], asked.request.id, Verdict.APPROVE)
    assert [r.id for r in pending_for(house.ctx, house.people["lead"])] == [asked.request.id]
    assert not pending_for(house.ctx, house.people["developer"])
    at = house.later(timedelta(minutes=20))
    outcome = answer(house.ctx, house.people["lead"], asked.request.id, Verdict.APPROVE, "go")
    assert outcome.grant is not None
    assert outcome.grant.window.not_before == at
    assert outcome.request.state is RequestState.GRANTED
    with pytest.raises(Conflict):
        answer(house.ctx, house.people["lead"], asked.request.id, Verdict.APPROVE)


def test_a_rejection_ends_it(house: House):
    asked = request_access(house.ctx, house.people["oncall"], ADMIN)
    done = answer(house.ctx, house.people["lead"], asked.request.id, Verdict.REJECT, "use break-glass")
    assert (done.grant, done.request.state) == (None, RequestState.REJECTED)
    with pytest.raises(Denied, match="no active grant"):
        grant_for(house.ctx, house.people["oncall"], "orders-db")


def test_what_has_changed_while_it_waited_counts(house: House):
    asked = request_access(house.ctx, house.people["oncall"], ADMIN)
    house.incident(closed_at=house.clock.now())
    with pytest.raises(Denied):
        answer(house.ctx, house.people["lead"], asked.request.id, Verdict.APPROVE)
    with house.ctx.store.read() as uow:
        assert not uow.grants.list()


def test_a_request_that_nobody_answers_lapses(house: House):
    asked = request_access(house.ctx, house.people["oncall"], ADMIN)
    assert lapse_requests(house.ctx, house.later(timedelta(hours=7))) == 0
    assert lapse_requests(house.ctx, house.later(HOUR)) == 1
    assert lapse_requests(house.ctx, house.clock.now()) == 0
    assert house.types()[-1] == ("request:lapsed", "ok")
    with pytest.raises(Conflict):
        answer(house.ctx, house.people["lead"], asked.request.id, Verdict.APPROVE)


# ---------------------------------------------------------------- break-glass


def test_break_glass_is_at_once_loud_and_reviewed_by_somebody_else(house: House):
    outcome = break_glass(house.ctx, house.proved("oncall"), ADMIN)
    assert outcome.grant is not None
    assert outcome.grant.window.not_after == house.clock.now() + HOUR
    assert [(channel, fields["grant"]) for channel, _, fields in house.notes.sent] == [
        ("break-glass", outcome.grant.id)
    ]
    assert [r.grant for r in open_reviews(house.ctx, house.people["lead"])] == [outcome.grant.id]
    with pytest.raises(Denied, match="somebody else"):
        sign(house.ctx, house.people["oncall"], outcome.grant.id, "justified", "it was me")
    with pytest.raises(Denied):
        sign(house.ctx, house.people["developer"], outcome.grant.id, "justified", "fine")
    sign(house.ctx, house.people["lead"], outcome.grant.id, "justified", "read the statements")
    assert not open_reviews(house.ctx, house.people["lead"])
    with pytest.raises(Denied):
        break_glass(house.ctx, house.people["developer"], ADMIN)
    assert len(house.notes.sent) == 1


# ---------------------------------------------------------------- sessions and their ends


def test_a_session_is_in_the_log_before_it_runs_and_its_recording_is_sealed_after(house: House):
    session, held = opened(house, granted(house))
    assert session.login is None
    assert house.events("session:started")[-1].session == session.session.id
    session.recording.append("out", house.clock.now(), b"hello")
    end_session(house.ctx, session.session, session.recording, EndReason.CLIENT_CLOSED)
    end_session(house.ctx, session.session, session.recording, EndReason.KILLED)
    ended = house.events("session:ended")
    assert [e.data["reason"] for e in ended] == ["client-closed"]
    with house.ctx.store.read() as uow:
        stored = uow.sessions.get(session.session.id)
    assert stored is not None
    assert stored.recording_digest == f"{ended[0].data['records']}:{ended[0].data['digest']}"
    assert not held.ended


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("revoke", EndReason.GRANT_REVOKED),
        ("kill", EndReason.KILLED),
        ("expire", EndReason.GRANT_EXPIRED),
        ("disable", EndReason.USER_DISABLED),
        ("incident", EndReason.POLICY_CHANGED),
    ],
)
def test_access_that_ends_really_ends(house: House, what: str, reason: EndReason):
    ctx, lead = house.ctx, house.people["lead"]
    first, second = granted(house), granted(house)
    session, held = opened(house, first)
    _, other = opened(house, second)
    watch = Reevaluation()
    watch.tick(ctx, ask_policy=True)
    assert not held.ended
    match what:
        case "revoke":
            assert revoke_grant(ctx, lead, first.id, "done").state(house.clock.now()) is GrantState.REVOKED
        case "kill":
            kill_session(ctx, lead, session.session.id, "odd")
        case "expire":
            house.later(HOUR)
        case "disable":
            with ctx.store.begin() as uow:
                uow.users.upsert(replace(house.people["oncall"], disabled_at=house.clock.now()))
        case "incident":
            house.incident(closed_at=house.clock.now())
    watch.tick(ctx, ask_policy=True)
    assert [r for r, _ in held.ended] == [reason]
    spared = what in ("revoke", "kill")  # an overlapping grant is not touched by the end of another
    assert not other.ended if spared else other.ended


def test_warnings_come_five_minutes_and_one_minute_before_the_end_once(house: House):
    _, held = opened(house, granted(house))
    watch = Reevaluation()
    for minutes in (0, 54, 1, 0.5, 3.5, 0.5):
        house.later(timedelta(minutes=minutes))
        watch.tick(house.ctx, ask_policy=False)
    assert ["5 min" in held.warnings[0], "60 s" in held.warnings[1]] == [True, True]
    assert len(held.warnings) == 2
    assert not held.ended


def test_a_connection_is_decided_again(house: House):
    grant = granted(house)
    house.incident(closed_at=house.clock.now())
    with pytest.raises(Denied):
        open_session(house.ctx, house.people["oncall"], grant, "127.0.0.1:5000")
    assert house.types()[-1] == ("session:denied", "denied")
    with house.ctx.store.read() as uow:
        assert not uow.sessions.list()


def test_the_shift_that_ends_in_the_middle_of_an_open_incident_throws_nobody_out(house: House):
    _, held = opened(house, granted(house))
    house.shifts("developer")
    Reevaluation().tick(house.ctx, ask_policy=True)
    assert not held.ended
    with pytest.raises(Denied):
        request_access(house.ctx, house.people["oncall"], READ)


# ---------------------------------------------------------------- tickets


def test_a_ticket_opens_its_own_target_for_its_own_person_while_its_grant_lasts(house: House):
    ctx, oncall = house.ctx, house.people["oncall"]
    granted(house, READ)
    ticket = issue_ticket(ctx, oncall, "orders-db", single_use=True)
    for name, secret, target in [
        ("developer", ticket.secret, "orders-db"),
        ("oncall", ticket.secret, "web-1"),
        ("oncall", ticket.secret + "x", "orders-db"),
        ("oncall", "", "orders-db"),
    ]:
        with pytest.raises(Denied, match="not valid"):
            user_of_ticket(ctx, name, secret, target)
    user, grant = user_of_ticket(ctx, "oncall", ticket.secret, "orders-db")
    assert (user.name, grant.id) == ("oncall", ticket.grant)
    with pytest.raises(Denied):  # replayed
        user_of_ticket(ctx, "oncall", ticket.secret, "orders-db")
    again = issue_ticket(ctx, oncall, "orders-db")
    house.later(HOUR)
    with pytest.raises(Denied):  # expired with its grant
        user_of_ticket(ctx, "oncall", again.secret, "orders-db")
    assert ticket.secret not in repr(ticket)
    assert not any(ticket.secret in str(e.data) for e in house.events())


def test_nothing_is_released_while_the_log_does_not_confirm(house: House):
    ctx = replace(house.ctx, limits=replace(house.ctx.limits, log_wait=timedelta(milliseconds=200)))
    grant = granted(house)
    granted(house, READ)
    house.sequencer.stop()
    with pytest.raises(Unavailable):
        issue_ticket(ctx, house.people["oncall"], "orders-db")
    with pytest.raises(Unavailable):
        open_session(ctx, house.people["oncall"], grant, "127.0.0.1:5000")
    with ctx.store.read() as uow:
        assert not uow.sessions.list(live=True)


# ---------------------------------------------------------------- leases


def test_a_grant_has_one_role_that_is_gone_after_it(house: House):
    ctx = house.ctx
    target = ctx.catalogue.current().targets["orders-db"]
    grant = granted(house, READ)
    first, _ = opened(house, grant)
    second, _ = opened(house, grant)
    assert first.login is not None
    assert second.login == first.login
    assert house.roles.roles_of(target, "gw_") == [first.login.role]
    assert reap_leases(ctx, house.clock.now()) == 0
    assert house.roles.roles_of(target, "gw_") == [first.login.role]
    revoke_grant(ctx, house.people["oncall"], grant.id)
    assert reap_leases(ctx, house.clock.now()) == 0
    assert not house.roles.roles_of(target, "gw_")
    told = [(e.type, e.outcome) for e in house.events() if e.type.startswith("lease:")]
    assert told == [
        ("lease:created", "attempt"), ("lease:created", "ok"), ("lease:dropped", "attempt"), ("lease:dropped", "ok"),
    ]  # fmt: skip


@pytest.mark.parametrize("fault", ["refuse", "lose"])
def test_a_role_that_may_have_been_made_is_dropped(house: House, fault: str):
    target = house.ctx.catalogue.current().targets["orders-db"]
    grant = granted(house, READ)
    house.roles.faults = [fault]
    with pytest.raises(Unavailable):
        opened(house, grant)
    assert len(house.roles.roles_of(target, "gw_")) == (fault == "lose")
    assert reap_leases(house.ctx, house.clock.now()) == 0
    assert not house.roles.roles_of(target, "gw_")
    opened(house, grant)  # and the grant is as good as before


@pytest.mark.parametrize("fault", ["refuse", "lose"])
def test_a_drop_that_fails_is_a_zombie_until_it_is_gone(house: House, fault: str):
    ctx = house.ctx
    target = ctx.catalogue.current().targets["orders-db"]
    grant = granted(house, READ)
    opened(house, grant)
    revoke_grant(ctx, house.people["oncall"], grant.id)
    house.roles.faults = [fault, fault]
    assert reap_leases(ctx, house.clock.now()) == 1
    assert reap_leases(ctx, house.clock.now()) == 1  # not before its pause is over
    assert len(house.roles.faults) == 1
    with ctx.store.read() as uow:
        assert [lease.state for lease in uow.leases.by_grant(grant.id)] == ["zombie"]
    assert reap_leases(ctx, house.later(timedelta(seconds=10))) == 1
    assert reap_leases(ctx, house.later(timedelta(seconds=10))) == 0
    assert not house.roles.roles_of(target, "gw_")
    assert sum(e.type == "lease:zombie" for e in house.events()) == 1


def test_a_role_that_the_target_lets_in_no_more_is_replaced(house: House):
    """Somebody has dropped it or changed its password. One that was never let in would fare no better anew."""
    ctx = house.ctx
    target = ctx.catalogue.current().targets["orders-db"]
    grant = granted(house, READ)
    login = opened(house, grant)[0].login
    assert login is not None
    assert not login_refused(ctx, grant.id, login)
    assert opened(house, grant)[0].login == login
    ctx.logins.worked(login.role)
    assert login_refused(ctx, grant.id, login)
    assert not login_refused(ctx, grant.id, login), "others that were refused at the same time ask again"
    other = opened(house, grant)[0].login
    assert other is not None
    assert other.role != login.role
    assert not login_refused(ctx, grant.id, login)
    assert opened(house, grant)[0].login == other
    assert reap_leases(ctx, house.clock.now()) == 0
    assert house.roles.roles_of(target, "gw_") == [other.role]


# ---------------------------------------------------------------- after a crash


def test_what_a_crash_left_open_is_ended_and_its_role_dropped(house: House, tmp_path: Path):
    ctx = house.ctx
    target = ctx.catalogue.current().targets["orders-db"]
    session, _ = opened(house, granted(house, READ))
    session.recording.wait_durable(session.recording.append("statement", house.clock.now(), b"{}"), HOUR)
    reborn = replace(ctx, live=type(ctx.live)(), logins=type(ctx.logins)())
    assert recover(reborn) == 1
    assert recover(reborn) == 0
    assert house.events("session:ended")[-1].data["reason"] == "interrupted"
    assert reap_leases(reborn, house.clock.now()) == 0
    assert not house.roles.roles_of(target, "gw_")


def test_a_session_whose_end_could_not_be_stored_is_closed_later(house: House):
    session, _ = opened(house, granted(house))
    books = Reconciliation()
    assert books.step(house.ctx) == 0
    house.ctx.live.discard(session.session.id)
    assert books.step(house.ctx) == 0
    assert books.step(house.ctx) == 1
    assert house.events("session:ended")[-1].data["reason"] == "interrupted"
