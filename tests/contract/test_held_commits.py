"""COMMITs that are held, in each store."""

from dataclasses import fields, replace

import pytest

from gateway.adapters.store import SqlStore
from gateway.adapters.store.failures import WroteWhileReadingError
from gateway.adapters.store.transaction import InconsistentError
from gateway.core.dry_run import Confirm
from gateway.core.held_commit import HeldCommit, HeldState
from gateway.core.session import EndReason
from tests.contract.store_values import SESSION, T0, fill

WAITING = HeldCommit(SESSION.id, 3, "a" * 32, T0, Confirm.APPROVER, 2, 1 << 40, "sealed \N{SNOWMAN}")
DECIDED = replace(WAITING, state=HeldState.REFUSED, decided_by="lead", decided_at=T0, reason="naïve")


@pytest.mark.parametrize("held", [WAITING, DECIDED], ids=["waiting", "decided"])
def test_every_field_comes_back(store: SqlStore, held: HeldCommit) -> None:
    fill(store)
    with store.begin() as uow:
        assert uow.held.get(SESSION.id) is None
        uow.held.put(held)
    with store.read() as uow:
        assert uow.held.get(SESSION.id) == held


def test_the_values_leave_no_field_at_its_default() -> None:
    plain = HeldCommit("", 0, "", T0, Confirm.SELF, 0, 0)
    for field in fields(HeldCommit):
        assert field.name == "at" or getattr(DECIDED, field.name) != getattr(plain, field.name), field.name


def test_a_session_has_one_at_most_and_the_end_of_another_transaction_is_not_its_end(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        uow.held.put(DECIDED)
        uow.held.put(replace(WAITING, tx=4))
    with store.begin() as uow:
        assert uow.held.get(SESSION.id) == replace(WAITING, tx=4)
        assert not uow.held.remove(SESSION.id, 3)
        assert not uow.held.remove("ses_none", 4)
        assert uow.held.remove(SESSION.id, 4)
        assert not uow.held.remove(SESSION.id, 4)
        assert uow.held.get(SESSION.id) is None


def test_those_of_sessions_that_are_over(store: SqlStore) -> None:
    fill(store)
    with store.begin() as uow:
        uow.sessions.add(replace(SESSION, id="ses_live"))
        uow.sessions.add(replace(SESSION, id="ses_over", ended_at=T0, end_reason=EndReason.KILLED))
        for session in ("ses_live", "ses_over"):
            uow.held.put(replace(WAITING, session=session))
    with store.read() as uow:
        assert list(uow.held.of_ended(9)) == [replace(WAITING, session="ses_over")]
        assert list(uow.held.of_ended(0)) == []


def test_it_needs_its_session_and_reading_cannot_write(store: SqlStore) -> None:
    fill(store)
    with pytest.raises(InconsistentError), store.begin() as uow:
        uow.held.put(replace(WAITING, session="ses_none"))
    with pytest.raises(WroteWhileReadingError), store.read() as uow:
        uow.held.put(WAITING)
