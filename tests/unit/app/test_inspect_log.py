from datetime import timedelta

import pytest

from gateway.app.inspect_log import checkpoint, event_filter, receipt, search_events, show_event, tile, to_json
from gateway.app.journal import confirm_logged, record
from gateway.app.request_access import Ask, request_access
from gateway.audit.proof import parse_receipt
from gateway.core.errors import Denied, NotFound
from tests.unit.app.house import INCIDENT, House

READ = Ask("orders-db", "read", timedelta(hours=1), "p99 of search 8 s", INCIDENT)


def test_who_looks_is_in_the_log_first(house: House):
    auditor = house.people["auditor"]
    found = search_events(house.ctx, auditor, event_filter(target="orders-db", text="x", limit=5000))
    assert found == []
    (event,) = house.events("audit:searched")
    assert event.principal == "auditor"
    assert event.data == {"in": "events", "target": "orders-db", "text": "x", "limit": "1000"}
    shown = show_event(house.ctx, auditor, event.id)
    assert to_json(shown)["id"] == event.id
    assert len(house.events("audit:searched")) == 2


def test_entries_that_are_taken_out_are_noted_and_hashes_are_not(house: House):
    auditor = house.people["auditor"]
    confirm_logged(house.ctx, record(house.ctx, "test:made"))
    size = int(checkpoint(house.ctx, auditor).split("\n")[1])
    assert tile(house.ctx, auditor, f"tile/0/000.p/{size}")
    assert house.events("audit:exported") == []
    assert tile(house.ctx, auditor, f"tile/entries/000.p/{size}")
    assert [event.data["path"] for event in house.events("audit:exported")] == [f"tile/entries/000.p/{size}"]
    with pytest.raises(NotFound):
        tile(house.ctx, auditor, "tile/0/999")


@pytest.mark.parametrize("name", ["oncall", "developer", "lead"])
def test_the_log_is_for_auditors(house: House, name: str):
    user = house.people[name]
    event = record(house.ctx, "test:made", principal=name)
    for look in (
        lambda: search_events(house.ctx, user, event_filter()),
        lambda: show_event(house.ctx, user, event),
        lambda: receipt(house.ctx, user, event),
        lambda: receipt(house.ctx, user, "evt_unknown"),
        lambda: checkpoint(house.ctx, user),
        lambda: tile(house.ctx, user, "tile/0/000"),
    ):
        with pytest.raises(Denied):
            look()
    assert ("policy:denied", "denied") in house.types()


def test_everybody_may_take_the_receipts_of_their_own_grants(house: House):
    oncall = house.people["oncall"]
    request_access(house.ctx, oncall, READ)
    (issued,) = house.events("grant:issued")
    confirm_logged(house.ctx, issued.id)
    assert parse_receipt(receipt(house.ctx, oncall, issued.id)).leaf
    assert parse_receipt(receipt(house.ctx, house.people["auditor"], issued.id)).leaf
    with pytest.raises(Denied):
        receipt(house.ctx, house.people["developer"], issued.id)
