"""What lets access outlast a shift is an open incident of the very service, and nothing else."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.adapters.cedar import CedarPolicy
from gateway.app.extend_grant import extend_grant
from gateway.app.reevaluate import Reevaluation
from gateway.app.request_access import request_access
from gateway.core.incident import Incident
from gateway.core.rota import Shift
from gateway.core.session import EndReason
from gateway.core.window import Window
from tests.unit.app.house import INCIDENT, ROLES, House
from tests.unit.app.test_main_job import READ, SHELL, opened
from tests.unit.app.test_outages_and_attacks import own_policies

ON_CALL_IS_ENOUGH = """
@id("on-call-is-enough")
@max_duration("8h")
permit (principal in Role::"engineer", action == Action::"Connect", resource is Target) when { context.on_call };
"""
LEFT = timedelta(minutes=20)


@pytest.fixture
def site(house: House, tmp_path: Path) -> House:
    """Whoever is on call needs no incident here; the shift of `oncall` ends in 20 minutes, and somebody else's goes on.

    `INCIDENT` is about orders, and `OTHER-1` about another service; both are open.
    """
    folder = own_policies(house, tmp_path)
    (folder / "site.cedar").write_text(ON_CALL_IS_ENOUGH)
    house.ctx = replace(house.ctx, policy=CedarPolicy(folder, ROLES))
    at = house.clock.now()
    day = timedelta(days=1)
    ends = Window(at - day, at + LEFT)
    shifts = [
        Shift("orders", "oncall", 1, ends, "test", at, ""),
        Shift("orders", "lead", 1, Window(at - day, at + day), "test", at, ""),
    ]
    ours = Incident(INCIDENT, "orders", "", at - day, None, "test", at)
    with house.ctx.store.begin() as uow:
        uow.shifts.replace("test", Window(at - 2 * day, at + 7 * day), shifts)
        uow.incidents.replace("test", [ours, replace(ours, id="OTHER-1", service="payments")])
    return house


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


@pytest.mark.parametrize(("incident", "is_cut"), [("", True), ("OTHER-1", True), ("NOBODY-9", True), (INCIDENT, False)])
def test_a_grant_outlasts_the_shift_under_an_incident_of_the_service_alone(site: House, incident: str, is_cut: bool):
    granted = request_access(site.ctx, site.people["oncall"], replace(READ, duration=hours(3), incident=incident)).grant
    assert granted is not None
    lasts = granted.window.not_after - granted.window.not_before
    assert lasts == (LEFT + site.ctx.rota.grace_after if is_cut else hours(3))
    site.clock.advance(timedelta(minutes=5))
    if is_cut:
        with pytest.raises(Exception, match="not be longer"):
            extend_grant(site.ctx, site.people["oncall"], granted.id, hours(3))


def test_a_session_outlasts_the_shift_under_an_incident_of_the_service_alone(site: House):
    ours, others = (
        opened(site, grant)[1]
        for incident in (INCIDENT, "OTHER-1")
        if (grant := request_access(site.ctx, site.people["oncall"], replace(SHELL, incident=incident)).grant)
    )
    with site.ctx.store.begin() as uow:
        at = site.clock.now()
        uow.shifts.replace("test", Window(at - timedelta(days=2), at + timedelta(days=7)), [])
    Reevaluation().tick(site.ctx, ask_policy=True)
    assert not ours.ended
    assert [reason for reason, _ in others.ended] == [EndReason.POLICY_CHANGED]
