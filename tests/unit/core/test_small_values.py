from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.decision import Action, Deny, Facts, Permit, Query
from gateway.core.errors import Conflict, Denied, GatewayError, NotFound, Refusal, Unavailable
from gateway.core.event import Event
from gateway.core.ids import ENTROPY_BYTES, make_id
from gateway.core.incident import Incident
from gateway.core.obligation import Obligations
from gateway.core.principal import User
from gateway.core.target import Catalogue, Kind, Level, Service, Target
from tests.unit.core.values import HOUR, T0, TICK

instants = st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2300, 1, 1), timezones=st.just(UTC))
entropy = st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES)


@given(at=instants, chance=entropy)
def test_an_identifier_has_the_shape_of_a_ulid(at: datetime, chance: bytes) -> None:
    made = make_id("grt", at, chance)
    prefix, _, digits = made.partition("_")
    assert (prefix, len(digits)) == ("grt", 26)
    assert set(digits) <= set("0123456789abcdefghjkmnpqrstvwxyz")


@given(at=instants, chance=entropy, other=entropy, later=st.timedeltas(timedelta(milliseconds=1), timedelta(days=9)))
def test_identifiers_sort_by_age(at: datetime, chance: bytes, other: bytes, later: timedelta) -> None:
    assert make_id("evt", at, chance) < make_id("evt", at + later + timedelta(milliseconds=1), other)
    assert (make_id("evt", at, chance) == make_id("evt", at, other)) == (chance == other)


@pytest.mark.parametrize("length", [0, ENTROPY_BYTES - 1, ENTROPY_BYTES + 1])
def test_an_identifier_takes_its_share_of_chance(length: int) -> None:
    with pytest.raises(ValueError, match="10 random bytes"):
        make_id("req", T0, b"x" * length)


def test_a_refusal_says_everything_on_one_line() -> None:
    refusal = Refusal("not-on-call", "You are not on call.", ("on call",), ("lead is.", "gw request asks."))
    assert refusal.sentence() == "You are not on call. lead is. gw request asks."


@pytest.mark.parametrize("kind", [Denied, NotFound, Conflict, Unavailable])
def test_an_expected_error_carries_its_refusal(kind: type[GatewayError]) -> None:
    refusal = Refusal("x", "No.")
    error = kind(refusal)
    assert error.refusal is refusal
    assert str(error) == "No."


def test_an_incident_is_open_from_its_opening_until_its_closing() -> None:
    incident = Incident("INC-1", "orders", "slow", T0, T0 + HOUR, "static", T0)
    at = [T0 - TICK, T0, T0 + HOUR - TICK, T0 + HOUR]
    assert [incident.is_open(instant) for instant in at] == [False, True, True, False]
    assert replace(incident, closed_at=None).is_open(T0 + 1000 * HOUR)


def test_a_person_is_enabled_until_disabled() -> None:
    user = User("usr_1", "issuer", "subject", "oncall")
    assert user.is_enabled()
    assert not replace(user, disabled_at=T0).is_enabled()


def test_a_target_knows_its_levels() -> None:
    read = Level("read", "app_read", 0)
    target = Target("orders-db", Kind.POSTGRES, "orders", "production", "db", 5432, {"read": read})
    assert target.level("read") is read
    assert target.level("admin") is None
    catalogue = Catalogue("1", {"orders": Service("orders", ("lead",))}, {target.name: target})
    assert catalogue.targets["orders-db"] is target


def test_values_do_not_change() -> None:
    user = User("usr_1", "issuer", "subject", "oncall")
    query = Query(user, Action.CONNECT, None, Facts(T0))
    permit = Permit(("a",), "digest", Obligations())
    deny = Deny(Refusal("x", "No."), (), "digest")
    event = Event("evt_1", T0, "grant:issued", "gw-a")
    for value, name in ((user, "name"), (query, "action"), (permit, "policies"), (deny, "policies"), (event, "type")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, "other")
