"""What a session left at work is ended on a real database, and the log has the attempt before it has happened."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import psycopg
import pytest

from gateway.app.context import Context
from gateway.app.end_backend import end_backend
from gateway.app.open_session import Opened
from gateway.core.errors import Unavailable
from gateway.core.event import Event
from tests.servers import PostgresServer
from tests.unit.app.house import FaultyRoles, House
from tests.unit.app.test_main_job import READ, granted, opened
from tests.unit.app.test_outages_and_attacks import Flaky

TYPE = "session:backend-ended"


@dataclass
class Left:
    """A connection of a session's role."""

    house: House
    session: Opened
    there: psycopg.Connection
    pid: int

    def end(self, ctx: Context) -> None:
        assert self.session.login is not None
        end_backend(ctx, self.session.session, self.session.target, self.session.login.role, self.pid)

    def is_there(self) -> bool:
        try:
            return self.there.execute("SELECT true").fetchone() == (True,)
        except psycopg.OperationalError:
            return False

    def told(self) -> list[Event]:
        return self.house.events(TYPE)


@pytest.fixture
def left(house: House, postgres_server: PostgresServer) -> Iterator[Left]:
    made, _ = opened(house, granted(house, READ))
    assert made.login is not None
    url = postgres_server.url(made.target.database, made.login.role, made.login.password)
    with psycopg.connect(url, autocommit=True) as there:
        yield Left(house, made, there, there.info.backend_pid)


def test_the_attempt_is_stored_before_it_ends_and_the_outcome_after(left: Left) -> None:
    class Watched(FaultyRoles):
        def end_backend(self, target, role, pid, attempt):
            def watched() -> None:
                attempt()
                assert [each.outcome for each in left.told()] == ["attempt"]
                assert left.is_there()

            return super().end_backend(target, role, pid, watched)

    left.end(replace(left.house.ctx, roles=Watched()))
    assert not left.is_there()
    first, last = left.told()
    assert (first.outcome, last.outcome) == ("attempt", "ok")
    assert first.session == last.session == left.session.session.id
    assert first.data == last.data == {"role": left.session.login.role, "pid": left.pid}
    left.end(left.house.ctx)
    assert len(left.told()) == 2  # of what is gone there is nothing to tell


def test_one_that_cannot_be_ended_is_told(left: Left) -> None:
    left.house.roles.faults = ["refuse"]
    with pytest.raises(Unavailable):
        left.end(left.house.ctx)
    (failed,) = left.told()
    assert (failed.outcome, bool(failed.data["code"])) == ("failed", True)
    assert left.is_there()


def test_a_store_that_is_down_does_not_prevent_it(left: Left, caplog: pytest.LogCaptureFixture) -> None:
    left.end(replace(left.house.ctx, store=Flaky(left.house.ctx.store, writes=False)))
    assert not left.is_there()
    assert left.told() == []
    assert [TYPE in each.message for each in caplog.records] == [True, True]
