# ruff: noqa: PT012 - what raises is a whole transaction
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.exc import StatementError

from gateway.adapters.store import SqlStore
from gateway.adapters.store.failures import WroteWhileReadingError
from gateway.adapters.store.transaction import InconsistentError
from gateway.app.access_ports import GrantInUse
from gateway.app.people_ports import Credential
from gateway.app.ports import Store, UnitOfWork
from gateway.app.session_ports import LiveView
from gateway.core.errors import Conflict, NotFound
from gateway.core.grant import revoke, sign_review
from gateway.core.obligation import Obligations
from gateway.core.request import RequestState
from gateway.core.session import Cancel, EndReason, Running, end
from gateway.core.window import Window
from tests.contract.store_values import (
    AUDITOR,
    CLOSED_INCIDENT,
    DUTIES,
    ENDED,
    EVENT,
    GRANT,
    HOUR,
    INCIDENT,
    LEAD,
    LEASE,
    ONCALL,
    REQUEST,
    REVIEW,
    REVOKED,
    SESSION,
    SHIFT,
    SIGNED,
    T0,
    TICKET,
    TRIED_LEASE,
    USED_TICKET,
    add_grant,
    approval,
    fill,
)

MINUTE = timedelta(minutes=1)


def test_the_store_is_a_store(store: SqlStore) -> None:
    port: Store = store
    assert port is store


# ---------------------------------------------------------------- round trips


COMPLETE = {
    "user": replace(ONCALL, disabled_at=T0),
    "request": replace(REQUEST, state=RequestState.LAPSED, approvals=(approval(1),)),
    "approval": approval(1),
    "grant": REVOKED,
    "review": SIGNED,
    "session": ENDED,
    "lease": TRIED_LEASE,
    "credential": USED_TICKET,
    "incident": CLOSED_INCIDENT,
    "shift": SHIFT,
    "obligations": DUTIES,
}


@pytest.mark.parametrize("value", COMPLETE.values(), ids=COMPLETE.keys())
def test_the_values_of_this_suite_leave_no_field_at_its_default(value: object) -> None:
    for field in fields(value):
        if not field.compare:
            continue  # of a call, not of the stored value
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        assert getattr(value, field.name) != default, field.name


def test_every_field_comes_back(store: SqlStore) -> None:
    request = replace(COMPLETE["request"], id="req_all", approvals=(replace(approval(1), request="req_all"),))
    grant = replace(REVOKED, request="req_all")
    with store.begin() as uow:
        uow.users.upsert(COMPLETE["user"])
        uow.users.upsert(LEAD)
        uow.requests.add(request)
        uow.grants.add(grant)
        uow.reviews.add(SIGNED)
        uow.sessions.add(ENDED)
        uow.leases.add(TRIED_LEASE)
        uow.credentials.add(USED_TICKET)
        uow.incidents.replace("static", [CLOSED_INCIDENT])
        uow.shifts.replace(SHIFT.source, SHIFT.window, [SHIFT])
    with store.read() as uow:
        assert uow.users.get(ONCALL.id) == COMPLETE["user"]
        assert uow.requests.get("req_all") == request
        assert uow.grants.get(grant.id) == grant
        assert uow.reviews.get(SIGNED.id) == SIGNED
        assert uow.sessions.get(ENDED.id) == ENDED
        assert list(uow.leases.by_grant(grant.id)) == [TRIED_LEASE]
        assert uow.credentials.find(USED_TICKET.digest, "ticket") == USED_TICKET
        assert uow.incidents.get(CLOSED_INCIDENT.id) == CLOSED_INCIDENT
        assert list(uow.shifts.covering("orders", T0, HOUR)) == [SHIFT]


def test_users_come_back_as_they_were(store: SqlStore) -> None:
    fill(store)
    with store.read() as uow:
        assert uow.users.get(ONCALL.id) == ONCALL
        assert uow.users.by_name("lead") == LEAD
        assert uow.users.get("usr_none") is None
        assert uow.users.by_name("nobody") is None
        assert [u.name for u in uow.users.all()] == ["auditor", "lead", "oncall"]


def test_upsert_changes_everything_but_the_id(store: SqlStore) -> None:
    fill(store)
    renamed = replace(ONCALL, name="on-call", email="", groups=frozenset(), disabled_at=T0)
    with store.begin() as uow:
        uow.users.upsert(renamed)
    with store.read() as uow:
        assert uow.users.get(ONCALL.id) == renamed


@pytest.mark.parametrize("changes", [{"name": "oncall"}, {"issuer": ONCALL.issuer, "subject": ONCALL.subject}])
def test_two_people_share_neither_name_nor_identity(store: SqlStore, changes: dict[str, str]) -> None:
    fill(store)
    with pytest.raises(Conflict, match="another user"), store.begin() as uow:
        uow.users.upsert(replace(LEAD, **changes))


def test_requests_come_back_with_their_approvals_in_order(store: SqlStore) -> None:
    fill(store)
    answered = replace(REQUEST, id="req_2", approvals=(approval(9, LEAD), approval(1, AUDITOR)))
    answered = replace(answered, approvals=tuple(replace(a, request="req_2") for a in answered.approvals))
    with store.begin() as uow:
        uow.requests.add(answered)
    with store.read() as uow:
        assert uow.requests.get(REQUEST.id) == REQUEST
        assert uow.requests.get("req_2") == answered
        assert uow.requests.get("req_none") is None
        assert list(uow.requests.list()) == [answered, REQUEST]


def test_an_unlimited_duty_stays_unlimited(store: SqlStore) -> None:
    fill(store)
    plain = replace(REQUEST, id="req_plain", obligations=Obligations(), facts={}, policies=())
    with store.begin() as uow:
        uow.requests.add(plain)
    with store.read() as uow:
        assert uow.requests.get("req_plain") == plain


def test_grants_reviews_sessions_leases_come_back_as_they_were(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        uow.reviews.add(REVIEW)
        uow.leases.add(LEASE)
    with store.read() as uow:
        assert uow.grants.get(GRANT.id) == GRANT
        assert uow.reviews.get(REVIEW.id) == REVIEW == uow.reviews.by_grant(GRANT.id)
        assert list(uow.reviews.open()) == [REVIEW]
        assert uow.sessions.get(SESSION.id) == SESSION
        assert list(uow.leases.by_grant(GRANT.id)) == [LEASE] == list(uow.leases.unfinished())
        assert (uow.grants.get("x"), uow.reviews.get("x"), uow.reviews.by_grant("x")) == (None, None, None)
        assert (uow.sessions.get("x"), list(uow.leases.by_grant("x"))) == (None, [])


def test_instants_are_utc_to_the_microsecond_whatever_zone_they_came_in(store: SqlStore) -> None:
    fill(store)
    berlin = datetime(2026, 10, 25, 2, 30, 0, 1, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    odd = berlin.astimezone(timezone(timedelta(hours=-9, minutes=-30)))
    with store.begin() as uow:
        uow.credentials.add(Credential("a" * 64, "cli", ONCALL.id, berlin, odd))
    with store.read() as uow:
        found = uow.credentials.find("a" * 64, "cli")
    assert found is not None
    assert found.issued_at == found.expires_at == datetime(2026, 10, 25, 1, 30, 0, 1, tzinfo=UTC)
    assert found.issued_at.tzinfo is UTC
    assert found.expires_at.tzinfo is UTC


def test_a_naive_instant_is_refused(store: SqlStore) -> None:
    fill(store)
    with pytest.raises(StatementError, match="without a time zone"), store.begin() as uow:
        uow.gateways.beat("gw-a", datetime(2026, 1, 1))


def test_text_that_a_database_cannot_hold_never_fails_a_write(store: SqlStore) -> None:
    fill(store)
    odd = "a\0b\ud800c"
    with store.begin() as uow:
        uow.credentials.add(replace(TICKET, data={"client": odd, "grant": "g1"}))
        assert uow.sessions.save(replace(SESSION, ended_at=T0, end_reason=EndReason.KILLED, end_detail=odd))
        assert uow.grants.list(target="a\0b") == []
    with store.read() as uow:
        ended = uow.sessions.get(SESSION.id)
        assert ended is not None
        assert ended.end_detail.startswith("a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}")
        assert uow.credentials.find_by_data("ticket", "grant", "g1") is not None


# ---------------------------------------------------------------- lists


def test_requests_are_listed_newest_first_and_filtered(store: SqlStore) -> None:
    fill(store)
    others = [replace(REQUEST, id=f"req_{n}", created_at=T0 + n * MINUTE) for n in (3, 2)]
    by_lead = replace(REQUEST, id="req_4", requester=LEAD.id, created_at=T0 - HOUR, state=RequestState.REJECTED)
    with store.begin() as uow:
        for request in (*others, by_lead):
            uow.requests.add(request)
    with store.read() as uow:
        assert [r.id for r in uow.requests.list()] == ["req_3", "req_2", "req_1", "req_4"]
        assert [r.id for r in uow.requests.list(limit=2)] == ["req_3", "req_2"]
        assert [r.id for r in uow.requests.list(requester=LEAD.id)] == ["req_4"]
        assert [r.id for r in uow.requests.list(state=RequestState.REJECTED)] == ["req_4"]
        assert uow.requests.list(requester=LEAD.id, state=RequestState.PENDING) == []


def test_grants_are_listed_newest_first_and_filtered(store: SqlStore) -> None:
    fill(store)
    add_grant(store, 2)
    add_grant(store, 3, target="web-1", holder=LEAD.id)
    with store.read() as uow:
        assert [g.id for g in uow.grants.list()] == ["grt_3", "grt_2", "grt_1"]
        assert [g.id for g in uow.grants.list(limit=1)] == ["grt_3"]
        assert [g.id for g in uow.grants.list(holder=ONCALL.id)] == ["grt_2", "grt_1"]
        assert [g.id for g in uow.grants.list(target="web-1")] == ["grt_3"]
        assert [g.id for g in uow.grants.list(holder=LEAD.id, target="orders-db")] == []


def test_active_means_the_half_open_window_and_no_revocation(store: SqlStore) -> None:
    fill(store)
    second = add_grant(store, 2)
    tick = timedelta(microseconds=1)
    with store.begin() as uow:
        assert [g.id for g in uow.grants.list(active_at=T0 - tick)] == []
        assert [g.id for g in uow.grants.list(active_at=T0)] == ["grt_1"]
        assert [g.id for g in uow.grants.list(unfinished_at=T0)] == ["grt_2", "grt_1"]
        assert [g.id for g in uow.grants.list(active_at=T0 + HOUR - tick)] == ["grt_2", "grt_1"]
        assert [g.id for g in uow.grants.list(active_at=T0 + HOUR)] == ["grt_2"]
        assert [g.id for g in uow.grants.list(unfinished_at=T0 + HOUR)] == ["grt_2"]
        assert uow.grants.save(replace(second, revoked_at=T0 + 5 * MINUTE, revoked_by="lead", revoke_reason="done"))
        assert [g.id for g in uow.grants.list(active_at=T0 + 10 * MINUTE)] == ["grt_1"]


def test_sessions_are_listed_newest_first_and_filtered(store: SqlStore) -> None:
    fill(store)
    grant = add_grant(store, 2, target="web-1", holder=LEAD.id)
    newer = replace(SESSION, id="ses_2", grant=grant.id, holder=LEAD.id, target="web-1", started_at=T0 + MINUTE)
    with store.begin() as uow:
        uow.sessions.add(newer)
        assert uow.sessions.save(replace(SESSION, ended_at=T0 + HOUR, end_reason=EndReason.GRANT_EXPIRED))
    with store.read() as uow:
        assert [s.id for s in uow.sessions.list()] == ["ses_2", "ses_1"]
        assert [s.id for s in uow.sessions.list(limit=1)] == ["ses_2"]
        assert [s.id for s in uow.sessions.list(live=True)] == ["ses_2"]
        assert [s.id for s in uow.sessions.list(live=False)] == ["ses_1"]
        assert [s.id for s in uow.sessions.list(holder=LEAD.id)] == ["ses_2"]
        assert [s.id for s in uow.sessions.list(target="orders-db")] == ["ses_1"]
        assert [s.id for s in uow.sessions.list(grant=GRANT.id)] == ["ses_1"]
        assert uow.sessions.list(grant=GRANT.id, live=True) == []


def test_a_grant_in_use_holds_what_decides_now(store: SqlStore) -> None:
    fill(store)
    with store.read() as uow:
        assert uow.grants.in_use(GRANT.id) == GrantInUse(GRANT, ONCALL, REQUEST.facts, REQUEST.created_at)
        assert uow.grants.in_use("x") is None
    revoked = replace(GRANT, revoked_at=T0 + MINUTE, revoked_by="lead", revoke_reason="done")
    disabled = replace(ONCALL, disabled_at=T0 + MINUTE)
    with store.begin() as uow:
        assert uow.grants.save(revoked)
        uow.users.upsert(disabled)
    with store.read() as uow:
        assert uow.grants.in_use(GRANT.id) == GrantInUse(revoked, disabled, REQUEST.facts, REQUEST.created_at)


def test_live_views_hold_what_decides_now(store: SqlStore) -> None:
    fill(store)
    revoked = replace(GRANT, revoked_at=T0 + MINUTE, revoked_by="lead", revoke_reason="done")
    disabled = replace(ONCALL, disabled_at=T0 + MINUTE)
    with store.begin() as uow:
        uow.sessions.add(replace(SESSION, id="ses_elsewhere", gateway="gw-b"))
        uow.sessions.add(replace(SESSION, id="ses_over"))
        assert uow.sessions.save(replace(SESSION, id="ses_over", ended_at=T0, end_reason=EndReason.CLIENT_CLOSED))
    with store.read() as uow:
        assert list(uow.sessions.live_views("gw-a")) == [LiveView(SESSION, GRANT, ONCALL)]
        assert uow.sessions.live_views("gw-none") == []
    with store.begin() as uow:
        assert uow.grants.save(revoked)
        uow.users.upsert(disabled)
        assert uow.sessions.request_kill(SESSION.id, "lead")
    with store.read() as uow:
        killed = replace(SESSION, kill_requested_by="lead")
        assert list(uow.sessions.live_views("gw-a")) == [LiveView(killed, revoked, disabled)]


LONGER = replace(GRANT, window=Window(GRANT.window.not_before, GRANT.window.not_after + MINUTE))
CHANGES: dict[str, Callable[[UnitOfWork], object]] = {
    "killed": lambda uow: uow.sessions.request_kill(SESSION.id, "lead"),
    "locked": lambda uow: uow.sessions.lock(SESSION.id, "lead"),
    "revoked": lambda uow: uow.grants.save(replace(GRANT, revoked_at=T0 + MINUTE, revoked_by="lead")),
    "disabled": lambda uow: uow.users.upsert(replace(ONCALL, disabled_at=T0 + MINUTE)),
    "extended": lambda uow: uow.grants.extend(LONGER, GRANT.window.not_after),
    "another group": lambda uow: uow.users.upsert(replace(ONCALL, groups=frozenset({"other"}))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_mark_changes_with_its_view(store: SqlStore, change: Callable[[UnitOfWork], object]) -> None:
    fill(store)
    with store.begin() as uow:
        uow.sessions.add(replace(SESSION, id="ses_over"))
        uow.sessions.add(replace(SESSION, id="ses_elsewhere", gateway="gw-b"))
        assert uow.sessions.save(replace(SESSION, id="ses_over", ended_at=T0, end_reason=EndReason.CLIENT_CLOSED))
    with store.read() as uow:
        before, again = uow.sessions.live_marks("gw-a"), uow.sessions.live_marks("gw-a")
        assert [view.session.id for view in uow.sessions.live_views("gw-a", ["ses_over", SESSION.id])] == [SESSION.id]
        assert uow.sessions.live_views("gw-a", []) == []
    assert before == again
    assert before.keys() == {SESSION.id}
    with store.begin() as uow:
        assert change(uow) is not False
    with store.read() as uow:
        assert uow.sessions.live_marks("gw-a")[SESSION.id] != before[SESSION.id]


# ---------------------------------------------------------------- compare and set


def test_a_request_is_saved_only_over_the_expected_state(store: SqlStore) -> None:
    fill(store)
    once = replace(REQUEST, approvals=(approval(1),))
    granted = replace(once, state=RequestState.GRANTED, approvals=(approval(1), approval(2, AUDITOR)))
    with store.begin() as uow:
        assert uow.requests.save(once, RequestState.PENDING)
        assert uow.requests.save(granted, RequestState.PENDING)
        assert not uow.requests.save(replace(granted, state=RequestState.REJECTED), RequestState.PENDING)
        assert not uow.requests.save(replace(REQUEST, id="req_none"), RequestState.PENDING)
    with store.read() as uow:
        assert uow.requests.get(REQUEST.id) == granted


def test_an_approval_given_meanwhile_is_never_lost(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        assert uow.requests.save(replace(REQUEST, approvals=(approval(1, LEAD),)), RequestState.PENDING)
        stale = replace(REQUEST, approvals=(approval(2, AUDITOR),))
        assert not uow.requests.save(stale, RequestState.PENDING)
        assert not uow.requests.save(replace(REQUEST, state=RequestState.CANCELLED), RequestState.PENDING)
    with store.read() as uow:
        saved = uow.requests.get(REQUEST.id)
        assert saved is not None
        assert saved.approvals == (approval(1, LEAD),)


def test_a_grant_is_revoked_once_and_nothing_else_changes(store: SqlStore) -> None:
    fill(store)
    revoked = revoke(GRANT, T0 + MINUTE, "lead", "finished")
    assert not hasattr(revoked, "code")
    with store.begin() as uow:
        assert uow.grants.save(replace(revoked, level="admin", window=Window(T0, T0 + 9 * HOUR)))
        assert not uow.grants.save(replace(revoked, revoked_by="auditor"))
        assert not uow.grants.save(replace(revoked, id="grt_none"))
        assert uow.grants.get(GRANT.id) == revoked
        with pytest.raises(ValueError, match="revocation"):
            uow.grants.save(GRANT)


def test_ending_one_grant_leaves_an_overlapping_one_alone(store: SqlStore) -> None:
    fill(store)
    other = add_grant(store, 2)
    with store.begin() as uow:
        assert uow.grants.save(replace(GRANT, revoked_at=T0, revoked_by="lead"))
    with store.read() as uow:
        assert uow.grants.get(other.id) == other


def test_a_request_earns_one_grant(store: SqlStore) -> None:
    fill(store)
    with pytest.raises(InconsistentError), store.begin() as uow:
        uow.grants.add(replace(GRANT, id="grt_twin"))


def test_a_review_is_signed_once(store: SqlStore) -> None:
    fill(store)
    signed = sign_review(REVIEW, LEAD.id, "justified", "looked at the recording", T0 + HOUR)
    with store.begin() as uow:
        uow.reviews.add(REVIEW)
        assert uow.reviews.save(signed)
        assert not uow.reviews.save(replace(signed, verdict="unjustified"))
        assert not uow.reviews.save(replace(signed, id="rev_none"))
        assert uow.reviews.get(REVIEW.id) == signed
        assert uow.reviews.open() == []
        with pytest.raises(ValueError, match="signature"):
            uow.reviews.save(REVIEW)


def test_a_session_has_one_end_reason(store: SqlStore) -> None:
    fill(store)
    ended = end(SESSION, EndReason.GRANT_EXPIRED, T0 + HOUR, "deadline", "feed" * 16)
    with store.begin() as uow:
        assert uow.sessions.save(ended)
        assert not uow.sessions.save(replace(ended, end_reason=EndReason.KILLED))
        assert not uow.sessions.save(replace(ended, id="ses_none"))
        assert uow.sessions.get(SESSION.id) == ended
        with pytest.raises(ValueError, match="end"):
            uow.sessions.save(SESSION)


def test_a_kill_is_asked_for_once_and_only_while_live(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        assert uow.sessions.request_kill(SESSION.id, "lead")
        assert not uow.sessions.request_kill(SESSION.id, "auditor")
        uow.sessions.add(replace(SESSION, id="ses_over", ended_at=T0, end_reason=EndReason.CLIENT_CLOSED))
        assert not uow.sessions.request_kill("ses_over", "lead")
        assert not uow.sessions.request_kill("ses_none", "lead")
        assert uow.sessions.get(SESSION.id) == replace(SESSION, kill_requested_by="lead")
        with pytest.raises(ValueError, match="asked for it"):
            uow.sessions.request_kill(SESSION.id, "")


def test_what_runs_is_shown_while_it_runs_and_a_wish_to_cancel_it_is_a_change(store: SqlStore) -> None:
    fill(store)
    running = Running(7, "read", T0, "sealed \N{SNOWMAN}")
    with store.begin() as uow:
        uow.sessions.add(replace(SESSION, id="ses_over", ended_at=T0, end_reason=EndReason.CLIENT_CLOSED))
        before = uow.sessions.live_marks(SESSION.gateway)
        uow.sessions.show_running({SESSION.id: running, "ses_over": running, "ses_none": None})
        assert uow.sessions.get(SESSION.id) == replace(SESSION, running=running)
        assert uow.sessions.list(live=False)[0].running is None
        assert uow.sessions.live_marks(SESSION.gateway) == before  # nobody judges a session for it
        assert uow.sessions.request_cancel(SESSION.id, Cancel("m1", "lead", 7))
        marks = uow.sessions.live_marks(SESSION.gateway)
        assert marks != before
        assert uow.sessions.request_cancel(SESSION.id, Cancel("m2", "lead"))
        assert uow.sessions.live_marks(SESSION.gateway) != marks
        (view,) = uow.sessions.live_views(SESSION.gateway)
        assert view.session.cancel == Cancel("m2", "lead", 0)
        assert not uow.sessions.request_cancel("ses_over", Cancel("m3", "lead"))
        assert not uow.sessions.request_cancel("ses_none", Cancel("m3", "lead"))
        assert uow.sessions.save(replace(SESSION, ended_at=T0, end_reason=EndReason.KILLED))
        over = uow.sessions.get(SESSION.id)
        assert over is not None
        assert over.running is None


def test_a_lock_is_set_and_opened_once_and_only_while_live(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        uow.sessions.add(replace(SESSION, id="ses_over", ended_at=T0, end_reason=EndReason.CLIENT_CLOSED))
        assert not uow.sessions.lock(SESSION.id, "")
        assert uow.sessions.lock(SESSION.id, "lead")
        assert not uow.sessions.lock(SESSION.id, "auditor")
        assert uow.sessions.get(SESSION.id) == replace(SESSION, locked_by="lead")
        assert uow.sessions.lock(SESSION.id, "")
        assert uow.sessions.get(SESSION.id) == SESSION
        assert not uow.sessions.lock("ses_over", "lead")
        assert not uow.sessions.lock("ses_none", "lead")


def test_a_session_knows_when_something_last_happened(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        uow.sessions.touch([SESSION.id, "ses_none"], T0 + MINUTE)
        uow.sessions.touch([], T0)
        assert uow.sessions.get(SESSION.id) == replace(SESSION, active_at=T0 + MINUTE)


def test_an_extension_moves_the_grant_and_the_deadlines_of_its_live_sessions(store: SqlStore) -> None:
    fill(store)
    was, until = GRANT.window.not_after, GRANT.window.not_after + HOUR
    extended = replace(GRANT, window=Window(GRANT.window.not_before, until))
    over = replace(SESSION, id="ses_over", ended_at=T0, end_reason=EndReason.CLIENT_CLOSED)
    other = add_grant(store, 2)
    elsewhere = replace(SESSION, id="ses_other", grant=other.id)
    with store.begin() as uow:
        uow.sessions.add(over)
        uow.sessions.add(elsewhere)
        assert uow.grants.extend(extended, was)
        assert not uow.grants.extend(extended, was)  # it is no longer what was read
        assert not uow.grants.extend(replace(extended, id="grt_none"), was)
    with store.read() as uow:
        assert uow.grants.get(GRANT.id) == extended
        assert uow.sessions.get(SESSION.id) == replace(SESSION, deadline=until)
        assert uow.sessions.get(over.id) == over
        assert uow.sessions.get(elsewhere.id) == elsewhere


def test_what_is_revoked_is_not_extended(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        assert uow.grants.save(replace(GRANT, revoked_at=T0, revoked_by="lead"))
        assert not uow.grants.extend(GRANT, GRANT.window.not_after)


def test_the_end_of_a_session_keeps_who_asked_for_it(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        assert uow.sessions.request_kill(SESSION.id, "lead")
        assert uow.sessions.save(replace(SESSION, ended_at=T0, end_reason=EndReason.KILLED))
        saved = uow.sessions.get(SESSION.id)
    assert saved is not None
    assert saved.kill_requested_by == "lead"


# ---------------------------------------------------------------- leases and credentials


def test_leases_are_unfinished_until_dropped(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        uow.leases.add(LEASE)
        uow.leases.add(replace(LEASE, id="lse_2", state="active", created_at=T0 - HOUR))
        zombie = replace(LEASE, state="zombie", attempts=3, last_error="refused", next_attempt_at=T0 + HOUR)
        uow.leases.save(zombie)
        assert [lease.id for lease in uow.leases.unfinished()] == ["lse_2", "lse_1"]
        assert uow.leases.unfinished()[1] == zombie
        uow.leases.save(replace(zombie, state="dropped", next_attempt_at=None))
        assert [lease.id for lease in uow.leases.unfinished()] == ["lse_2"]
        assert len(uow.leases.by_grant(GRANT.id)) == 2
        with pytest.raises(LookupError, match="never added"):
            uow.leases.save(replace(LEASE, id="lse_none"))


def test_credentials_are_found_by_digest_and_by_what_they_hold(store: SqlStore) -> None:
    fill(store)
    device = Credential("e" * 64, "device", "", T0, T0 + HOUR, data={"user_code": "ABCD-EFGH", "it's": "odd"})
    newer = replace(device, digest="f" * 64, issued_at=T0 + MINUTE)
    empty = replace(device, digest="0" * 64, data=None, issued_at=T0 + HOUR)
    with store.begin() as uow:
        for credential in (TICKET, newer, device, empty):
            uow.credentials.add(credential)
    with store.read() as uow:
        assert uow.credentials.find(TICKET.digest, "ticket") == TICKET
        assert uow.credentials.find("0" * 64, "device") == empty
        assert uow.credentials.find(TICKET.digest, "cli") is None
        assert uow.credentials.find_by_data("device", "user_code", "ABCD-EFGH") == newer
        assert uow.credentials.find_by_data("device", "it's", "odd") == newer
        assert uow.credentials.find_by_data("device", "user_code", "") is None
        assert uow.credentials.find_by_data("cli", "user_code", "ABCD-EFGH") is None


def test_a_credential_is_claimed_once_before_it_expires(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        uow.credentials.add(TICKET)
        uow.credentials.add(replace(TICKET, digest="e" * 64))
        assert not uow.credentials.claim(TICKET.digest, "cli", T0)
        assert not uow.credentials.claim("e" * 64, "ticket", T0 + HOUR)
        assert uow.credentials.claim(TICKET.digest, "ticket", T0 + MINUTE)
        assert not uow.credentials.claim(TICKET.digest, "ticket", T0 + MINUTE)
        assert uow.credentials.find(TICKET.digest, "ticket") == replace(TICKET, used_at=T0 + MINUTE)


def test_saving_a_stale_credential_does_not_make_it_usable_again(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        uow.credentials.add(TICKET)
        assert uow.credentials.claim(TICKET.digest, "ticket", T0 + MINUTE)
        uow.credentials.save(replace(TICKET, subject=LEAD.id, data=None))
        saved = replace(TICKET, subject=LEAD.id, data=None, used_at=T0 + MINUTE)
        assert uow.credentials.find(TICKET.digest, "ticket") == saved
        uow.credentials.add(replace(TICKET, digest="e" * 64))
        uow.credentials.save(replace(TICKET, digest="e" * 64, used_at=T0))
        assert not uow.credentials.claim("e" * 64, "ticket", T0)
        with pytest.raises(NotFound, match="no longer valid"):
            uow.credentials.save(replace(TICKET, digest="9" * 64))


def test_credentials_are_removed_by_person_and_by_age(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        for number, purpose in enumerate(("cli", "cli", "web")):
            uow.credentials.add(replace(TICKET, digest=str(number) * 64, purpose=purpose))
        uow.credentials.add(replace(TICKET, digest="8" * 64, purpose="cli", subject=LEAD.id))
        assert uow.credentials.remove_for(ONCALL.id, "cli") == 2
        assert uow.credentials.remove_for(ONCALL.id, "cli") == 0
        assert uow.credentials.purge(T0 + HOUR) == 0
        assert uow.credentials.purge(T0 + 2 * HOUR) == 2


# ---------------------------------------------------------------- facts


def test_a_snapshot_of_shifts_replaces_the_one_before_over_its_window(store: SqlStore) -> None:
    day = Window(T0, T0 + 24 * HOUR)
    before = replace(SHIFT, window=Window(T0 - 9 * HOUR, T0 - 8 * HOUR))
    straddling = replace(SHIFT, window=Window(T0 - HOUR, T0 + HOUR))
    other = replace(SHIFT, source="ical", subject="lead", level=2)
    with store.begin() as uow:
        uow.shifts.replace("rota.yaml", Window(T0 - 24 * HOUR, T0 + 24 * HOUR), [before, straddling])
        uow.shifts.replace("ical", day, [other])
        newer = replace(straddling, subject="developer", source_hash="beef")
        uow.shifts.replace("rota.yaml", day, [newer])
        uow.shifts.replace("rota.yaml", day, [newer])
    with store.read() as uow:
        assert list(uow.shifts.covering("orders", T0, timedelta(0))) == [newer, other]
        assert list(uow.shifts.covering("orders", T0 - 8 * HOUR, timedelta(0))) == []
        assert list(uow.shifts.covering("orders", T0 - 8 * HOUR, MINUTE)) == [before]
        assert list(uow.shifts.covering("orders", T0 + HOUR, timedelta(0))) == []
        assert list(uow.shifts.covering("orders", T0 - 9 * HOUR - MINUTE, MINUTE)) == [before]
        assert list(uow.shifts.covering("search", T0, HOUR)) == []
    with store.begin() as uow:
        uow.shifts.replace("rota.yaml", day, [])
        assert list(uow.shifts.covering("orders", T0, timedelta(0))) == [other]


@pytest.mark.parametrize(
    "odd", [replace(SHIFT, source="ical"), replace(SHIFT, window=Window(T0 + HOUR, T0 + 2 * HOUR))]
)
def test_a_shift_that_no_later_snapshot_would_replace_is_refused(store: SqlStore, odd: object) -> None:
    with pytest.raises(ValueError, match="snapshot"), store.begin() as uow:
        uow.shifts.replace("rota.yaml", Window(T0, T0 + HOUR), [SHIFT, odd])
    with store.read() as uow:
        assert uow.shifts.covering("orders", T0, HOUR) == []


def test_incidents_are_what_each_source_told_last(store: SqlStore) -> None:
    closed = replace(INCIDENT, source="pagerduty", closed_at=T0, fetched_at=T0 + MINUTE)
    with store.begin() as uow:
        uow.incidents.replace("static", [INCIDENT, replace(INCIDENT, id="INC-2", opened_at=T0)])
        assert uow.incidents.get("INC-1042") == INCIDENT
        assert [i.id for i in uow.incidents.list()] == ["INC-2", "INC-1042"]
        uow.incidents.replace("pagerduty", [closed])
        assert uow.incidents.get("INC-1042") == closed
        uow.incidents.replace("pagerduty", [])
        uow.incidents.replace("static", [INCIDENT])
        assert list(uow.incidents.list()) == [INCIDENT]
        assert uow.incidents.get("INC-2") is None
        with pytest.raises(ValueError, match="another source"):
            uow.incidents.replace("static", [closed])


def test_gateways_are_silent_when_their_last_beat_is_old(store: SqlStore) -> None:
    with store.begin() as uow:
        uow.gateways.beat("gw-a", T0)
        uow.gateways.beat("gw-b", T0)
        uow.gateways.beat("gw-b", T0 + MINUTE)
        assert (uow.gateways.heard("gw-b"), uow.gateways.heard("gw-c")) == (T0 + MINUTE, None)
        assert list(uow.gateways.silent_since(T0)) == []
        assert list(uow.gateways.silent_since(T0 + MINUTE)) == ["gw-a"]
        uow.gateways.forget("gw-a")
        assert list(uow.gateways.silent_since(T0 + HOUR)) == ["gw-b"]


# ---------------------------------------------------------------- transactions


def test_an_exception_leaves_nothing_behind(store: SqlStore) -> None:
    with pytest.raises(ZeroDivisionError), store.begin() as uow:
        uow.users.upsert(ONCALL)
        uow.events.append(EVENT)
        _ = 1 / 0
    with store.read() as uow:
        assert uow.users.all() == []


def test_an_event_twice_is_refused_and_its_state_with_it(store: SqlStore) -> None:
    with store.begin() as uow:
        uow.events.append(EVENT)
    with pytest.raises(InconsistentError), store.begin() as uow:
        uow.users.upsert(ONCALL)
        uow.events.append(EVENT)
    with store.read() as uow:
        assert uow.users.all() == []


def test_a_failed_statement_fails_the_whole_even_when_it_was_caught(store: SqlStore) -> None:
    fill(store)
    with pytest.raises(RuntimeError, match="nothing of it was stored"), store.begin() as uow:
        uow.gateways.beat("gw-z", T0)
        with pytest.raises(InconsistentError):
            uow.sessions.add(SESSION)
    with store.read() as uow:
        assert uow.gateways.silent_since(T0 + HOUR) == []


def test_a_session_needs_its_grant_and_a_grant_its_request(store: SqlStore) -> None:
    fill(store)
    with pytest.raises(InconsistentError), store.begin() as uow:
        uow.sessions.add(replace(SESSION, id="ses_2", grant="grt_none"))
    with pytest.raises(InconsistentError), store.begin() as uow:
        uow.grants.add(replace(GRANT, id="grt_2", request="req_none"))


def test_reading_cannot_write(store: SqlStore) -> None:
    fill(store)
    with pytest.raises(WroteWhileReadingError), store.read() as uow:
        uow.users.upsert(replace(ONCALL, id="usr_9", name="intruder", subject="sub-9"))
    with pytest.raises(WroteWhileReadingError), store.read() as uow:
        uow.events.append(EVENT)
    with pytest.raises(WroteWhileReadingError), store.read() as uow:
        uow.sessions.request_kill(SESSION.id, "intruder")
    with store.read() as uow:
        assert uow.users.by_name("intruder") is None
    with store.begin() as uow:  # and reading did not spoil the connections for writing
        uow.gateways.beat("gw-a", T0)


def test_a_reader_sees_one_state(store: SqlStore) -> None:
    fill(store)
    with store.read() as view:
        assert view.gateways.silent_since(T0 + HOUR) == []
        with store.begin() as uow:
            uow.gateways.beat("gw-a", T0)
        assert view.gateways.silent_since(T0 + HOUR) == []
    with store.read() as view:
        assert list(view.gateways.silent_since(T0 + HOUR)) == ["gw-a"]


def test_a_unit_of_work_is_entered_once(store: SqlStore) -> None:
    work = store.begin()
    with work:
        pass
    with pytest.raises(RuntimeError, match="entered once"):
        work.__enter__()
    with pytest.raises(RuntimeError, match="not entered"):
        store.begin().__exit__(None, None, None)
