"""Runs in a real house (store, policies, log, recorder); only the way to targets is ours, and it can misbehave."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from gateway.app.ask_deploy import DeployAsk, Planned, ask_deploy
from gateway.app.authenticate import authenticate, sign_out
from gateway.app.context import Context
from gateway.app.decide_deploy import Caller, decide_deploy
from gateway.app.deploy_live import DeployMeans, Feed, LiveRuns
from gateway.app.deploy_ports import Ended, Job, Stop
from gateway.app.run_deploy import start_run
from gateway.app.show_deploys import history, show_run, status, verbs
from gateway.app.sign_ins import Device, open_sign_in
from gateway.app.verify_deploy_token import revoke_deploy_token
from gateway.app.watch_deploys import RunWatch, cancel_deploy, end_runs_of_the_silent, recover_deploys
from gateway.core.deploy_token import Right, VerifiedDeployToken
from gateway.core.emergency import BreakGlassOnly
from gateway.core.errors import Conflict, Denied, NotFound, Refusal, Unavailable
from gateway.core.freeze import Freeze
from gateway.core.obligation import Record
from gateway.core.principal import Workload
from gateway.core.rollout import Run, RunState, StepState, is_held
from gateway.core.target import Catalogue, Kind, Level, Service, Target
from gateway.core.verb import Parameter, Type, Verb
from gateway.core.window import Window
from tests.unit.adapters.recordings.stage import eventually
from tests.unit.app.house import INCIDENT, FixedCatalogue, House

WITHIN = 15.0
VERSION = {"version": Parameter(Type.VERSION)}
VERBS = {
    "deploy": Verb("deploy", "app", ("/x", "{version}"), VERSION, version="version", rollback="rollback"),
    "rollback": Verb("rollback", "app", ("/x", "{version}"), VERSION, version="version"),
    "restart": Verb("restart", "app", ("/y",), output_limit=1024),
}
JOB = Workload("wkl_1", "github:octo/shop", "shop", "https://ci", "s", "octo/shop", "refs/heads/main", "", "1.1")


@dataclass
class FakeWay:
    """Targets as a runner sees them. `hold` keeps a command running until `go`; `ends` says how the next ones end."""

    ends: list[Ended | Exception] = field(default_factory=list)
    hold: bool = False
    commands: list[tuple[str, str]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    stopped: list[str] = field(default_factory=list)
    says: bytes = b"hello\n"

    def run(self, job: Job, output: Callable[[str, bytes], None], on_start: Callable[[Stop], None]) -> Ended:
        def stop() -> None:
            self.stopped.append(job.target.name)
            self.go.set()

        on_start(stop)
        self.commands.append((job.target.name, job.command))
        output("out", self.says)
        self.begun.set()
        if self.hold:
            assert self.go.wait(WITHIN)
        end = self.ends.pop(0) if self.ends else Ended(0)
        if isinstance(end, Exception):
            raise end
        return end


@dataclass
class Deploys:
    house: House
    ctx: Context
    way: FakeWay

    def token(self, *, run: str = "1.1", targets: tuple[str, ...] = ("web-1", "web-2")) -> VerifiedDeployToken:
        at = self.house.clock.now()
        rights = frozenset(Right(target, verb) for target in targets for verb in VERBS)
        return VerifiedDeployToken(
            f"dtk_{run}", replace(JOB, run=run), rights, None, at, at + timedelta(minutes=10), ""
        )

    def ask(self, verb: str, *names: str, run: str = "1.1", ctx: Context | None = None, **more: str) -> Planned:
        ask = DeployAsk(verb, names or ("web-1", "web-2"), parameters=more)
        return ask_deploy(ctx or self.ctx, Caller.of(self.token(run=run)), ask)

    def run(self, verb: str, *names: str, run: str = "1.1", **more: str) -> Run:
        planned = self.ask(verb, *names, run=run, **more)
        feed = start_run(self.ctx, planned)
        assert feed is not None
        return self.end_of(planned, feed)

    def end_of(self, planned: Planned, feed: Feed) -> Run:
        number, is_over = 0, False
        while not is_over:
            assert feed.wait(number, WITHIN)
            _, number, _, is_over = feed.since(number)
        return self.stored(planned.run.id)

    def stored(self, run_id: str) -> Run:
        with self.ctx.store.read() as uow:
            run = uow.deploys.get(run_id)
        assert run is not None
        return run

    def states(self, run_id: str) -> list[StepState]:
        with self.ctx.store.read() as uow:
            return [step.state for step in uow.deploys.steps(run_id)]

    def versions(self) -> dict[str, tuple[str, bool]]:
        with self.ctx.store.read() as uow:
            placements = uow.deploys.placements()
        return {name: (p.current(), p.is_certain()) for name, p in placements.items()}

    def locks(self) -> list[str]:
        with self.ctx.store.read() as uow:
            locks = [uow.deploys.lock(name) for name in ("web-1", "web-2")]
        return [lock.run for lock in locks if lock is not None]


@pytest.fixture
def deploys(house: House) -> Iterator[Deploys]:
    levels = {"shell": Level("shell", "app", 0)}
    targets = {
        name: Target(name, Kind.SSH, "orders", "production", "127.0.0.1", 22, levels, verbs=VERBS)
        for name in ("web-1", "web-2")
    }
    catalogue = Catalogue("1", {"orders": Service("orders", ("leads",))}, targets, {"web": ("web-1", "web-2")})
    way = FakeWay()
    ctx = replace(house.ctx, catalogue=FixedCatalogue(catalogue), deploys=DeployMeans(LiveRuns(), way))
    yield Deploys(house, ctx, way)
    way.go.set()
    ctx.deploys.live.stop_all("the test is over", WITHIN)


def change(deploys: Deploys, **what: object) -> None:
    source = deploys.ctx.catalogue
    assert isinstance(source, FixedCatalogue)
    source.catalogue = replace(source.catalogue, **what)  # type: ignore[arg-type]


# ---------------------------------------------------------------- order and evidence


def test_what_happens_is_in_the_log_before_and_after(deploys: Deploys) -> None:
    over = deploys.run("deploy", "web", version="1.0")
    assert over.state is RunState.SUCCEEDED
    assert deploys.way.commands == [("web-1", "/x 1.0"), ("web-2", "/x 1.0")]
    kinds = [(t, o) for t, o in deploys.house.types() if t.startswith(("deploy:", "session:"))]
    assert kinds == [
        ("deploy:started", "attempt"),
        ("session:started", "ok"),
        ("session:ended", "ok"),
        ("session:started", "ok"),
        ("session:ended", "ok"),
        ("deploy:finished", "ok"),
    ]
    assert deploys.locks() == ["", ""]
    assert deploys.versions() == {"web-1": ("1.0", True), "web-2": ("1.0", True)}


def test_output_beyond_the_limit_is_counted_not_kept(deploys: Deploys) -> None:
    deploys.way.says = b"x" * 5000
    planned = deploys.ask("restart", "web-1")
    feed = start_run(deploys.ctx, planned)
    assert feed is not None
    deploys.end_of(planned, feed)
    pieces, _, _, _ = feed.since(0)
    assert sum(len(piece.data) for piece in pieces if piece.kind == "out") == 1024


@pytest.mark.parametrize(
    ("end", "state", "is_certain"),
    [
        (Ended(7), RunState.FAILED, False),
        (Ended(None, "the connection ended before the command did"), RunState.FAILED, False),
        (Unavailable(Refusal("target-unreachable", "It cannot be reached.")), RunState.FAILED, True),
    ],
)
def test_what_breaks_ends_the_run_and_what_began_makes_a_target_uncertain(
    deploys: Deploys, end: Ended | Exception, state: RunState, is_certain: bool
) -> None:
    deploys.run("deploy", "web", run="1.1", version="1.0")
    deploys.way.ends = [end]
    over = deploys.run("deploy", "web", run="2.1", version="2.0")
    assert over.state is state
    assert deploys.states(over.id) == [StepState.FAILED, StepState.NOT_RUN]
    assert deploys.versions() == {"web-1": ("1.0", is_certain), "web-2": ("1.0", True)}
    assert deploys.locks() == ["", ""]


# ---------------------------------------------------------------- decided again


def _between_steps(deploys: Deploys, meanwhile: Callable[[], object]) -> Run:
    """Something changes while the first target's command runs."""
    deploys.way.hold = True
    planned = deploys.ask("deploy", "web", run="5.1", version="5.0")
    feed = start_run(deploys.ctx, planned)
    assert feed is not None
    assert deploys.way.begun.wait(WITHIN)
    meanwhile()
    deploys.way.go.set()
    return deploys.end_of(planned, feed)


def test_a_freeze_that_begins_meanwhile_stops_the_next_target(deploys: Deploys) -> None:
    at = deploys.house.clock.now()
    freeze = Freeze("sales", Window(at, at + timedelta(hours=1)), "release managers", "sales")
    over = _between_steps(deploys, lambda: change(deploys, freezes=(freeze,)))
    assert deploys.states(over.id) == [StepState.SUCCEEDED, StepState.FAILED]
    assert "release managers" in over.detail


def test_a_token_that_is_revoked_meanwhile_stops_the_next_target(deploys: Deploys) -> None:
    over = _between_steps(deploys, lambda: revoke_deploy_token(deploys.ctx, "dtk_5.1", "lead"))
    assert deploys.states(over.id) == [StepState.SUCCEEDED, StepState.FAILED]


def test_a_verb_that_changes_meanwhile_stops_the_next_target(deploys: Deploys) -> None:
    targets = deploys.ctx.catalogue.current().targets
    other = {name: replace(t, verbs={"deploy": VERBS["restart"]}) for name, t in targets.items()}
    over = _between_steps(deploys, lambda: change(deploys, targets=other))
    assert deploys.states(over.id) == [StepState.SUCCEEDED, StepState.FAILED]
    assert [name for name, _ in deploys.way.commands] == ["web-1"]


# ---------------------------------------------------------------- nothing without evidence


def test_a_log_that_does_not_confirm_keeps_the_command_back(deploys: Deploys) -> None:
    deploys.house.sequencer.stop()
    deploys.ctx = replace(deploys.ctx, limits=replace(deploys.ctx.limits, log_wait=timedelta(milliseconds=50)))
    over = deploys.run("deploy", "web", version="1.0")
    assert over.state is RunState.FAILED
    assert deploys.way.commands == []
    assert deploys.versions() == {}


def test_a_recorder_that_fails_keeps_the_command_back(deploys: Deploys, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.app.recording_ports import RecordingFailed

    def refuse(*_args: object) -> object:
        raise RecordingFailed("disk full")

    monkeypatch.setattr(deploys.ctx.recorder, "open", refuse)
    over = deploys.run("deploy", "web", version="1.0")
    assert (over.state, deploys.way.commands) == (RunState.FAILED, [])
    assert "recording disk" in over.detail


# ---------------------------------------------------------------- locks across gateways


def test_a_gateway_taken_for_dead_ends_its_command_and_changes_nothing_more(deploys: Deploys) -> None:
    """Its lock is taken over while it hangs; when it comes back, what it stores does not count."""
    deploys.way.hold = True
    first = deploys.ask("deploy", "web", version="1.0")
    feed = start_run(deploys.ctx, first)
    assert feed is not None
    assert deploys.way.begun.wait(WITHIN)
    with deploys.ctx.store.begin() as uow:
        uow.gateways.beat("house", deploys.house.clock.now() - timedelta(minutes=5))
    other = replace(deploys.ctx, gateway="other", deploys=DeployMeans(LiveRuns(), FakeWay()))
    assert end_runs_of_the_silent(other) == 1
    assert deploys.stored(first.run.id).state is RunState.INTERRUPTED
    second = deploys.ask("deploy", "web", run="2.1", ctx=other, version="2.0")
    taken_over = start_run(other, second)
    assert taken_over is not None
    deploys.end_of(second, taken_over)

    watch = RunWatch()
    watch.tick(deploys.ctx)
    watch.tick(deploys.ctx)
    assert deploys.way.stopped == ["web-1"]
    deploys.end_of(first, feed)
    assert deploys.versions() == {"web-1": ("2.0", True), "web-2": ("2.0", True)}
    assert deploys.stored(first.run.id).state is RunState.INTERRUPTED
    assert [name for name, _ in deploys.way.commands] == ["web-1"]
    finished = [e.data["run"] for e in deploys.house.events("deploy:finished")]
    assert sorted(map(str, finished)) == sorted([first.run.id, second.run.id])  # one end each


def test_a_run_that_waits_to_be_stored_is_not_lost(deploys: Deploys) -> None:
    """The place is taken before the store's one writer is waited for; the watch looks every second meanwhile."""
    deploys.way.hold = True
    watch = RunWatch()
    live = deploys.ctx.deploys.live
    with ThreadPoolExecutor(1) as asking:
        with deploys.ctx.store.begin() as uow:
            uow.gateways.beat("busy", deploys.house.clock.now())  # holds the writer
            asked = asking.submit(deploys.ask, "deploy", "web", version="1.0")
            eventually(lambda: bool(live.ids()))
            for _ in range(3):
                watch.tick(deploys.ctx)
        planned = asked.result(WITHIN)
    assert live.stopped(planned.run.id) == ("", False)
    watch.tick(deploys.ctx)
    feed = start_run(deploys.ctx, planned)
    assert feed is not None
    deploys.way.go.set()
    assert deploys.end_of(planned, feed).state is RunState.SUCCEEDED


@pytest.mark.parametrize(("version", "is_previous"), [("1.0", True), ("0.9", False)])
def test_what_a_rollback_leads_to_is_decided_once(deploys: Deploys, version: str, *, is_previous: bool) -> None:
    """A rollback that a pipeline's policy allowed does not count as one to the version before when it is asked again,
    and one that did still does when the run has changed what is known.
    """
    deploys.run("deploy", "web", run="1.1", version="1.0")
    deploys.run("deploy", "web", run="1.2", version="2.0")
    over = deploys.run("rollback", "web", run="1.3", version=version)
    assert over.state is RunState.SUCCEEDED
    token, web = deploys.token(run="1.3"), deploys.ctx.catalogue.current().targets["web-1"]
    again = decide_deploy(deploys.ctx, token.workload, over, web, "deploy:denied", override=False)
    assert again.facts["to_previous"] is is_previous


def test_a_pipeline_sees_its_tokens_targets_and_its_own_runs(deploys: Deploys) -> None:
    mine = deploys.run("deploy", "web-1", run="1.1", version="1.0")
    deploys.house.clock.advance(timedelta(seconds=1))  # which of the two is the newer
    both = deploys.run("deploy", "web", run="1.2", version="2.0")
    narrow = Caller.of(deploys.token(run="9.1", targets=("web-1",)))
    wide = Caller.of(deploys.token(run="9.1"))
    other = Caller.of(replace(deploys.token(), workload=replace(JOB, id="wkl_2")))
    person = Caller.of(deploys.house.people["oncall"])
    ctx = deploys.ctx

    def seen(caller: Caller) -> list[str]:
        return [run.id for run in history(ctx, caller, "", 50)]

    assert seen(person) == seen(wide) == [both.id, mine.id]
    assert (seen(narrow), seen(other)) == ([mine.id], [])
    assert show_run(ctx, narrow, mine.id)[0].id == show_run(ctx, person, mine.id)[0].id == mine.id
    for caller, run in ((narrow, both), (other, mine), (other, both)):
        with pytest.raises(NotFound):
            show_run(ctx, caller, run.id)
    assert [view.target.name for view in status(ctx, narrow, ())] == ["web-1"]
    assert list(status(ctx, narrow, ("web-2",))) == []
    assert {view.target.name for view in verbs(ctx, narrow)} == {"web-1"}
    assert {view.target.name for view in verbs(ctx, person)} == {"web-1", "web-2"}


def test_a_narrowed_token_cancels_nothing_that_it_could_not_run(deploys: Deploys) -> None:
    """A workload is the same in each of its jobs: what one of them was not given it must not end either."""
    deploys.way.hold = True
    planned = deploys.ask("deploy", "web", run="1.1", version="1.0")
    start_run(deploys.ctx, planned)
    assert deploys.way.begun.wait(WITHIN)
    whole = deploys.token(run="9.1")
    verb = replace(whole, rights=frozenset(right for right in whole.rights if right.verb == "restart"))
    target = deploys.token(run="9.1", targets=("web-1",))
    other = replace(whole, workload=replace(JOB, id="wkl_2"))
    for token in (verb, target, other):
        with pytest.raises(Denied):
            cancel_deploy(deploys.ctx, Caller.of(token), planned.run.id)
    assert not deploys.way.stopped
    cancel_deploy(deploys.ctx, Caller.of(whole), planned.run.id)
    eventually(lambda: deploys.stored(planned.run.id).state is RunState.CANCELLED)


def test_a_command_is_not_sent_once_the_lock_is_lost(deploys: Deploys) -> None:
    planned = deploys.ask("deploy", "web-1", version="1.0")
    with deploys.ctx.store.begin() as uow:
        lock = uow.deploys.lock("web-1")
        assert lock is not None
        uow.deploys.put_lock(replace(lock, run="run_other", fence=lock.fence + 1))
    feed = start_run(deploys.ctx, planned)
    assert feed is not None
    over = deploys.end_of(planned, feed)
    assert (over.state, deploys.way.commands) == (RunState.FAILED, [])
    with deploys.ctx.store.read() as uow:
        assert is_held(uow.deploys.lock("web-1"), "run_other", 2)


def test_after_a_crash_the_books_are_closed_and_the_lock_is_free(deploys: Deploys) -> None:
    planned = deploys.ask("deploy", "web", version="1.0")
    deploys.ctx.deploys.live.discard(planned.run.id)  # the process died before its thread began
    assert recover_deploys(deploys.ctx) == 1
    assert recover_deploys(deploys.ctx) == 0
    assert deploys.stored(planned.run.id).state is RunState.FAILED
    assert deploys.states(planned.run.id) == [StepState.NOT_RUN, StepState.NOT_RUN]
    assert deploys.locks() == ["", ""]


def test_a_run_over_its_time_is_ended_and_a_locked_target_says_whose(deploys: Deploys) -> None:
    deploys.way.hold = True
    planned = deploys.ask("deploy", "web", version="1.0")
    feed = start_run(deploys.ctx, planned)
    assert feed is not None
    assert deploys.way.begun.wait(WITHIN)
    with pytest.raises(Conflict, match=r"github:octo/shop"):
        deploys.ask("restart", "web-2", run="9.1")
    deploys.house.clock.advance(timedelta(minutes=9))
    RunWatch().tick(deploys.ctx)
    assert deploys.way.stopped == []
    deploys.house.clock.advance(timedelta(minutes=2))  # each of the two targets has ten minutes, not both twenty
    RunWatch().tick(deploys.ctx)
    over = deploys.end_of(planned, feed)
    assert (over.state, deploys.way.stopped) == (RunState.FAILED, ["web-1"])
    assert "time was up" in over.detail


# ---------------------------------------------------------------- asking


def test_asking_again_while_it_runs_is_the_same_run(deploys: Deploys) -> None:
    deploys.way.hold = True
    first = deploys.ask("deploy", "web", version="1.0")
    feed = start_run(deploys.ctx, first)
    again = deploys.ask("deploy", "web", version="1.0")
    assert (again.is_new, again.run.id) == (False, first.run.id)
    assert start_run(deploys.ctx, again) is feed
    with pytest.raises(Conflict):
        deploys.ask("deploy", "web", version="1.1")
    deploys.way.go.set()
    assert feed is not None
    deploys.end_of(first, feed)
    assert len(deploys.way.commands) == 2


def _at_once(asks: list[Callable[[], Planned]]) -> list[Planned | Conflict]:
    gate = threading.Barrier(len(asks))

    def ask(each: Callable[[], Planned]) -> Planned | Conflict:
        gate.wait(WITHIN)
        try:
            return each()
        except Conflict as no:
            return no

    with ThreadPoolExecutor(len(asks)) as pool:
        return list(pool.map(ask, asks))


def test_of_many_jobs_at_once_one_gets_the_targets(deploys: Deploys) -> None:
    got = _at_once([lambda n=n: deploys.ask("restart", "web", run=f"{n}.1") for n in range(8)])  # type: ignore[misc]
    won = [each for each in got if isinstance(each, Planned)]
    assert [planned.is_new for planned in won] == [True]
    assert deploys.locks() == [won[0].run.id] * 2
    assert deploys.ctx.deploys.live.ids() == {won[0].run.id}  # the others gave their places back
    deploys.ctx.deploys.live.discard(won[0].run.id)


def test_one_job_asking_many_times_at_once_is_one_run(deploys: Deploys) -> None:
    got = _at_once([lambda: deploys.ask("restart", "web")] * 8)
    planned = [each for each in got if isinstance(each, Planned)]
    assert len(planned) == 8
    assert len({each.run.id for each in planned}) == 1
    assert sum(each.is_new for each in planned) == 1
    deploys.ctx.deploys.live.discard(planned[0].run.id)


def test_a_person_on_call_goes_back_one_and_no_other_version(deploys: Deploys) -> None:
    for number in range(3):
        deploys.run("deploy", "web", run=f"{number}.1", version=f"1.{number}")
    oncall = Caller.of(deploys.house.people["oncall"])
    with pytest.raises(Denied):
        ask_deploy(deploys.ctx, oncall, DeployAsk("rollback", ("web",), {"version": "1.0"}))
    with pytest.raises(Denied):
        ask_deploy(deploys.ctx, oncall, DeployAsk("deploy", ("web",), {"version": "1.1"}))
    planned = ask_deploy(deploys.ctx, oncall, DeployAsk("rollback", ("web",), to="previous"))
    assert planned.run.version == "1.1"
    deploys.ctx.deploys.live.discard(planned.run.id)
    developer = Caller.of(deploys.house.people["developer"])
    with pytest.raises(Denied, match="not on call"):
        ask_deploy(deploys.ctx, developer, DeployAsk("rollback", ("web",), to="previous"))


def test_an_override_is_a_broken_glass_or_nothing_at_all(deploys: Deploys) -> None:
    at = deploys.house.clock.now()
    change(deploys, freezes=(Freeze("sales", Window(at, at + timedelta(hours=1)), "managers", "sales"),))
    ask = DeployAsk("deploy", ("web",), {"version": "9"}, override=True, incident=INCIDENT, reason="it burns")
    with pytest.raises(Denied, match="person"):
        ask_deploy(deploys.ctx, Caller.of(deploys.token()), ask)
    planned = ask_deploy(deploys.ctx, Caller.of(deploys.house.people["oncall"]), ask)
    with deploys.ctx.store.read() as uow:
        (review,) = uow.reviews.open()
        grant = uow.grants.get(planned.run.grant)
    assert grant is not None
    assert (review.grant, grant.level, grant.kind.value) == (grant.id, "verb:deploy", "break-glass")
    assert [channel for channel, _, _ in deploys.house.notes.sent] == ["break-glass"]
    # The targets are locked now: another override is refused, and breaks no second glass.
    with pytest.raises(Conflict):
        ask_deploy(deploys.ctx, Caller.of(deploys.house.people["oncall"]), replace(ask, parameters={"version": "10"}))
    with deploys.ctx.store.read() as uow:
        assert len(uow.reviews.open()) == 1
    deploys.ctx.deploys.live.discard(planned.run.id)


def test_who_was_signed_out_while_policy_was_asked_deploys_nothing(deploys: Deploys) -> None:
    oncall = deploys.house.people["oncall"]
    with deploys.ctx.store.begin() as uow:
        signed_in = open_sign_in(deploys.ctx, uow, oncall, "cli", deploys.house.clock.now(), device=Device())
    caller = Caller.of(authenticate(deploys.ctx, signed_in.secret))
    at = deploys.house.clock.now()
    change(deploys, freezes=(Freeze("sales", Window(at, at + timedelta(hours=1)), "managers", "sales"),))
    ask = DeployAsk("deploy", ("web",), {"version": "9"}, override=True, incident=INCIDENT, reason="it burns")
    sign_out(deploys.ctx, signed_in.secret)
    with pytest.raises(Denied) as no:
        ask_deploy(deploys.ctx, caller, ask)
    assert no.value.refusal.code == "not-signed-in"
    assert deploys.house.types()[-1] == ("deploy:denied", "denied")
    assert not deploys.locks()
    with deploys.ctx.store.read() as uow:
        assert not uow.grants.list(holder=oncall.id)


def _slow(verbs: Mapping[str, Verb]) -> dict[str, Verb]:
    return {name: replace(verb, timeout=timedelta(minutes=45)) for name, verb in verbs.items()}


def test_who_came_in_while_the_provider_is_down_goes_back_by_override_alone(deploys: Deploys) -> None:
    for number in range(2):
        deploys.run("deploy", "web", run=f"{number}.1", version=f"1.{number}")
    slow = deploys.ctx.catalogue.current()
    targets = {name: replace(t, verbs=_slow(t.verbs)) for name, t in slow.targets.items()}
    change(deploys, targets=targets)
    oncall = Caller.of(BreakGlassOnly(deploys.house.people["oncall"]))
    back = DeployAsk("rollback", ("web",), to="previous", incident=INCIDENT, reason="it burns")
    with pytest.raises(Denied) as no:
        ask_deploy(deploys.ctx, oncall, back)
    assert no.value.refusal.code == "break-glass-only"
    assert "--override" in " ".join(no.value.refusal.next_steps)
    assert deploys.house.events("deploy:denied")
    planned = ask_deploy(deploys.ctx, oncall, replace(back, override=True))
    assert (planned.run.version, planned.record) == ("1.0", Record.REQUIRE)
    assert planned.run.deadline - planned.run.started_at == timedelta(hours=1)  # two verbs of 45 minutes
    with deploys.ctx.store.read() as uow:
        (review,) = uow.reviews.open()
    assert review.grant == planned.run.grant
    assert [channel for channel, _, _ in deploys.house.notes.sent] == ["break-glass"]
    deploys.ctx.deploys.live.discard(planned.run.id)
    nobody = Caller.of(BreakGlassOnly(deploys.house.people["developer"]))
    with pytest.raises(Denied, match="not on call"):
        ask_deploy(deploys.ctx, nobody, replace(back, override=True, reason="it burns still"))


@pytest.mark.parametrize(
    ("verb", "names", "kind"),
    [("deploy", ("nowhere",), NotFound), ("nothing", ("web",), NotFound), ("deploy", (), Denied)],
)
def test_what_is_not_there(deploys: Deploys, verb: str, names: tuple[str, ...], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        ask_deploy(deploys.ctx, Caller.of(deploys.token()), DeployAsk(verb, names, {"version": "1"}))
    assert deploys.house.events("deploy:denied")


def test_too_many_at_once_is_said_and_leaves_nothing(deploys: Deploys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.app.deploy_live.MOST_AT_ONCE", 0)
    with pytest.raises(Unavailable):
        deploys.ask("restart", "web")
    assert deploys.locks() == []
