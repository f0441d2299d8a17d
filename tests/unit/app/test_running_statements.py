from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.adapters.postgres_parser import PostgresParser
from gateway.adapters.sealed_secrets import SealedSecrets
from gateway.app.cancel_statement import cancel_statement
from gateway.app.list_access import sessions
from gateway.app.reevaluate import Reevaluation
from gateway.app.running_statements import RunningStatements, shown_statements
from gateway.app.statement_ports import Statement
from gateway.core.errors import Conflict, Denied, NotFound
from gateway.core.principal import Machine
from gateway.core.session import EndReason
from tests.unit.app.house import House
from tests.unit.app.test_main_job import READ, granted, opened

SLOW = Statement(7, b"DELETE FROM orders WHERE secret = 'x'", timedelta(seconds=3))


def shown(house: House, name: str = "oncall") -> dict[str, tuple[int, str, str]]:
    user = house.people[name]
    told = shown_statements(house.ctx, user, sessions(house.ctx, user, all=True))
    return {of: (each.n, each.kind, each.sql) for of, each in told.items()}


@pytest.fixture
def sealed(house: House, tmp_path: Path) -> House:
    house.ctx = replace(house.ctx, sealer=SealedSecrets(tmp_path / "tokens.key"), reader=PostgresParser())
    return house


def test_what_takes_a_while_is_shown_until_it_is_over(sealed: House):
    house = sealed
    session, held = opened(house, granted(house, READ))
    watch, of = RunningStatements(), session.session.id
    watch.tick(house.ctx)
    held.runs = SLOW._replace(age=timedelta(milliseconds=100))
    watch.tick(house.ctx)
    assert shown(house) == {}
    held.runs = SLOW
    watch.tick(house.ctx)
    watch.tick(house.ctx)
    assert shown(house) == {of: (7, "write", SLOW.sql.decode())}
    with house.ctx.store.read() as uow:
        (stored,) = uow.sessions.list()
    assert stored.running is not None
    assert stored.running.since == house.clock.now() - SLOW.age
    assert "secret" not in stored.running.sealed
    held.runs = Statement(8, b"x" * 1000, timedelta(seconds=1))
    watch.tick(house.ctx)
    assert shown(house) == {of: (8, "", "x" * 1000)}  # cut, so nobody can say what it does
    held.runs = None
    watch.tick(house.ctx)
    assert shown(house) == {}


def test_who_sees_the_statements_of_others_is_in_the_log_and_machines_see_none(sealed: House):
    house = sealed
    session, held = opened(house, granted(house, READ))
    held.runs = SLOW
    RunningStatements().tick(house.ctx)
    assert shown(house)
    assert not house.events("statement:shown")
    assert shown(house, "lead") == shown(house)
    (told,) = house.events("statement:shown")
    assert (told.principal, told.data["sessions"]) == ("lead", [session.session.id])
    with house.ctx.store.read() as uow:
        found = uow.sessions.list()
    assert shown_statements(house.ctx, Machine("tok_1", "bot", frozenset({"access:read"})), found) == {}


def test_without_its_key_a_text_stays_shut(sealed: House, tmp_path: Path):
    house = sealed
    session, held = opened(house, granted(house, READ))
    held.runs = SLOW
    RunningStatements().tick(house.ctx)
    house.ctx = replace(house.ctx, sealer=SealedSecrets(tmp_path / "other.key"))
    assert shown(house) == {session.session.id: (7, "write", "")}


def test_a_wish_to_cancel_reaches_the_session_once_and_is_in_the_log(house: House):
    session, held = opened(house, granted(house, READ))
    watch, of = Reevaluation(), session.session.id
    watch.tick(house.ctx, ask_policy=False)
    cancel_statement(house.ctx, house.people["lead"], of, n=7, reason="locks the table")
    for _ in range(3):
        watch.tick(house.ctx, ask_policy=False)
    assert held.cancels == [("lead", 7)]
    told = house.events("statement:cancel-requested")[-1]
    assert (told.principal, told.session) == ("lead", of)
    assert told.data == {"statement": 7, "reason": "locks the table", "holder": "oncall"}
    cancel_statement(house.ctx, house.people["lead"], of, n=7)
    cancel_statement(house.ctx, house.people["oncall"], of)
    watch.tick(house.ctx, ask_policy=False)
    assert held.cancels == [("lead", 7), ("oncall", 0)]
    assert held.ended == []


def test_without_a_number_it_is_the_statement_that_was_seen_to_run(sealed: House):
    session, held = opened(sealed, granted(sealed, READ))
    watch, running, of = Reevaluation(), RunningStatements(), session.session.id
    held.runs = SLOW
    running.tick(sealed.ctx)
    changed = cancel_statement(sealed.ctx, sealed.people["lead"], of)
    assert changed.cancel is not None
    assert changed.cancel.n == 7
    watch.tick(sealed.ctx, ask_policy=False)
    assert held.cancels == [("lead", 7)]  # the door leaves any other alone
    assert sealed.events("statement:cancel-requested")[-1].data["statement"] == 7


def test_who_may_end_may_cancel_and_only_what_is_a_live_database_session(house: House):
    session, held = opened(house, granted(house, READ))
    with pytest.raises(Denied):
        cancel_statement(house.ctx, house.people["developer"], session.session.id)
    with pytest.raises(NotFound):
        cancel_statement(house.ctx, house.people["lead"], "ses_none")
    shell, _ = opened(house, granted(house))
    with pytest.raises(Conflict) as no:
        cancel_statement(house.ctx, house.people["lead"], shell.session.id)
    assert no.value.refusal.code == "cancel-not-supported"
    with house.ctx.store.begin() as uow:
        uow.sessions.save(replace(session.session, ended_at=house.clock.now(), end_reason=EndReason.KILLED))
    with pytest.raises(Conflict) as no:
        cancel_statement(house.ctx, house.people["lead"], session.session.id)
    assert no.value.refusal.code == "session-over"
    assert held.cancels == []
