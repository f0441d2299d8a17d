"""The edge that time drives: threads that run use cases again and again until told to stop.

One judges live sessions every quarter second, and at once when woken. The others do their rounds: `upkeep` (heartbeat,
evidence, files to reload, gateways that fell silent), `leases` (roles to drop), `facts` (rota and incidents), `shreds`
(recordings to destroy), `doctor` (targets to examine). A step that fails is logged and tried again; what it leaves
undone errs towards "no" (facts age, roles stay visible).
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from time import monotonic

from gateway.app.context import Context
from gateway.app.examine_target import examine_due
from gateway.app.fact_ports import IncidentSource, ShiftSource
from gateway.app.hold_commit import LeftHeld
from gateway.app.lapse_requests import lapse_requests
from gateway.app.lease_role import reap_leases
from gateway.app.possession import USED_PROOF
from gateway.app.reconcile import Reconciliation
from gateway.app.record_evidence import Evidence
from gateway.app.recover import end_sessions_of_the_silent
from gateway.app.reevaluate import Reevaluation
from gateway.app.refresh_facts import refresh_facts
from gateway.app.reload_rules import Reloads
from gateway.app.run_migration import reap_roles
from gateway.app.running_statements import RunningStatements
from gateway.app.shred_session import Shreds
from gateway.app.watch_deploys import RunWatch, end_runs_of_the_silent

LOG = logging.getLogger(__name__)
NO_PROVIDERS: Mapping[str, Callable[[], bool]] = {}
WATCH_EVERY_SECONDS = 0.25
EXAMINE_EVERY_SECONDS = 60.0  # how often targets are looked through for one that is due
ASK_POLICY_EVERY = timedelta(seconds=5)


@dataclass(slots=True)
class _Job:
    """A step and how often it is due; `due` is monotonic, so that a clock jump neither floods nor starves."""

    name: str
    every_seconds: float
    step: Callable[[], object]
    due: float = 0.0


class Supervisor:
    """Start after the doors are open, stop before they close."""

    def __init__(
        self,
        ctx: Context,
        shifts: Sequence[ShiftSource],
        incidents: Sequence[IncidentSource],
        evidence: Evidence,
        refresh_seconds: float,
        revalidations: Mapping[str, Callable[[], bool]] = NO_PROVIDERS,
        *,
        examines_targets: bool = False,
    ) -> None:
        """`revalidations` ask each provider, by its name, about those who signed in; True when a fact changed."""
        self._ctx = ctx
        self._stop = threading.Event()
        self._wake_watch = threading.Event()
        self._wake_leases = threading.Event()
        self._facts_changed = threading.Event()
        self._reevaluation = Reevaluation()
        self._reloads = Reloads()
        clock, reconciliation, run_watch = ctx.clock, Reconciliation(), RunWatch()
        statements, left_held = RunningStatements(), LeftHeld()
        # What may hang has a thread of its own, so that nothing else is late: sources answer over a network, and so
        # do databases whose roles are dropped.
        self._rounds = {
            "upkeep": [
                _Job("beat", 5.0, self._beat),
                _Job("evidence", 1.0, lambda: evidence.store(ctx)),
                _Job("reload", 2.0, self._reload),
                _Job("silent", 10.0, lambda: end_sessions_of_the_silent(ctx, clock.now())),
                _Job("statements", 1.0, lambda: statements.tick(ctx)),
                _Job("deploys", 1.0, lambda: run_watch.tick(ctx)),
                _Job("silent-deploys", 10.0, lambda: end_runs_of_the_silent(ctx)),
                _Job("reconcile", 10.0, lambda: reconciliation.step(ctx)),
                _Job("held", 60.0, lambda: left_held.step(ctx)),
                _Job("lapse", 30.0, lambda: lapse_requests(ctx, clock.now())),
                _Job("purge", 600.0, self._purge),
            ],
            "leases": [
                _Job("leases", 1.0, lambda: reap_leases(ctx, clock.now())),
                _Job("migration-roles", 30.0, lambda: reap_roles(ctx)),
            ],
            "shreds": [_Job("shreds", 60.0, partial(Shreds(ctx).step, ctx))],
            "facts": [_Job("facts", refresh_seconds, lambda: self._refresh(shifts, incidents))],
        }
        self._rounds |= {
            f"provider-{name}": [_Job(f"provider-{name}", 2.0, partial(self._revalidate, step))]
            for name, step in revalidations.items()
        }
        if examines_targets:
            first = monotonic() + EXAMINE_EVERY_SECONDS
            self._rounds["doctor"] = [_Job("doctor", EXAMINE_EVERY_SECONDS, lambda: examine_due(ctx), first)]
        self._threads = [
            threading.Thread(target=self._watch, name="supervisor", daemon=True),
            *(threading.Thread(target=self._go_round, args=(n,), name=n, daemon=True) for n in self._rounds),
        ]

    def start(self) -> None:
        """Returns at once."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Something ended: judge the live sessions and drop roles now."""
        self._wake_watch.set()
        self._wake_leases.set()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Let the current step finish, for a while."""
        self._stop.set()
        self.wake()
        for thread in self._threads:
            thread.join(timeout_seconds)

    def run_once(self) -> None:
        """Every upkeep step, now, in this thread: facts are there before the first question."""
        for job in (job for name in ("facts", "upkeep", "leases") for job in self._rounds[name]):
            self._guarded(job.name, job.step)
            job.due = monotonic() + job.every_seconds

    def _watch(self) -> None:
        asked_at = monotonic()
        while not self._stop.is_set():
            self._wake_watch.wait(WATCH_EVERY_SECONDS)
            self._wake_watch.clear()
            is_due = monotonic() - asked_at >= ASK_POLICY_EVERY.total_seconds() or self._facts_changed.is_set()
            if is_due:
                self._facts_changed.clear()
                asked_at = monotonic()
            self._guarded("watch", self._rejudge_all if is_due else self._judge)

    def _judge(self) -> None:
        self._reevaluation.tick(self._ctx, ask_policy=False)

    def _rejudge_all(self) -> None:
        self._reevaluation.tick(self._ctx, ask_policy=True)

    def _go_round(self, name: str) -> None:
        woken = self._wake_leases if name == "leases" else self._stop
        while not self._stop.is_set():
            is_woken = woken.wait(0.5)
            if name == "leases":
                self._wake_leases.clear()
            now = monotonic()
            for job in self._rounds[name]:
                if job.due <= now or is_woken:
                    job.due = now + job.every_seconds
                    self._guarded(job.name, job.step)

    def _guarded(self, name: str, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception:  # the loop must outlive any one step; every step is retried
            LOG.exception("upkeep step %s failed; it is tried again", name)

    def _beat(self) -> None:
        with self._ctx.store.begin() as uow:
            uow.gateways.beat(self._ctx.gateway, self._ctx.clock.now())

    def _reload(self) -> None:
        if self._reloads.reload(self._ctx):
            self.rejudge()

    def _refresh(self, shifts: Sequence[ShiftSource], incidents: Sequence[IncidentSource]) -> None:
        if refresh_facts(self._ctx, shifts, incidents, self._ctx.clock.now()):
            self.rejudge()

    def _revalidate(self, step: Callable[[], bool]) -> None:
        if step():
            self.rejudge()

    def rejudge(self) -> None:
        """A fact has changed: ask policy about every live session now."""
        self._facts_changed.set()
        self._wake_watch.set()

    def _purge(self) -> None:
        with self._ctx.store.begin() as uow:
            uow.credentials.purge(self._ctx.clock.now() - timedelta(days=1))
            uow.credentials.purge(self._ctx.clock.now(), USED_PROOF)  # as many as somebody cares to send
            uow.provider_sessions.purge(self._ctx.clock.now() - timedelta(days=7))
