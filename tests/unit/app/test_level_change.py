"""A yes is to what a level allows when it is asked for: a level that is changed since gives nothing more, and nothing."""

from dataclasses import replace

import pytest
from sqlalchemy import update

from gateway.adapters.store.tables import REQUESTS
from gateway.app.approve_request import answer
from gateway.app.decide_connection import decide_grant
from gateway.app.extend_grant import extend_grant
from gateway.app.open_session import grant_for, open_session
from gateway.app.reevaluate import Reevaluation
from gateway.app.request_access import request_access
from gateway.core.budget import Budget, Room
from gateway.core.decision import Permit
from gateway.core.errors import Denied
from gateway.core.level_terms import LEVEL_TERMS, terms_of
from gateway.core.request import RequestState, Verdict
from gateway.core.session import EndReason
from gateway.core.target import SshRules
from tests.unit.app.house import House
from tests.unit.app.test_main_job import HOUR, READ, SHELL, granted, opened


def change(house: House, target: str, name: str, **said: object) -> None:
    """As the catalogue's file would say it, with the digest that reading it gives."""
    catalogue = house.ctx.catalogue.current()
    found = catalogue.targets[target]
    level = replace(found.levels[name], **said)
    levels = {**found.levels, name: replace(level, terms=terms_of(level))}
    house.ctx.catalogue.catalogue = replace(
        catalogue, targets={**catalogue.targets, target: replace(found, levels=levels)}
    )


@pytest.fixture(autouse=True)
def _as_read(house: House) -> None:
    for target, level in (("web-1", "shell"), ("web-1", "root"), ("orders-db", "read"), ("orders-db", "admin")):
        change(house, target, level)


@pytest.mark.parametrize(
    "said",
    [
        {"account": "root"},
        {"ssh": SshRules(agent_forwarding=True)},
        {"ssh": SshRules(shell=False)},  # less is other as well: nobody works on under what is not so any more
        {"budget": Budget(statement=Room(rows=1))},
    ],
)
def test_a_grant_opens_nothing_once_its_level_is_another(house: House, said: dict[str, object]):
    grant = granted(house)
    change(house, "web-1", "shell", **said)
    with pytest.raises(Denied) as no:
        open_session(house.ctx, house.people["oncall"], grant, "127.0.0.1:5000")
    assert no.value.refusal.code == "level-changed"
    assert house.types()[-1] == ("session:denied", "denied")


def test_live_sessions_end_with_the_reason(house: House):
    _, held = opened(house, granted(house))
    watch = Reevaluation()
    watch.tick(house.ctx, ask_policy=True)
    assert held.ended == []
    change(house, "web-1", "shell", account="root")
    watch.tick(house.ctx, ask_policy=True)
    assert held.ended[0][0] is EndReason.POLICY_CHANGED
    assert "shell on web-1" in held.ended[0][1]


def test_words_and_the_order_of_levels_change_nothing(house: House):
    grant = granted(house)
    change(house, "web-1", "shell", description="for a look", rank=7)
    change(house, "web-1", "root", account="other")  # nor does another level of the target
    assert isinstance(decide_grant(house.ctx, grant, house.ctx.catalogue.current().targets["web-1"]), Permit)


def test_what_is_asked_for_anew_counts_and_the_longer_one_of_before_does_not_hide_it(house: House):
    old = granted(house, replace(SHELL, duration=2 * HOUR))
    change(house, "web-1", "shell", ssh=SshRules(agent_forwarding=True))
    new = granted(house, replace(SHELL, duration=HOUR))
    assert old.window.not_after > new.window.not_after
    assert grant_for(house.ctx, house.people["oncall"], "web-1").id == new.id
    assert opened(house, new)


def test_an_approver_is_told_that_it_is_not_what_was_asked_for(house: House):
    asked = request_access(house.ctx, house.people["oncall"], replace(READ, level="write"))
    assert asked.grant is None
    change(house, "orders-db", "write", account="orders_owner")
    with pytest.raises(Denied) as no:
        answer(house.ctx, house.people["lead"], asked.request.id, Verdict.APPROVE)
    assert no.value.refusal.code == "level-changed"
    assert house.types()[-1] == ("approval:denied", "denied")
    done = answer(house.ctx, house.people["lead"], asked.request.id, Verdict.REJECT, "ask anew")
    assert done.request.state is RequestState.REJECTED


def test_an_approved_grant_is_to_what_was_approved(house: House):
    change(house, "orders-db", "write")
    asked = request_access(house.ctx, house.people["oncall"], replace(READ, level="write"))
    grant = answer(house.ctx, house.people["lead"], asked.request.id, Verdict.APPROVE).grant
    assert grant is not None
    terms = house.ctx.catalogue.current().targets["orders-db"].levels["write"].terms
    assert house.events("grant:issued")[-1].data["facts"][LEVEL_TERMS] == terms
    target = house.ctx.catalogue.current().targets["orders-db"]
    assert isinstance(decide_grant(house.ctx, grant, target), Permit)
    change(house, "orders-db", "write", budget=Budget(session=Room(rows=5)))
    changed = house.ctx.catalogue.current().targets["orders-db"]
    assert not isinstance(decide_grant(house.ctx, grant, changed), Permit)
    assert isinstance(decide_grant(house.ctx, grant, target), Permit)  # and is good again when that is taken back


def test_it_is_not_extended_either(house: House):
    grant = granted(house)
    change(house, "web-1", "shell", account="root")
    with pytest.raises(Denied) as no:
        extend_grant(house.ctx, house.people["oncall"], grant.id, 2 * HOUR)
    assert no.value.refusal.code == "level-changed"
    assert house.types()[-1] == ("grant:extension-denied", "denied")


def test_what_was_asked_for_at_an_older_gateway_is_not_called_changed(house: House):
    grant = granted(house)
    with house.ctx.store.writing.begin() as connection:  # type: ignore[attr-defined]
        connection.execute(update(REQUESTS).values(facts={"on_call": True}))
    with pytest.raises(Denied, match="older gateway") as no:
        open_session(house.ctx, house.people["oncall"], grant, "127.0.0.1:5000")
    assert no.value.refusal.code == "level-changed"
