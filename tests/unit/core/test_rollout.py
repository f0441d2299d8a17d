from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from gateway.core.freeze import Freeze, in_force
from gateway.core.rollout import (
    LOCK_SLACK,
    Lock,
    Placement,
    Run,
    RunState,
    Step,
    StepState,
    WayBack,
    is_held,
    outcome,
    place,
    take,
    way_back,
)
from gateway.core.window import Window

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def run(version: str = "v1", *, is_rollback: bool = False, run_id: str = "run_1", gateway: str = "gw-1") -> Run:
    return Run(
        run_id, f"key-{run_id}", "usr_1", "user", "oncall", "rollback" if is_rollback else "deploy", ("web-1",),
        {"version": version}, version, is_rollback, gateway, AT, AT + timedelta(minutes=10),
    )  # fmt: skip


def step(target: str, state: StepState, **more: object) -> Step:
    return replace(Step("run_1", target, 0, "ses_1", "app", 1, state), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([StepState.SUCCEEDED, StepState.SUCCEEDED], RunState.SUCCEEDED),
        ([StepState.SUCCEEDED, StepState.FAILED, StepState.NOT_RUN], RunState.FAILED),
        ([StepState.CANCELLED, StepState.NOT_RUN], RunState.CANCELLED),
        ([StepState.SUCCEEDED, StepState.INTERRUPTED], RunState.INTERRUPTED),
        ([StepState.NOT_RUN, StepState.NOT_RUN], RunState.FAILED),
        ([StepState.SUCCEEDED, StepState.NOT_RUN], RunState.FAILED),
    ],
)
def test_a_run_ends_as_its_first_broken_step(states: list[StepState], expected: RunState) -> None:
    steps = [step(f"web-{i}", state) for i, state in enumerate(states)]
    over = outcome(run(), steps, AT)
    assert (over.state, over.ended_at, over.is_over()) == (expected, AT, True)


def test_the_exit_status_is_passed_on() -> None:
    over = outcome(run(), [step("web-1", StepState.FAILED, exit_status=7, detail="exit status 7")], AT)
    assert (over.exit_status, over.detail) == (7, "web-1: exit status 7")


# ---------------------------------------------------------------- locks


def test_one_run_per_target() -> None:
    lock = take(None, run(), "web-1", AT, ())
    assert isinstance(lock, Lock)
    refusal = take(lock, run(run_id="run_2", gateway="gw-2"), "web-1", AT, ())
    assert isinstance(refusal, Refusal)
    assert "oncall" in refusal.message
    assert "run_1" in refusal.message


@pytest.mark.parametrize(
    ("lock_change", "later", "dead"),
    [({"run": ""}, timedelta(0), ()), ({}, timedelta(0), ("gw-1",)), ({}, timedelta(minutes=10) + LOCK_SLACK, ())],
)
def test_a_lock_that_nobody_lives_to_hold_is_taken_over(
    lock_change: dict[str, str], later: timedelta, dead: tuple[str, ...]
) -> None:
    first = take(None, run(), "web-1", AT, ())
    assert isinstance(first, Lock)
    second = take(replace(first, **lock_change), run(run_id="run_2", gateway="gw-2"), "web-1", AT + later, dead)
    assert isinstance(second, Lock)
    assert second.fence > first.fence
    assert not is_held(second, "run_1", first.fence)
    assert is_held(second, "run_2", second.fence)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3000), st.booleans()), max_size=30))
def test_at_most_one_run_holds_a_lock_and_fences_only_grow(moves: list[tuple[bool, int, bool]]) -> None:
    lock: Lock | None = None
    held: dict[str, int] = {}
    at = AT
    for number, (release, seconds, is_dead) in enumerate(moves):
        at += timedelta(seconds=seconds)
        asking = replace(run(run_id=f"run_{number}", gateway=f"gw-{number}"), deadline=at + timedelta(minutes=10))
        dead = (lock.gateway,) if lock and is_dead else ()
        got = take(lock, asking, "web-1", at, dead)
        if isinstance(got, Lock):
            assert got.fence > max(held.values(), default=0)
            held[asking.id] = got.fence
            lock = replace(got, run="") if release else got
        else:
            assert lock is not None
            assert at < lock.until
        assert sum(is_held(lock, name, fence) for name, fence in held.items()) <= 1


# ---------------------------------------------------------------- what runs where


def deployed(*versions: str) -> Placement:
    there: Placement | None = None
    for number, version in enumerate(versions):
        there = place(there, run(version), "web-1", AT + timedelta(minutes=number), succeeded=True)
    assert there is not None
    return there


def test_rolling_back_twice_goes_back_twice() -> None:
    there = deployed("v1", "v2", "v3")
    there = place(there, run(there.previous(), is_rollback=True), "web-1", AT, succeeded=True)
    assert (there.current(), there.previous()) == ("v2", "v1")
    there = place(there, run(there.previous(), is_rollback=True), "web-1", AT, succeeded=True)
    assert (there.current(), there.previous()) == ("v1", "")


def test_after_a_failed_deploy_previous_is_what_ran_last() -> None:
    there = place(deployed("v1", "v2"), run("v3"), "web-1", AT, succeeded=False)
    assert (there.current(), there.is_certain(), there.previous()) == ("v2", False, "v2")


def test_after_a_failed_rollback_previous_is_still_where_it_was_to_lead() -> None:
    there = place(deployed("v1", "v2"), run("v1", is_rollback=True), "web-1", AT, succeeded=False)
    assert there.previous() == "v1"


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_what_succeeded_last_is_current_and_previous_is_something_else(runs: list[tuple[str, bool, bool]]) -> None:
    there: Placement | None = None
    last = ""
    for version, is_rollback, succeeded in runs:
        there = place(there, run(version, is_rollback=is_rollback), "web-1", AT, succeeded=succeeded)
        last = version if succeeded else last
        assert there.current() == last
        if there.is_certain():
            assert there.previous() != there.current()


def test_a_group_goes_back_to_one_version_and_leaves_alone_what_runs_it() -> None:
    """web-1 got v2, web-2 broke on it, web-3 was never reached."""
    old = {name: replace(deployed("v0", "v1"), target=name) for name in ("web-1", "web-2", "web-3")}
    later = AT + timedelta(hours=1)
    now = {
        **old,
        "web-1": place(old["web-1"], run("v2"), "web-1", later, succeeded=True),
        "web-2": place(old["web-2"], run("v2"), "web-2", later, succeeded=False),
    }
    assert way_back(("web-1", "web-2", "web-3"), now) == WayBack("v1", ("web-1", "web-2"))


def test_nothing_to_go_back_to_is_said() -> None:
    for placements in ({}, {"web-1": deployed("v1")}):
        refusal = way_back(("web-1",), placements)
        assert isinstance(refusal, Refusal)
        assert refusal.next_steps


# ---------------------------------------------------------------- freezes


def freeze(**changes: object) -> Freeze:
    window = Window(AT, AT + timedelta(days=1))
    return replace(Freeze("sales", window, "release managers", "the sales weekend"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "minutes", "expected"),
    [
        ({}, 0, True),
        ({}, -1, False),
        ({}, 24 * 60, False),  # half-open
        ({"services": frozenset({"orders"})}, 5, True),
        ({"services": frozenset({"users"})}, 5, False),
        ({"environments": frozenset({"production"}), "verbs": frozenset({"deploy"})}, 5, True),
        ({"verbs": frozenset({"restart"})}, 5, False),
        ({"environments": frozenset({"staging"})}, 5, False),
    ],
)
def test_what_a_freeze_covers(changes: dict[str, object], minutes: int, expected: bool) -> None:
    at = AT + timedelta(minutes=minutes)
    assert bool(in_force([freeze(**changes)], "orders", "production", "deploy", at)) == expected


def test_the_longest_freeze_speaks_and_names_who_and_until() -> None:
    short = freeze(name="short", window=Window(AT, AT + timedelta(hours=1)))
    first, second = in_force([short, freeze()], "orders", "production", "deploy", AT)
    assert (first.name, second.name) == ("sales", "short")
    assert "2026-03-02 12:00 UTC" in first.sentence()
    assert "release managers" in first.sentence()
