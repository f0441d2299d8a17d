"""A gateway that is killed while it makes or unmakes a role: each role has an owner in the store, and goes with its grant.

The real store and a real database; the kill comes before, within or after each transaction of the store, and before or
after each statement of the administrator's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.app.context import Context
from gateway.app.lease_role import reap_leases
from gateway.app.open_session import open_session
from gateway.app.recover import recover
from gateway.app.request_access import request_access
from gateway.app.revoke_grant import revoke_grant
from gateway.core.errors import GatewayError
from gateway.core.grant import Grant
from tests.servers import PostgresServer
from tests.unit.app.house import House
from tests.unit.app.test_main_job import READ

SOON = timedelta(seconds=10)
MANY = 500


class KilledError(BaseException):
    """Not an Exception: nothing cleans up behind it on purpose."""


class Fate:
    """Counts the points at which a process may be killed, and does it at one of them."""

    def __init__(self, at: int) -> None:
        self._left = at

    def point(self) -> None:
        self._left -= 1
        if not self._left:
            raise KilledError

    @property
    def is_met(self) -> bool:
        return self._left <= 0


class MortalStore:
    def __init__(self, real: Any, fate: Fate) -> None:
        self._real, self._fate = real, fate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    @contextmanager
    def begin(self) -> Iterator[Any]:
        self._fate.point()
        with self._real.begin() as uow:
            yield uow
            self._fate.point()  # written, not committed
        self._fate.point()


class MortalConnection:
    def __init__(self, real: Any, fate: Fate) -> None:
        self._real, self._fate = real, fate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, *statement: Any) -> Any:
        self._fate.point()
        found = self._real.execute(*statement)
        self._fate.point()
        return found


@contextmanager
def mortal(house: House, ctx: Context, fate: Fate) -> Iterator[Context]:
    """The same process, until its fate is met."""
    roles = house.roles.real
    administrator: Callable[..., Any] = roles.administrator

    @contextmanager
    def mortally(*place: Any) -> Iterator[Any]:
        with administrator(*place) as connection:
            yield MortalConnection(connection, fate)

    roles.administrator = mortally  # type: ignore[method-assign]
    try:
        yield replace(ctx, store=MortalStore(ctx.store, fate))
    except KilledError:
        return
    finally:
        roles.administrator = administrator  # type: ignore[method-assign]


def reborn(ctx: Context) -> Context:
    """Started again: all that was in memory only is gone."""
    return replace(ctx, live=type(ctx.live)(), logins=type(ctx.logins)())


def granted(house: House) -> Grant:
    grant = request_access(house.ctx, house.people["oncall"], READ).grant
    assert grant is not None
    return grant


def roles(house: House) -> set[str]:
    return set(house.roles.roles_of(house.ctx.catalogue.current().targets["orders-db"], "gw_"))


def owned(house: House) -> set[str]:
    with house.ctx.store.read() as uow:
        return {lease.name for lease in uow.leases.unfinished()}


def live_and_end(house: House, ctx: Context, grant: Grant) -> None:
    """What a grant goes through, as far as it still has to; a second life goes on where the first one ended."""
    person = house.people["oncall"]
    with ctx.store.read() as uow:
        is_active = (uow.grants.get(grant.id) or grant).is_active(house.clock.now())
    if is_active:
        open_session(ctx, person, grant, "127.0.0.1:5000")
        revoke_grant(ctx, person, grant.id)
    reap_leases(ctx, house.later(SOON))


def killed_at(house: House, points: list[int]) -> bool:
    """One life for each point, and one that nobody ends; False when a life came to its end before its point."""
    grant, ctx, all_met = granted(house), house.ctx, True
    for point in points:
        fate = Fate(point)
        with mortal(house, ctx, fate) as dying:
            live_and_end(house, dying, grant)
        all_met = all_met and fate.is_met
        assert roles(house) <= owned(house)
        ctx = reborn(ctx)
        recover(ctx)
    try:
        live_and_end(house, ctx, grant)
    except GatewayError as no:
        pytest.fail(f"after a restart: {no.refusal.message}")
    assert reap_leases(ctx, house.later(SOON)) == 0
    assert not roles(house)
    assert not owned(house)
    return all_met


def test_a_kill_at_any_point_leaves_no_role_without_an_owner(house: House) -> None:
    points = next(point for point in range(1, MANY) if not killed_at(house, [point]))
    assert points > 40  # it was killed within the making and within the unmaking


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(points=st.lists(st.integers(1, 60), min_size=2, max_size=3))
def test_nor_do_several_kills_one_after_the_other(house: House, points: list[int]) -> None:
    killed_at(house, points)


def test_what_a_role_prepared_is_in_the_log_before_it_is_rolled_back(
    house: House, postgres_server: PostgresServer
) -> None:
    person, grant = house.people["oncall"], granted(house)
    opened = open_session(house.ctx, person, grant, "127.0.0.1:5000")
    assert opened.login is not None
    database = house.ctx.catalogue.current().targets["orders-db"].database
    url = postgres_server.url(database, opened.login.role, opened.login.password)
    with psycopg.connect(url, autocommit=True) as session:
        for statement in ("BEGIN", "SET ROLE NONE", "PREPARE TRANSACTION 'left'"):
            session.execute(statement.encode())
    revoke_grant(house.ctx, person, grant.id)
    assert reap_leases(house.ctx, house.later(SOON)) == 0
    (told,) = house.events("lease:rolled-back")
    assert (told.outcome, told.grant) == ("attempt", grant.id)
    assert (told.data["transactions"], told.data["count"]) == ([f"left in {database}"], 1)
    assert roles(house) == set()
