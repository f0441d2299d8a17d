"""Any sequence of asking, answering, issuing, revoking, opening and ending, under a clock that jumps both ways."""

from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from gateway.core.errors import Refusal
from gateway.core.grant import Grant, GrantState, Review, issue, review_owed, revoke, sign_review
from gateway.core.obligation import Obligations
from gateway.core.request import PENDING_FOR, Approval, Request, RequestState, Verdict, add_approval, settle
from gateway.core.session import EndReason, Protocol, Session, begin, end, verdict
from tests.unit.core.values import PLAIN, T0

people = st.sampled_from(["usr_a", "usr_b", "usr_c", "usr_d"])
# Far enough, often enough, to cross the end of a grant or of a request's patience, in both directions.
far = st.sampled_from([timedelta(hours=h) for h in (-9, -1, 1, 5, 8)])
jumps = far | st.timedeltas(min_value=timedelta(hours=-10), max_value=timedelta(hours=10))


class Lifecycle(RuleBasedStateMachine):
    """Keeps what a store would keep, and beside it what it has seen happen, to judge the rules by."""

    requests = Bundle("requests")
    grants = Bundle("grants")
    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.at = T0
        self.asked: dict[str, Request] = {}
        self.held: dict[str, Grant] = {}
        self.owed: dict[str, Review] = {}
        self.opened: dict[str, Session] = {}
        self.granted_from: list[str] = []
        self.began_at: dict[str, datetime] = {}
        self.revoked_grants: set[str] = set()
        self.end_reasons: dict[str, list[EndReason]] = {}

    # ------------------------------------------------------------ what people and time do

    @rule(by=jumps)
    def the_clock_moves(self, by: timedelta) -> None:
        self.at += by

    @rule(
        target=requests,
        who=people,
        quorum=st.integers(0, 3),
        minutes=st.integers(1, 600),
        limit=st.none() | st.integers(1, 300),
        review=st.booleans(),
    )
    def ask(self, who: str, quorum: int, minutes: int, limit: int | None, review: bool) -> str:
        duties = Obligations(timedelta(minutes=limit) if limit else None, quorum, review)
        request = replace(
            PLAIN,
            id=f"req_{len(self.asked)}",
            requester=who,
            created_at=self.at,
            duration=timedelta(minutes=minutes),
            obligations=duties,
        )
        self.asked[request.id] = request
        return request.id

    @rule(key=requests, who=people, said=st.sampled_from(Verdict))
    def answer(self, key: str, who: str, said: Verdict) -> None:
        before = self.asked[key]
        after = add_approval(before, Approval(f"apr_{len(before.approvals)}", key, who, said, self.at))
        if isinstance(after, Refusal):
            return
        assert before.state is RequestState.PENDING
        assert who != before.requester
        assert who not in {a.approver for a in before.approvals}
        assert self.at < before.created_at + PENDING_FOR
        assert after.state is (RequestState.REJECTED if said is Verdict.REJECT else RequestState.PENDING)
        self.asked[key] = after

    @rule(key=requests, state=st.sampled_from([RequestState.CANCELLED, RequestState.LAPSED]))
    def give_up(self, key: str, state: RequestState) -> None:
        settled = settle(self.asked[key], state)
        if isinstance(settled, Request):
            self.asked[key] = settled

    @rule(target=grants, key=requests)
    def issue(self, key: str) -> object:
        request = self.asked[key]
        grant = issue(request, f"grt_{len(self.held)}", self.at)
        settled = settle(request, RequestState.GRANTED)
        if isinstance(grant, Refusal):
            return multiple()
        assert isinstance(settled, Request)
        others = {a.approver for a in request.approvals if a.verdict is Verdict.APPROVE} - {request.requester}
        assert len(others) >= request.obligations.approvals
        assert not any(a.verdict is Verdict.REJECT for a in request.approvals)
        assert request.state is RequestState.PENDING
        assert self.at < request.created_at + PENDING_FOR
        self.asked[key] = settled
        self.held[grant.id] = grant
        self.granted_from.append(key)
        review = review_owed(grant, f"rev_{grant.id}")
        assert (review is not None) == request.obligations.review
        if review is not None:
            self.owed[grant.id] = review
        return grant.id

    @rule(key=grants, who=people)
    def revoke(self, key: str, who: str) -> None:
        others = {k: (g, g.state(self.at)) for k, g in self.held.items() if k != key}
        after = revoke(self.held[key], self.at, who, "finished")
        if isinstance(after, Refusal):
            return
        assert key not in self.revoked_grants
        self.held[key] = after
        self.revoked_grants.add(key)
        assert others == {k: (g, g.state(self.at)) for k, g in self.held.items() if k != key}

    @rule(target=sessions, key=grants)
    def open(self, key: str) -> object:
        session = begin(
            self.held[key],
            session_id=f"ses_{len(self.opened)}",
            protocol=Protocol.SSH,
            client="192.0.2.7:5",
            gateway="gw-a",
            at=self.at,
        )
        if isinstance(session, Refusal):
            return multiple()
        assert key not in self.revoked_grants
        self.opened[session.id] = session
        self.began_at[session.id] = self.at
        self.end_reasons[session.id] = []
        return session.id

    @rule(key=sessions, reason=st.sampled_from(EndReason))
    def end(self, key: str, reason: EndReason) -> None:
        after = end(self.opened[key], reason, self.at)
        if isinstance(after, Session):
            self.opened[key] = after
            self.end_reasons[key].append(reason)

    @rule(key=consumes(sessions))
    def end_for_the_last_time(self, key: str) -> None:
        self.end(key, EndReason.CLIENT_CLOSED)

    @rule(key=grants, who=people, judged=st.sampled_from(["justified", "unjustified", "fine"]))
    def review(self, key: str, who: str, judged: str) -> None:
        if key not in self.owed:
            return
        before = self.owed[key]
        after = sign_review(before, who, judged, "seen", self.at)
        if isinstance(after, Review):
            assert before.is_open()
            assert who != self.held[key].holder
            self.owed[key] = after

    @rule()
    def the_supervisor_looks(self) -> None:
        for key, session in self.opened.items():
            if not session.is_live():
                continue
            grant = self.held[session.grant]
            reason = verdict(grant, self.at, user_enabled=True)
            if reason is not None:
                self.end(key, reason)
        for session in self.opened.values():
            if session.is_live():
                grant = self.held[session.grant]
                assert grant.window.not_before <= self.at < grant.window.not_after
                assert grant.id not in self.revoked_grants

    # ------------------------------------------------------------ what must hold after each step

    @invariant()
    def a_request_earns_one_grant(self) -> None:
        assert len(self.granted_from) == len(set(self.granted_from))

    @invariant()
    def a_grant_lasts_no_longer_than_asked_and_allowed(self) -> None:
        for grant in self.held.values():
            request = self.asked[grant.request]
            length = grant.window.not_after - grant.window.not_before
            assert length <= request.duration
            assert request.obligations.max_duration is None or length <= request.obligations.max_duration
            assert (grant.holder, grant.target, grant.level) == (request.requester, request.target, request.level)

    @invariant()
    def a_session_began_inside_the_window_of_its_grant(self) -> None:
        for key, session in self.opened.items():
            window = self.held[session.grant].window
            assert window.not_before <= self.began_at[key] < window.not_after
            assert session.deadline == window.not_after
            assert session.holder == self.held[session.grant].holder

    @invariant()
    def a_session_has_one_end_reason(self) -> None:
        for key, session in self.opened.items():
            assert self.end_reasons[key] == ([] if session.is_live() else [session.end_reason])
            assert session.ended_at is None or session.ended_at >= session.started_at

    @invariant()
    def nobody_judges_their_own(self) -> None:
        for request in self.asked.values():
            assert request.requester not in {a.approver for a in request.approvals}
        for review in self.owed.values():
            assert review.reviewer != review.holder

    @invariant()
    def a_revoked_grant_is_never_active(self) -> None:
        for key in self.revoked_grants:
            assert self.held[key].state(self.at) is GrantState.REVOKED


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
