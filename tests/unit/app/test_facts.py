from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gateway.app.facts import Question, gather
from gateway.app.refresh_facts import AHEAD, PAST, Told, refresh_facts
from gateway.core.decision import Facts
from gateway.core.errors import Refusal, Unavailable
from gateway.core.incident import Incident
from gateway.core.principal import User
from gateway.core.rota import Freshness, Shift
from gateway.core.window import Window
from tests.unit.edges.stage import Stage, make_stage

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = make_stage(tmp_path)
    yield made
    made.store.close()


@dataclass
class Rota:
    """A rota that says what it is told to, or fails."""

    duties: list[tuple[str, datetime, datetime]]
    name: str = "rota:test"
    text: str = "1"
    is_down: bool = False
    windows: list[Window] = field(default_factory=list)

    def fetch(self, window: Window, at: datetime) -> Sequence[Shift]:
        self.windows.append(window)
        if self.is_down:
            raise Unavailable(Refusal("rota-unreadable", f"{self.name} is down"))
        return [Shift("orders", who, 1, Window(a, b), self.name, at, self.text) for who, a, b in self.duties]


@dataclass
class Incidents:
    known: list[Incident]
    name: str = "incidents:test"
    is_down: bool = False

    def fetch(self, at: datetime) -> Sequence[Incident]:
        if self.is_down:
            raise Unavailable(Refusal("incidents-unreadable", "down"))
        return [replace(i, fetched_at=at) for i in self.known]


def incident(at: datetime, service: str = "orders", closed_at: datetime | None = None) -> Incident:
    return Incident("INC-1", service, "slow", at - HOUR, closed_at, "incidents:test", at)


def gathered(stage: Stage, at: datetime, incident_id: str = "INC-1") -> Facts:
    user = User("usr_1", "https://idp.test", "1", "oncall")
    target = stage.ctx.catalogue.current().targets["orders-db"]
    return gather(stage.ctx, Question(user, target, "read", at, incident_id, True, 2))


def test_facts_are_what_the_store_holds(stage: Stage):
    at = stage.clock.now()
    rota = Rota([("oncall", at - HOUR, at + HOUR), ("ben", at + HOUR, at + 2 * HOUR)])
    assert refresh_facts(stage.ctx, [rota], [Incidents([incident(at)])], at, Told())
    assert rota.windows == [Window(at - PAST, at + AHEAD)]
    facts = gathered(stage, at)
    assert facts.on_call is not None
    assert (facts.on_call.is_on_call, facts.on_call.freshness) == (True, Freshness.FRESH)
    assert facts.incident is not None
    assert facts.incident.is_open(at)
    assert (facts.level, facts.break_glass, facts.approvals, facts.requester) == ("read", True, 2, "")


def test_no_snapshot_is_no_evidence(stage: Stage):
    facts = gathered(stage, stage.clock.now())
    assert facts.on_call is not None
    assert (facts.on_call.is_on_call, facts.on_call.freshness) == (False, Freshness.NONE)
    assert facts.incident is None


def test_an_incident_that_nobody_confirmed_for_a_day_is_not_known(stage: Stage):
    at = stage.clock.now()
    refresh_facts(stage.ctx, [], [Incidents([incident(at)])], at, Told())
    assert gathered(stage, at + 23 * HOUR).incident is not None
    assert gathered(stage, at + 25 * HOUR).incident is None
    assert gathered(stage, at, "INC-2").incident is None
    assert gathered(stage, at, "").incident is None


def test_grace_lets_in_a_little_before_and_after(stage: Stage):
    at = stage.clock.now()
    refresh_facts(stage.ctx, [Rota([("oncall", at + 20 * MINUTE, at + HOUR)])], [], at, Told())
    for moment, expected in (
        (at + 4 * MINUTE, False),
        (at + 6 * MINUTE, True),
        (at + 89 * MINUTE, True),
        (at + 91 * MINUTE, False),
    ):
        found = gathered(stage, moment).on_call
        assert found is not None
        assert found.is_on_call is expected, moment


def test_an_event_only_when_something_changed(stage: Stage):
    at = stage.clock.now()
    told = Told()
    rota = Rota([("oncall", at - HOUR, at + HOUR), ("ben", at + HOUR, at + 3 * HOUR)])
    source = Incidents([incident(at)])
    refreshes = [refresh_facts(stage.ctx, [rota], [source], at + n * MINUTE, told) for n in range(3)]
    assert refreshes == [True, False, False]
    assert stage.events() == [("rota:refreshed", "ok"), ("incident:opened", "ok")]
    # Unchanged, and yet confirmed: the snapshot is as young as the last answer.
    found = gathered(stage, at + 11 * MINUTE).on_call
    assert found is not None
    assert found.freshness is Freshness.FRESH
    assert refresh_facts(stage.ctx, [rota], [source], at + HOUR, told)  # the handover
    rota.text = "2"
    assert refresh_facts(stage.ctx, [rota], [source], at + HOUR + MINUTE, told)
    assert stage.events().count(("rota:refreshed", "ok")) == 3


def test_a_failing_source_ages_and_stops_no_other(stage: Stage):
    at = stage.clock.now()
    told = Told()
    rota, source = Rota([("oncall", at - HOUR, at + 9 * HOUR)]), Incidents([incident(at)])
    refresh_facts(stage.ctx, [rota], [source], at, told)
    rota.is_down = True
    source.known = []
    later = at + 20 * MINUTE
    assert refresh_facts(stage.ctx, [rota], [source], later, told)
    assert not refresh_facts(stage.ctx, [rota], [source], later + MINUTE, told)
    found = gathered(stage, later).on_call
    assert found is not None
    assert (found.is_on_call, found.freshness) == (True, Freshness.STALE)
    assert stage.events()[2:] == [("rota:failed", "failed"), ("incident:closed", "ok")]
    rota.is_down = False
    assert refresh_facts(stage.ctx, [rota], [source], later + 2 * MINUTE, told)


def test_incidents_close_by_word_by_vanishing_and_by_time(stage: Stage):
    at = stage.clock.now()
    source = Incidents([incident(at, closed_at=at + HOUR)])
    told = Told()
    refresh_facts(stage.ctx, [], [source], at, told)
    assert refresh_facts(stage.ctx, [], [source], at + 2 * HOUR, told)
    assert not refresh_facts(stage.ctx, [], [source], at + 3 * HOUR, told)
    source.known = [incident(at)]
    assert refresh_facts(stage.ctx, [], [source], at + 4 * HOUR, told)
    source.known = [incident(at, service="billing")]
    assert refresh_facts(stage.ctx, [], [source], at + 5 * HOUR, told)
    source.known = []
    assert refresh_facts(stage.ctx, [], [source], at + 6 * HOUR, told)
    opened, closed = ("incident:opened", "ok"), ("incident:closed", "ok")
    assert stage.events() == [opened, closed, opened, closed, opened, closed]
    source.is_down = True
    assert not refresh_facts(stage.ctx, [], [source], at + 7 * HOUR, told)
