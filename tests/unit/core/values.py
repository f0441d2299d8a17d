from dataclasses import replace
from datetime import UTC, datetime, timedelta

from gateway.core.grant import Grant, issue
from gateway.core.obligation import Obligations
from gateway.core.request import Approval, Request, RequestKind, Verdict

T0 = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
TICK = timedelta(microseconds=1)
PLAIN = Request(
    id="req_1",
    requester="usr_oncall",
    requester_name="oncall",
    target="orders-db",
    level="read",
    duration=HOUR,
    reason="p99 of search",
    incident="INC-1042",
    kind=RequestKind.STANDARD,
    created_at=T0,
    obligations=Obligations(),
    policies=("on-call-read",),
    policy_set="ab" * 32,
)


def request(*, approvals: int = 0, **changes: object) -> Request:
    return replace(PLAIN, obligations=Obligations(approvals=approvals), **changes)


def answer(approver: str, verdict: Verdict = Verdict.APPROVE, at: datetime = T0) -> Approval:
    return Approval(f"apr_{approver}", PLAIN.id, approver, verdict, at)


def grant(at: datetime = T0, **changes: object) -> Grant:
    issued = issue(replace(PLAIN, created_at=at), "grt_1", at)
    assert isinstance(issued, Grant)
    return replace(issued, **changes)
