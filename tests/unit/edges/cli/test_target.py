from collections.abc import Sequence

import pytest

from gateway.app.doctor_ports import Finding, NoDoctor
from gateway.core.decision import Action
from gateway.core.target import Target
from tests.unit.edges.cli.conftest import Gw

GRANT = 'GRANT "orders_read" TO "gw" WITH ADMIN TRUE;'
REVOKE = "REVOKE EXECUTE ON ROUTINE public.refund() FROM PUBLIC;"


class Told(NoDoctor):
    def rights(self, target: Target) -> Sequence[Finding]:
        return (
            Finding("administrator", "gw", ok=False, problem="It does not answer.\x1b[2J"),
            Finding("group", "read", ok=False, problem="No ADMIN option.", remedy=(GRANT,)),
            Finding("elevation", "read", ok=True, problem="It may use refund().", remedy=(REVOKE,)),
        )

    def reach(self, target: Target) -> Finding:
        return Finding("reach", "db:5432", ok=True)


@pytest.fixture
def gw(gw: Gw) -> Gw:
    object.__setattr__(gw.stage.ctx, "doctor", Told())
    return gw.as_("lead")


def test_the_doctor_says_what_is_wrong_and_what_mends_it(gw: Gw) -> None:
    result = gw("target", "doctor", "orders-db")
    assert result.exit_code == 1
    assert "ok    address and TLS lead to the target (db:5432)" in result.stdout
    assert "FAIL  the group may be given to a role (read)" in result.stdout
    assert GRANT in result.stdout
    assert "warn  nothing there gives more than the group's privileges (read)" in result.stdout
    assert REVOKE in result.stdout
    assert "\x1b" not in result.stdout
    told = gw.json("target", "doctor", "orders-db")
    assert (told["ok"], [f["ok"] for f in told["findings"]]) == (False, [False, False, True, True])


def test_a_server_and_a_stranger_are_turned_away(gw: Gw) -> None:
    assert gw("target", "doctor", "web-1").exit_code == 5
    assert gw("target", "doctor", "no/where").exit_code == 4
    gw.stage.forbid(Action.EXAMINE)
    assert gw("target", "doctor", "orders-db").exit_code == 3
