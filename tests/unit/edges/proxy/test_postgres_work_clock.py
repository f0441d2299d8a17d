"""How long a target has worked for a session: timers of the loop may come a little early."""

from datetime import timedelta

import pytest

from gateway.core.budget import Budget, Room
from gateway.edges.proxy.postgres_guarded import _WorkClock


@pytest.mark.parametrize("early", [0.0, 0.0009])
def test_a_timer_that_comes_early_ends_the_session_all_the_same(early: float):
    clock = _WorkClock(Budget(session=Room(time=timedelta(seconds=0.5))))
    clock.start(100.0)
    clock.stop(100.1)
    assert not clock.is_spent
    room = clock.start(200.0)
    assert room == pytest.approx(0.4)
    clock.stop(200.0 + room - early)
    assert clock.is_spent
