"""What stays held because its end could not be stored is ended by the sweeper."""

import pytest

from gateway.app.confirm_commit import show_held
from gateway.app.end_session import end_session
from gateway.app.hold_commit import LeftHeld, ask_commit, end_held
from gateway.app.record_evidence import Evidence
from gateway.core.errors import NotFound
from gateway.core.session import EndReason
from gateway.edges.supervisor import Supervisor
from tests.unit.app.house import House
from tests.unit.app.test_held_commit import ASKING, YES, say
from tests.unit.app.test_held_commit import sealed as sealed
from tests.unit.app.test_main_job import READ, granted, opened


def left(house: House, *, is_confirmed: bool = False) -> str:
    """A session that is over, and whose door could not say so of what it held."""
    found = opened(house, granted(house, READ))[0]
    ask_commit(house.ctx, found.session, ASKING)
    if is_confirmed:
        say(house, "lead", found.session, "m1", YES)
    end_session(house.ctx, found.session, found.recording, EndReason.CLIENT_CLOSED)
    return found.session.id


def is_held(house: House, session: str) -> bool:
    with house.ctx.store.read() as uow:
        return uow.held.get(session) is not None


@pytest.mark.parametrize(("is_confirmed", "outcome"), [(True, "unknown"), (False, "lost")])
def test_the_sweeper_ends_what_nobody_else_does(sealed: House, is_confirmed: bool, outcome: str):
    session = left(sealed, is_confirmed=is_confirmed)
    supervisor = Supervisor(sealed.ctx, [], [], Evidence(), 30.0)
    supervisor.run_once()
    assert is_held(sealed, session)  # its gateway may be about to say how it ended
    supervisor.run_once()
    assert not is_held(sealed, session)
    (told,) = sealed.events("transaction:ended")
    assert (told.session, told.data) == (session, {"tx": 1, "outcome": outcome, "level": "read"})
    supervisor.run_once()
    assert len(sealed.events("transaction:ended")) == 1


def test_what_its_gateway_says_meanwhile_counts(sealed: House):
    found = opened(sealed, granted(sealed, READ))[0]
    ask_commit(sealed.ctx, found.session, ASKING)
    step = LeftHeld()
    end_session(sealed.ctx, found.session, found.recording, EndReason.CLIENT_CLOSED)
    assert step.step(sealed.ctx) == 0
    end_held(sealed.ctx, found.session, 1, "committed")
    assert (step.step(sealed.ctx), step.step(sealed.ctx)) == (0, 0)
    (told,) = sealed.events("transaction:ended")
    assert told.data["outcome"] == "committed"


def test_what_a_live_session_holds_is_left_alone(sealed: House):
    session, _ = opened(sealed, granted(sealed, READ))
    ask_commit(sealed.ctx, session.session, ASKING)
    over = left(sealed)
    step = LeftHeld()
    assert [step.step(sealed.ctx) for _ in range(4)] == [0, 1, 0, 0]
    assert is_held(sealed, session.session.id)
    with pytest.raises(NotFound):
        show_held(sealed.ctx, sealed.people["lead"], over)
