"""What a step says once a migration's script has run: never less than what happened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from gateway.app.deploy_live import DeployMeans, LiveRuns
from gateway.app.deploy_ports import Ended, HandedOver, Job, Stop
from gateway.app.run_migration import run_migration
from gateway.app.target_ports import DatabaseLogin
from gateway.core.errors import Denied, Refusal, Unavailable
from gateway.core.rollout import Run, Step
from gateway.core.target import Kind, Level, Target
from gateway.core.verb import Verb
from tests.unit.app.house import FixedCatalogue, House

AWAY = Unavailable(Refusal("store-unavailable", "The store is away."))
TARGET = Target("orders-db", Kind.POSTGRES, "orders", "production", "127.0.0.1", 5432, {})
VERB = Verb("migrate", "orders_migrate", owner="orders_owner")


@dataclass
class FakeSql:
    """A database as the use case sees it: `meanwhile` happens while the script runs."""

    meanwhile: Callable[[], object] = lambda: None
    reach: Sequence[str] = ()
    handed: HandedOver | Exception = field(default_factory=lambda: HandedOver(("public.t",)))
    calls: list[str] = field(default_factory=list)
    sticks: bool = False

    def run(self, job: Job, output: Callable[[str, bytes], None], on_start: Callable[[Stop], None]) -> Ended:
        self.calls.append("run")
        self.meanwhile()
        return Ended(0)

    def readable(self, target: Target, account: str) -> Sequence[str]:
        return ()

    def reachable(self, target: Target, account: str) -> Sequence[str]:
        return self.reach

    def owned(self, target: Target, account: str, owner: str) -> Sequence[str]:
        return ("public.t",)

    def hand_over(self, target: Target, account: str, owner: str) -> HandedOver:
        self.calls.append("hand over")
        if isinstance(self.handed, Exception):
            raise self.handed
        return self.handed

    def create(self, target: Target, level: Level, role: str, until: datetime) -> DatabaseLogin:
        return DatabaseLogin(role, "secret")

    def revoke(self, target: Target, role: str, before: object = None) -> None:
        if self.sticks:
            raise AWAY

    def extend(self, target: Target, role: str, until: datetime) -> None:
        raise AssertionError("never extended")

    def end_backend(self, target: Target, role: str, pid: int, attempt: Callable[[], None]) -> bool:
        raise AssertionError("never asked to")

    def roles_of(self, target: Target, prefix: str) -> Sequence[str]:
        return ()


def _migrate(house: House, sql: FakeSql) -> tuple[Ended, str]:
    at = house.clock.now()
    live = DeployMeans(LiveRuns(), sql=sql, sql_runner=sql)
    known = replace(house.ctx.catalogue.current(), targets={TARGET.name: TARGET})
    ctx = replace(house.ctx, deploys=live, roles=sql, catalogue=FixedCatalogue(known))
    run = Run(
        "run_1", "k", "wkl_1", "workload", "github:octo/shop", "migrate", (TARGET.name,), {}, "", False, "house", at,
        at + timedelta(minutes=5),
    )  # fmt: skip
    said: list[bytes] = []
    step = Step(run.id, TARGET.name, 0, "ses_1", VERB.account, 1, started_at=at)
    ended = run_migration(
        ctx, run, step, TARGET, VERB, b"SELECT 1", output=lambda _, data: said.append(data), on_start=lambda _: None
    )
    return ended, b"".join(said).decode()


def _outcomes(house: House) -> list[str]:
    return [event.outcome for event in house.events("deploy:handed-over")]


def test_a_store_that_is_away_after_the_script_hides_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script has committed: whatever cannot be stored now, the step must say that it began."""

    def away(*_: object) -> None:
        raise AWAY

    sql = FakeSql(meanwhile=lambda: monkeypatch.setattr(house.ctx.store, "begin", away))
    ended, said = _migrate(house, sql)
    assert (ended.started, ended.status) == (True, 1)
    assert "not handed over" in ended.detail
    assert "not handed over" in said
    assert sql.calls == ["run"]  # no effect without its event
    monkeypatch.undo()
    assert _outcomes(house) == []


def test_an_outcome_that_cannot_be_stored_leaves_the_attempt(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise AWAY

    sql = FakeSql()
    give = sql.hand_over

    def hand_over(*words: str) -> HandedOver:
        monkeypatch.setattr(house.ctx.store, "begin", away)
        return give(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(sql, "hand_over", hand_over)
    ended, _ = _migrate(house, sql)
    assert (ended.started, ended.status) == (True, 1)
    assert "was handed over, and no event says so" in ended.detail
    monkeypatch.undo()
    assert _outcomes(house) == ["attempt"]


@pytest.mark.parametrize(
    ("handed", "status", "outcomes", "detail"),
    [
        (HandedOver(("public.t",)), 0, ["attempt", "ok"], ""),
        (HandedOver((), ("public.t (it has a rewrite rule)",)), 1, ["attempt", "failed"], "public.t (it has a rewrite"),
        (Unavailable(Refusal("target-roles-unavailable", "Not now.")), 1, ["attempt", "failed"], "Not now."),
    ],
)
def test_the_event_says_what_became_of_it(
    house: House, handed: HandedOver | Exception, status: int, outcomes: list[str], detail: str
) -> None:
    ended, _ = _migrate(house, FakeSql(handed=handed))
    assert (ended.started, ended.status) == (True, status)
    assert detail in ended.detail
    assert _outcomes(house) == outcomes


def test_while_its_role_is_there_nothing_is_handed_over(house: House) -> None:
    """Its session may still change what would be handed over."""
    sql = FakeSql(sticks=True)
    ended, _ = _migrate(house, sql)
    assert (ended.status, sql.calls) == (1, ["run"])
    assert "not dropped yet" in ended.detail


def test_what_it_could_act_through_is_refused_before_anything_runs(house: House) -> None:
    sql = FakeSql(reach=("the SECURITY DEFINER function public.peek()",))
    with pytest.raises(Denied, match=r"public\.peek\(\)"):
        _migrate(house, sql)
    assert sql.calls == []
