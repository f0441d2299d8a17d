from datetime import UTC, datetime, timedelta

import pytest

from gateway.adapters import system
from gateway.adapters.system import SystemClock, SystemIds


class _Times:
    def __init__(self) -> None:
        self.wall, self.steady = 1_800_000_000.0, 50.0

    def time(self):
        return self.wall

    def monotonic(self):
        return self.steady


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> _Times:
    times = _Times()
    monkeypatch.setattr(system, "time", times)
    return times


def test_a_clock_set_back_does_not_lengthen_anything(times: _Times):
    clock = SystemClock()
    start = clock.now()
    times.wall -= 3600
    times.steady += 10
    assert clock.now() == start + timedelta(seconds=10)


def test_a_clock_set_forward_is_believed_until_it_is_set_right(times: _Times):
    clock = SystemClock()
    start = clock.now()
    times.wall += 600
    assert clock.now() == start + timedelta(seconds=600)
    times.wall -= 600
    times.steady += 1
    assert clock.now() == start + timedelta(seconds=1)
    assert clock.now().tzinfo is UTC


def test_ids_sort_by_age_and_secrets_differ():
    ids = SystemIds(SystemClock())
    assert ids.secret() != ids.secret()
    assert len(ids.secret()) == 43
    assert ids.new("grt").startswith("grt_")
    early = system.make_id("grt", datetime(2026, 1, 1, tzinfo=UTC), b"\xff" * 10)
    assert early < system.make_id("grt", datetime(2026, 1, 2, tzinfo=UTC), b"\x00" * 10)


def test_a_clock_set_back_over_a_restart_does_not_revive_what_was_over(times: _Times):
    seen = datetime.fromtimestamp(times.wall + 7200, UTC)
    clock = SystemClock(not_before=seen)
    assert clock.now() == seen
    times.steady += 5
    assert clock.now() == seen + timedelta(seconds=5)
