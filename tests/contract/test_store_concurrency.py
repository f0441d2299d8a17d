from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from multiprocessing import get_context
from threading import Barrier, Event

from gateway.adapters.store import SqlStore
from gateway.core.errors import Refusal
from gateway.core.grant import issue
from gateway.core.obligation import Obligations
from gateway.core.request import RequestState, add_approval, settle
from gateway.core.session import EndReason
from tests.contract.store_values import AUDITOR, GRANT, LEAD, REQUEST, SESSION, T0, TICKET, approval, fill

WRITERS = 8
EACH = 50
_SPAWN = get_context("spawn")  # a forked pool would inherit the parent's database connections


def _at_once(*calls: Callable[[], object]) -> list[object]:
    """Run the calls in threads that start together; their results in order."""
    gate = Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        gate.wait(timeout=30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [f.result(timeout=60) for f in [pool.submit(run, call) for call in calls]]


def test_of_two_approvals_at_once_one_grants(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        pending = replace(REQUEST, id="req_two", obligations=Obligations(approvals=1))
        uow.requests.add(pending)

    def approve(number: int, approver: object) -> Callable[[], bool]:
        # Judged on what was read before: the write has to notice that somebody was faster.
        answered = add_approval(pending, replace(approval(number, approver), request="req_two"))
        grant = issue(answered, f"grt_two_{number}", T0)
        settled = settle(answered, RequestState.GRANTED)
        assert not any(isinstance(value, Refusal) for value in (answered, grant, settled))

        def write() -> bool:
            with store.begin() as uow:
                won = uow.requests.save(settled, RequestState.PENDING)
                if won:
                    uow.grants.add(grant)
                return won

        return write

    results = _at_once(approve(1, LEAD), approve(2, AUDITOR))
    assert sorted(results) == [False, True]
    with store.read() as uow:
        saved = uow.requests.get("req_two")
        assert saved is not None
        assert len(saved.approvals) == 1
        assert len([g for g in uow.grants.list() if g.request == "req_two"]) == 1


def test_a_ticket_is_claimed_by_exactly_one_thread(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        uow.credentials.add(TICKET)

    def claim() -> bool:
        with store.begin() as uow:
            return uow.credentials.claim(TICKET.digest, "ticket", T0)

    assert sorted(_at_once(*[claim] * WRITERS)) == [False] * (WRITERS - 1) + [True]


def _claim_in_a_process(url: str) -> bool:
    store = SqlStore(url)
    try:
        with store.begin() as uow:
            return uow.credentials.claim(TICKET.digest, "ticket", T0)
    finally:
        store.close()


def test_a_ticket_is_claimed_by_exactly_one_process(store: SqlStore, store_url: str) -> None:
    fill(store)
    with store.begin() as uow:
        uow.credentials.add(TICKET)
    with ProcessPoolExecutor(3, mp_context=_SPAWN) as pool:
        assert sorted(pool.map(_claim_in_a_process, [store_url] * 3, timeout=60)) == [False, False, True]


def test_a_session_is_killed_once_and_ends_once(store: SqlStore) -> None:
    fill(store)

    def kill(by: str) -> Callable[[], bool]:
        def write() -> bool:
            with store.begin() as uow:
                return uow.sessions.request_kill(SESSION.id, by)

        return write

    def end(reason: EndReason) -> Callable[[], bool]:
        def write() -> bool:
            with store.begin() as uow:
                return uow.sessions.save(replace(SESSION, ended_at=T0, end_reason=reason))

        return write

    assert sorted(_at_once(kill("lead"), kill("auditor"))) == [False, True]
    reasons = (EndReason.KILLED, EndReason.GRANT_EXPIRED, EndReason.CLIENT_CLOSED)
    results = _at_once(*[end(reason) for reason in reasons])
    assert sorted(results) == [False, False, True]
    with store.read() as uow:
        saved = uow.sessions.get(SESSION.id)
    assert saved is not None
    assert saved.end_reason is reasons[results.index(True)]


def test_a_grant_is_revoked_once(store: SqlStore) -> None:
    fill(store)

    def revoke(by: str) -> Callable[[], bool]:
        def write() -> bool:
            with store.begin() as uow:
                return uow.grants.save(replace(GRANT, revoked_at=T0, revoked_by=by))

        return write

    assert sorted(_at_once(revoke("lead"), revoke("auditor"))) == [False, True]


def _add_up(store: SqlStore, times: int) -> None:
    """Read, add one, write: loses updates unless the whole transaction is alone."""
    for _ in range(times):
        with store.begin() as uow:
            counter = uow.credentials.find(TICKET.digest, "ticket")
            assert counter is not None
            assert counter.data is not None
            uow.credentials.save(replace(counter, data={"count": str(int(counter.data["count"]) + 1)}))


def _add_up_in_a_process(url: str, times: int) -> None:
    store = SqlStore(url)
    try:
        _add_up(store, times)
    finally:
        store.close()


def _count(store: SqlStore) -> int:
    with store.read() as uow:
        counter = uow.credentials.find(TICKET.digest, "ticket")
    assert counter is not None
    assert counter.data is not None
    return int(counter.data["count"])


def test_many_writing_threads_lose_nothing(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        uow.credentials.add(replace(TICKET, data={"count": "0"}))
    _at_once(*[lambda: _add_up(store, EACH)] * WRITERS)
    assert _count(store) == WRITERS * EACH


def test_many_writing_processes_lose_nothing(store: SqlStore, store_url: str) -> None:
    fill(store)
    with store.begin() as uow:
        uow.credentials.add(replace(TICKET, data={"count": "0"}))
    with ProcessPoolExecutor(2, mp_context=_SPAWN) as pool:
        others = [pool.submit(_add_up_in_a_process, store_url, EACH) for _ in range(2)]
        _at_once(*[lambda: _add_up(store, EACH)] * 2)
        for other in others:
            other.result(timeout=60)
    assert _count(store) == 4 * EACH


def test_what_was_read_before_writing_cannot_change_underneath(store: SqlStore) -> None:
    """Write skew: of two people, each may be disabled only while the other is enabled."""
    fill(store)
    with store.begin() as uow:
        uow.users.upsert(replace(LEAD, disabled_at=None))
    second_has_read = Event()

    def disable_auditor() -> bool:
        with store.begin() as uow:
            is_other_enabled = uow.users.get(LEAD.id).is_enabled()
            second_has_read.set()
            if is_other_enabled:
                uow.users.upsert(replace(AUDITOR, disabled_at=T0))
            return is_other_enabled

    with ThreadPoolExecutor(1) as pool:
        with store.begin() as uow:
            assert uow.users.get(AUDITOR.id).is_enabled()
            second = pool.submit(disable_auditor)
            assert not second_has_read.wait(timeout=0.3)  # it is kept out before its first read
            uow.users.upsert(replace(LEAD, disabled_at=T0))
        assert second.result(timeout=30) is False


def test_readers_are_not_kept_waiting_by_a_writer(store: SqlStore) -> None:
    fill(store)
    with store.begin() as writer:
        writer.gateways.beat("gw-a", T0)

        def read() -> int:
            with store.read() as uow:
                return len(uow.gateways.silent_since(T0 + timedelta(hours=1)))

        assert _at_once(*[read] * WRITERS) == [0] * WRITERS
