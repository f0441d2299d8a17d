"""Runs, locks and placements on both databases."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context

import pytest

from gateway.adapters.store import SqlStore
from gateway.adapters.store.transaction import InconsistentError
from gateway.core.errors import Refusal
from gateway.core.rollout import Lock, Placement, Run, RunState, Step, StepState, is_held, outcome, take

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
_SPAWN = get_context("spawn")
WRITERS = 6
EACH = 15


def run(number: int = 1, *, gateway: str = "gw-1", key: str = "") -> Run:
    return Run(
        f"run_{number}", key or f"key-{number}", "wkl_1", "workload", "github:octo/shop", "deploy", ("web-1", "web-2"),
        {"version": "1.0"}, "1.0", is_rollback=False, gateway=gateway, started_at=AT, deadline=AT + timedelta(minutes=10),
        client="192.0.2.1", pipeline={"repository": "octo/shop"}, incident="INC-1", reason="because", grant="",
        input_digest="ab" * 32, goes_back_on=("web-2",),
    )  # fmt: skip


def steps(of: Run) -> list[Step]:
    return [Step(of.id, target, place, f"ses_{of.id}_{place}", "app", 1) for place, target in enumerate(of.targets)]


def test_a_run_comes_back_as_it_was(store: SqlStore) -> None:
    one, parts = run(), steps(run())
    with store.begin() as uow:
        uow.deploys.add(one, parts)
    with store.read() as uow:
        assert uow.deploys.get(one.id) == one
        assert uow.deploys.by_key(one.key) == one
        assert list(uow.deploys.steps(one.id)) == parts
        assert uow.deploys.step_of_session(parts[1].session) == (one, parts[1])
        assert uow.deploys.step_of_session("ses_other") is None
        assert [r.id for r in uow.deploys.running("gw-1")] == [one.id]
        assert list(uow.deploys.running("gw-2")) == []


def test_the_first_end_stands(store: SqlStore) -> None:
    one = run()
    over = outcome(one, [replace(s, state=StepState.SUCCEEDED) for s in steps(one)], AT)
    with store.begin() as uow:
        uow.deploys.add(one, steps(one))
        assert uow.deploys.request_cancel(one.id, "lead")
        assert not uow.deploys.request_cancel(one.id, "oncall")
        assert uow.deploys.save(over)
        assert not uow.deploys.save(replace(over, state=RunState.FAILED))
        assert not uow.deploys.request_cancel(one.id, "lead")
    with store.read() as uow:
        kept = uow.deploys.get(one.id)
        assert kept == replace(over, cancelled_by="lead")
        assert list(uow.deploys.running()) == []


def test_a_step_moves_only_from_where_it_was(store: SqlStore) -> None:
    one, (first, _) = run(), steps(run())
    begun = replace(first, state=StepState.RUNNING, started_at=AT)
    with store.begin() as uow:
        uow.deploys.add(one, steps(one))
        assert uow.deploys.save_step(begun, StepState.WAITING)
        assert not uow.deploys.save_step(begun, StepState.WAITING)
        uow.deploys.set_role(replace(begun, role="gw_migrate_x"))
        ended = replace(begun, state=StepState.FAILED, exit_status=7, detail="exit status 7", recording_digest="3:ab")
        assert list(uow.deploys.steps_with_roles()) == []
        assert uow.deploys.save_step(ended, StepState.RUNNING)
        (left,) = uow.deploys.steps_with_roles()
        assert left == replace(ended, role="gw_migrate_x")
        uow.deploys.role_is_gone(left)
        assert list(uow.deploys.steps_with_roles()) == []


def test_one_key_is_one_run_whatever_the_code_above_believes(store: SqlStore) -> None:
    with store.begin() as uow:
        uow.deploys.add(run(1, key="same"), [])
    with pytest.raises(InconsistentError), store.begin() as uow:
        uow.deploys.add(run(2, key="same"), [])


def test_runs_are_listed_newest_first_and_by_target(store: SqlStore) -> None:
    with store.begin() as uow:
        for number in range(1, 6):
            each = replace(run(number), started_at=AT + timedelta(minutes=number))
            uow.deploys.add(each, steps(each)[: 1 + number % 2])
    with store.read() as uow:
        assert [r.id for r in uow.deploys.list()] == [f"run_{n}" for n in (5, 4, 3, 2, 1)]
        assert [r.id for r in uow.deploys.list(target="web-2")] == ["run_5", "run_3", "run_1"]
        assert [r.id for r in uow.deploys.list(limit=2)] == ["run_5", "run_4"]


def test_a_lock_that_was_taken_over_is_not_freed_by_its_old_owner(store: SqlStore) -> None:
    with store.begin() as uow:
        first = take(uow.deploys.lock("web-1"), run(1), "web-1", AT, ())
        assert isinstance(first, Lock)
        uow.deploys.put_lock(first)
        second = take(uow.deploys.lock("web-1"), run(2, gateway="gw-2"), "web-1", AT, ("gw-1",))
        assert isinstance(second, Lock)
        uow.deploys.put_lock(second)
        assert not uow.deploys.release("web-1", "run_1", first.fence)
        assert is_held(uow.deploys.lock("web-1"), "run_2", second.fence)
        assert uow.deploys.release("web-1", "run_2", second.fence)
        assert not uow.deploys.release("web-1", "run_2", second.fence)
        third = take(uow.deploys.lock("web-1"), run(3), "web-1", AT, ())
        assert isinstance(third, Lock)
        assert third.fence == second.fence + 1


def test_what_runs_where(store: SqlStore) -> None:
    one = Placement("web-1", ("1.0", "1.1"), "run_1", "ci", AT, attempted="1.2", undoing=True)
    other = Placement("web-2", (), "run_1", "ci", AT)
    with store.begin() as uow:
        uow.deploys.put_placement(replace(one, trail=()))
        uow.deploys.put_placement(one)
        uow.deploys.put_placement(other)
    with store.read() as uow:
        assert uow.deploys.placements() == {"web-1": one, "web-2": other}
        assert uow.deploys.placements(["web-1"]) == {"web-1": one}
        assert uow.deploys.placements(["web-9"]) == {}


# ---------------------------------------------------------------- at once


def _take_and_hold(url: str, writer: int) -> list[tuple[int, int]]:
    """Take the lock as often as it can be had: (fence, number of holders seen while holding it)."""
    store = SqlStore(url)
    held: list[tuple[int, int]] = []
    for number in range(EACH):
        mine = run(writer * 1000 + number, gateway=f"gw-{writer}")
        with store.begin() as uow:
            lock = take(uow.deploys.lock("web-1"), mine, "web-1", AT, ())
            if isinstance(lock, Refusal):
                continue
            uow.deploys.put_lock(lock)
            uow.deploys.add(mine, [])
        with store.begin() as uow:
            held.append((lock.fence, len(uow.deploys.running())))
            uow.deploys.save(outcome(mine, [], AT))
            assert uow.deploys.release("web-1", mine.id, lock.fence)
    store.close()
    return held


def test_processes_never_hold_one_lock_at_once(store_url: str) -> None:
    with ProcessPoolExecutor(WRITERS, mp_context=_SPAWN) as pool:
        results = [pool.submit(_take_and_hold, store_url, writer) for writer in range(WRITERS)]
        held = [each for result in results for each in result.result(timeout=90)]
    fences = [fence for fence, _ in held]
    assert len(fences) == len(set(fences)) >= EACH, "every owner has a fence of its own"
    assert {holders for _, holders in held} == {1}


def test_of_many_who_ask_at_once_one_gets_the_lock(store: SqlStore) -> None:
    def ask(number: int) -> bool:
        with store.begin() as uow:
            lock = take(uow.deploys.lock("web-1"), run(number), "web-1", AT, ())
            if isinstance(lock, Lock):
                uow.deploys.put_lock(lock)
        return isinstance(lock, Lock)

    asks: list[Callable[[], bool]] = [lambda n=n: ask(n) for n in range(16)]  # type: ignore[misc]
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda each: each(), asks)) == 1
