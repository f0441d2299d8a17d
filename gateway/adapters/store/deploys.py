"""The repository of runs, steps, locks and placements over one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import insert, select, update

from gateway.adapters.store.deploy_tables import LOCKS, PLACEMENTS, RUNS, STEPS
from gateway.adapters.store.prepared import Found
from gateway.adapters.store.transaction import Transaction
from gateway.core.rollout import Lock, Placement, Run, RunState, Step, StepState

_ENDS = ("state", "ended_at", "exit_status", "detail")


class SqlDeploys:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    # ------------------------------------------------------------ runs and steps

    def add(self, run: Run, steps: Sequence[Step]) -> None:
        self._tx.insert(insert(RUNS), [_run_columns(run)])
        self._tx.insert(insert(STEPS), [_step_columns(step) for step in steps])

    def get(self, run_id: str) -> Run | None:
        row = self._tx.first(select(RUNS).where(RUNS.c.id == run_id))
        return _run_of(row) if row else None

    def by_key(self, key: str) -> Run | None:
        row = self._tx.first(select(RUNS).where(RUNS.c.key == key))
        return _run_of(row) if row else None

    def save(self, run: Run) -> bool:
        if not run.is_over():
            raise ValueError("only an end changes a run")
        is_running = (RUNS.c.id == run.id) & RUNS.c.ended_at.is_(None)
        columns = _run_columns(run)
        return self._tx.change(update(RUNS).where(is_running).values({n: columns[n] for n in _ENDS})) == 1

    def request_cancel(self, run_id: str, by: str) -> bool:
        if not by:
            raise ValueError("a cancellation needs somebody who asked for it")
        is_unmarked = (RUNS.c.id == run_id) & RUNS.c.ended_at.is_(None) & (RUNS.c.cancelled_by == "")
        return self._tx.change(update(RUNS).where(is_unmarked).values(cancelled_by=by)) == 1

    def list(self, *, target: str = "", principal: str = "", limit: int = 50) -> Sequence[Run]:
        query = select(RUNS).order_by(RUNS.c.started_at.desc(), RUNS.c.id.desc()).limit(limit)
        if target:
            query = query.where(RUNS.c.id.in_(select(STEPS.c.run).where(STEPS.c.target == target)))
        if principal:
            query = query.where(RUNS.c.principal == principal)
        return [_run_of(row) for row in self._tx.rows(query)]

    def running(self, gateway: str = "") -> Sequence[Run]:
        query = select(RUNS).where(RUNS.c.ended_at.is_(None)).order_by(RUNS.c.started_at)
        if gateway:
            query = query.where(RUNS.c.gateway == gateway)
        return [_run_of(row) for row in self._tx.rows(query)]

    def steps(self, run_id: str) -> Sequence[Step]:
        query = select(STEPS).where(STEPS.c.run == run_id).order_by(STEPS.c.place)
        return [_step_of(row) for row in self._tx.rows(query)]

    def step_of_session(self, session_id: str) -> tuple[Run, Step] | None:
        row = self._tx.first(select(STEPS).where(STEPS.c.session == session_id))
        run = self.get(row[STEPS.c.run]) if row else None
        return (run, _step_of(row)) if row and run else None

    def save_step(self, step: Step, expected: StepState) -> bool:
        is_as_expected = (STEPS.c.run == step.run) & (STEPS.c.target == step.target) & (STEPS.c.state == expected.value)
        columns = {name: value for name, value in _step_columns(step).items() if name != "role"}
        return self._tx.change(update(STEPS).where(is_as_expected).values(columns)) == 1

    def set_role(self, step: Step) -> None:
        is_it = (STEPS.c.run == step.run) & (STEPS.c.target == step.target)
        self._tx.change(update(STEPS).where(is_it).values(role=step.role))

    def steps_with_roles(self) -> Sequence[Step]:
        running = (StepState.WAITING.value, StepState.RUNNING.value)
        query = select(STEPS).where(STEPS.c.role != "", STEPS.c.state.not_in(running))
        return [_step_of(row) for row in self._tx.rows(query)]

    def role_is_gone(self, step: Step) -> None:
        is_it = (STEPS.c.run == step.run) & (STEPS.c.target == step.target) & (STEPS.c.role == step.role)
        self._tx.change(update(STEPS).where(is_it).values(role=""))

    # ------------------------------------------------------------ locks

    def lock(self, target: str) -> Lock | None:
        row = self._tx.first(select(LOCKS).where(LOCKS.c.target == target))
        return Lock(**_named(row, LOCKS)) if row else None

    def put_lock(self, lock: Lock) -> None:
        columns = asdict(lock)
        if not self._tx.change(update(LOCKS).where(LOCKS.c.target == lock.target).values(columns)):
            self._tx.insert(insert(LOCKS), [columns])

    def release(self, target: str, run_id: str, fence: int) -> bool:
        is_mine = (LOCKS.c.target == target) & (LOCKS.c.run == run_id) & (LOCKS.c.fence == fence)
        return self._tx.change(update(LOCKS).where(is_mine).values(run="")) == 1

    # ------------------------------------------------------------ what runs where

    def placements(self, targets: Sequence[str] = ()) -> Mapping[str, Placement]:
        query = select(PLACEMENTS).order_by(PLACEMENTS.c.target)
        if targets:
            query = query.where(PLACEMENTS.c.target.in_(targets))
        found = (_named(row, PLACEMENTS) for row in self._tx.rows(query))
        return {named["target"]: Placement(**{**named, "trail": tuple(named["trail"])}) for named in found}

    def put_placement(self, placement: Placement) -> None:
        columns = {**asdict(placement), "trail": list(placement.trail)}
        if not self._tx.change(update(PLACEMENTS).where(PLACEMENTS.c.target == placement.target).values(columns)):
            self._tx.insert(insert(PLACEMENTS), [columns])


def _named(row: Found, table: Any) -> dict[str, Any]:
    return {column.name: row[column] for column in table.columns}


def _run_columns(run: Run) -> dict[str, Any]:
    columns = {each.name: getattr(run, each.name) for each in fields(run)}
    return {
        **columns,
        "targets": list(run.targets),
        "parameters": dict(run.parameters),
        "pipeline": dict(run.pipeline),
        "goes_back_on": list(run.goes_back_on),
        "state": run.state.value,
    }


def _run_of(row: Found) -> Run:
    named = _named(row, RUNS)
    names = {name: tuple(named[name]) for name in ("targets", "goes_back_on")}
    return Run(**{**named, **names, "state": RunState(named["state"])})


def _step_columns(step: Step) -> dict[str, Any]:
    return {**{each.name: getattr(step, each.name) for each in fields(step)}, "state": step.state.value}


def _step_of(row: Found) -> Step:
    named = _named(row, STEPS)
    return Step(**{**named, "state": StepState(named["state"])})
