"""Values to fill a store with, every field set to something of its own."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from gateway.app.people_ports import Credential
from gateway.app.ports import Store
from gateway.app.target_ports import Lease
from gateway.core.event import Event
from gateway.core.grant import Grant, Review
from gateway.core.incident import Incident
from gateway.core.obligation import Obligations, Record, StepUp
from gateway.core.principal import User
from gateway.core.request import Approval, Request, RequestKind, Verdict
from gateway.core.rota import Shift
from gateway.core.session import Cancel, EndReason, Protocol, Running, Session
from gateway.core.window import Window

T0 = datetime(2026, 3, 2, 9, 0, 0, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)
DUTIES = Obligations(
    max_duration=timedelta(hours=4, microseconds=7),
    approvals=2,
    review=True,
    review_within=timedelta(days=3),
    record=Record.REQUIRE,
    notify=frozenset({"slack", "pager"}),
    step_up=StepUp.EACH,
    max_auth_age=timedelta(minutes=10, microseconds=3),
)
ONCALL = User("usr_1", "https://id.example", "sub-1", "oncall", "oncall@example.com", frozenset({"engineers", "x"}))
LEAD = User("usr_2", "https://id.example", "sub-2", "lead", disabled_at=T0)
AUDITOR = User("usr_3", "https://id.example", "sub-3", "auditor")
REQUEST = Request(
    id="req_1",
    requester=ONCALL.id,
    requester_name=ONCALL.name,
    target="orders-db",
    level="read",
    duration=timedelta(hours=1, microseconds=1),
    reason="p99 of search 8 s, naïve \N{SNOWMAN} 'quoted'",
    incident="INC-1042",
    kind=RequestKind.BREAK_GLASS,
    created_at=T0,
    obligations=DUTIES,
    policies=("on-call-read", "incident-open"),
    policy_set="ab" * 32,
    facts={"on_call": {"until": "2026-03-02T18:00:00Z", "level": 1}, "groups": ["engineers"], "open": True, "n": None},
)
GRANT = Grant(
    id="grt_1",
    request=REQUEST.id,
    holder=ONCALL.id,
    holder_name=ONCALL.name,
    target="orders-db",
    level="read",
    window=Window(T0, T0 + HOUR),
    kind=RequestKind.BREAK_GLASS,
    obligations=DUTIES,
    incident="INC-1042",
    approvals=2,
)
REVIEW = Review("rev_1", GRANT.id, ONCALL.id, T0 + timedelta(days=1))
SESSION = Session(
    "ses_1", GRANT.id, ONCALL.id, ONCALL.name, "orders-db", "read",
    Protocol.POSTGRES, "192.0.2.7:50123", "gw-a", T0, T0 + HOUR,
)  # fmt: skip
LEASE = Lease("lse_1", GRANT.id, "orders-db", "read", "gw_lse_1", "gw-a", "creating", T0, T0 + HOUR)
TICKET = Credential("d" * 64, "ticket", ONCALL.id, T0, T0 + HOUR, single_use=True, data={"grant": GRANT.id})
INCIDENT = Incident("INC-1042", "orders", "search is slow", T0 - HOUR, None, "static", T0)
SHIFT = Shift("orders", "oncall", 1, Window(T0 - HOUR, T0 + HOUR), "rota.yaml", T0, "cafe")
EVENT = Event("evt_1", T0, "grant:issued", "gw-a", principal=ONCALL.id, target="orders-db", data={"level": "read"})


REVOKED = replace(GRANT, revoked_at=T0, revoked_by="usr_2", revoke_reason="finished")
SIGNED = replace(REVIEW, reviewer="usr_2", verdict="justified", note="seen", signed_at=T0)
ENDED = replace(
    SESSION,
    ended_at=T0 + HOUR,
    end_reason=EndReason.KILLED,
    end_detail="by lead",
    recording_digest="feed" * 16,
    kill_requested_by="lead",
    locked_by="lead",
    active_at=T0 + HOUR,
    running=Running(7, "read", T0, "sealed"),
    cancel=Cancel("mark", "lead", 7),
)
TRIED_LEASE = replace(
    LEASE, state="zombie", attempts=3, last_error="refused", next_attempt_at=T0 + HOUR, place="db-1:5432/orders"
)
USED_TICKET = replace(TICKET, used_at=T0)
CLOSED_INCIDENT = replace(INCIDENT, closed_at=T0)


def approval(number: int, approver: User = LEAD, request: Request = REQUEST) -> Approval:
    return Approval(
        f"apr_{number}", request.id, approver.id, Verdict.APPROVE, T0 + number * timedelta(microseconds=1), "fine"
    )


def fill(store: Store) -> None:
    """The people, one request, its grant, and a session under it."""
    with store.begin() as uow:
        for user in (ONCALL, LEAD, AUDITOR):
            uow.users.upsert(user)
        uow.requests.add(REQUEST)
        uow.grants.add(GRANT)
        uow.sessions.add(SESSION)


def add_grant(store: Store, number: int, **changes: object) -> Grant:
    """One more request with its grant, `number` minutes later."""
    later = number * timedelta(minutes=1)
    request = replace(REQUEST, id=f"req_{number}", created_at=T0 + later)
    window = Window(GRANT.window.not_before + later, GRANT.window.not_after + later)
    grant = replace(GRANT, id=f"grt_{number}", request=request.id, window=window, **changes)
    with store.begin() as uow:
        uow.requests.add(request)
        uow.grants.add(grant)
    return grant
