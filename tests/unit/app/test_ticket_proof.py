"""Tickets shown by SCRAM, with the real use cases: whose proof it is, and what it uses up."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import CursorResult, Executable

from gateway.adapters.store.transaction import Transaction
from gateway.app.issue_ticket import issue_ticket
from gateway.app.request_access import Ask, request_access
from gateway.app.ticket_proof import MOST_TICKETS, VERIFIER, salt_of, user_of_proof
from gateway.core.errors import Denied
from gateway.core.grant import Grant
from gateway.edges.proxy.postgres_keeper import Doorkeeper
from gateway.wire.postgres_scram import MECHANISM, ScramClient
from gateway.wire.postgres_scram_server import Misbound, Proof, ScramServer
from tests.unit.app.house import INCIDENT, House

HOUR = timedelta(hours=1)


def granted(house: House, target: str = "orders-db", level: str = "read") -> Grant:
    outcome = request_access(house.ctx, house.people["oncall"], Ask(target, level, HOUR, "p99 is 8 s", INCIDENT))
    assert outcome.grant is not None
    return outcome.grant


def shown(secret: str, user: str = "oncall", target: str = "orders-db") -> tuple[ScramClient, Proof]:
    client, server = ScramClient(secret, "cnonce"), ScramServer(salt_of(user, target), "snonce")
    proof = server.proof(client.final(server.first(MECHANISM, client.first())))
    assert isinstance(proof, Proof)
    return client, proof


def test_each_of_several_tickets_is_found_by_its_proof(house: House) -> None:
    grant = granted(house)
    tickets = [issue_ticket(house.ctx, house.people["oncall"], "orders-db") for _ in range(3)]
    for ticket in tickets:
        client, proof = shown(ticket.secret)
        who, answer = user_of_proof(house.ctx, "oncall", proof, "orders-db")
        client.verify(answer)
        assert (who.user.name, who.grant.id) == ("oncall", grant.id)


def test_a_ticket_for_another_level_is_refused_with_an_event(house: House) -> None:
    grant = granted(house)
    ticket = issue_ticket(house.ctx, house.people["oncall"], "orders-db")
    who, _ = user_of_proof(house.ctx, "oncall", shown(ticket.secret)[1], "orders-db")
    no = Doorkeeper.of(house.ctx).other_level(who, "write", "192.0.2.1:5")
    assert no.refusal.message == "This ticket is for level read, not for write."
    assert no.refusal.next_steps == ("gw connect orders-db --level write prints a ticket for that level.",)
    (told,) = house.events("session:denied")
    assert (told.principal, told.target, told.grant) == ("oncall", "orders-db", grant.id)
    assert (told.data["code"], told.data["client"]) == ("other-level", "192.0.2.1:5")


def test_what_is_stored_is_not_the_ticket_and_proves_nothing(house: House) -> None:
    granted(house)
    ticket = issue_ticket(house.ctx, house.people["oncall"], "orders-db")
    with house.ctx.store.read() as uow:
        (held,) = uow.credentials.of_subject(house.people["oncall"].id, "ticket")
    assert held.data is not None
    assert ticket.secret not in str(held)
    stored, server = held.data[VERIFIER].split(":")
    for stolen in (held.data[VERIFIER], stored, server):
        with pytest.raises(Denied):
            user_of_proof(house.ctx, "oncall", shown(stolen)[1], "orders-db")


def test_a_proof_of_another_name_or_target_is_none(house: House) -> None:
    granted(house)
    ticket = issue_ticket(house.ctx, house.people["oncall"], "orders-db")
    for name, target in (("lead", "orders-db"), ("nobody", "orders-db"), ("oncall", "web-1"), ("oncall", "nowhere")):
        with pytest.raises(Denied) as no:
            user_of_proof(house.ctx, name, shown(ticket.secret, name, target)[1], target)
        assert no.value.refusal.code == "ticket-invalid"
        with pytest.raises(Denied):  # the right salt for the ticket, at the wrong name
            user_of_proof(house.ctx, name, shown(ticket.secret)[1], target)


def test_a_ticket_for_one_connection_is_used_up_by_success_alone(house: House) -> None:
    granted(house)
    ticket = issue_ticket(house.ctx, house.people["oncall"], "orders-db", single_use=True)
    for _ in range(3):
        with pytest.raises(Denied):
            user_of_proof(house.ctx, "oncall", shown(ticket.secret + "x")[1], "orders-db")

    def one(_: int) -> bool:
        try:
            user_of_proof(house.ctx, "oncall", shown(ticket.secret)[1], "orders-db")
        except Denied:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(8))) == 1


def test_an_expired_ticket_proves_nothing(house: House) -> None:
    granted(house)
    ticket = issue_ticket(house.ctx, house.people["oncall"], "orders-db")
    house.clock.advance(HOUR + timedelta(seconds=1))
    with pytest.raises(Denied):
        user_of_proof(house.ctx, "oncall", shown(ticket.secret)[1], "orders-db")


def test_a_server_s_ticket_keeps_no_verifier(house: House) -> None:
    granted(house, "web-1", "shell")
    issue_ticket(house.ctx, house.people["oncall"], "web-1")
    with house.ctx.store.read() as uow:
        (held,) = uow.credentials.of_subject(house.people["oncall"].id, "ticket")
    assert VERIFIER not in (held.data or {})


def test_somebody_in_between_is_told_of_and_uses_nothing_up(house: House) -> None:
    granted(house)
    ticket = issue_ticket(house.ctx, house.people["oncall"], "orders-db", single_use=True)
    with pytest.raises(Denied) as no:
        user_of_proof(house.ctx, "oncall", Misbound(), "orders-db", "192.0.2.7:5000")
    assert no.value.refusal.code == "door-impersonated"
    denied = house.events("session:denied")[-1]
    assert (denied.principal, denied.target) == ("oncall", "orders-db")
    assert denied.data["code"] == "door-impersonated"
    assert denied.data["client"] == "192.0.2.7:5000"
    user_of_proof(house.ctx, "oncall", shown(ticket.secret)[1], "orders-db")


def test_the_newest_tickets_are_the_ones_that_count(house: House) -> None:
    granted(house)
    tickets = []
    for _ in range(MOST_TICKETS + 1):
        house.clock.advance(timedelta(microseconds=1))
        tickets.append(issue_ticket(house.ctx, house.people["oncall"], "orders-db").secret)
    for secret in (tickets[1], tickets[-1]):
        assert user_of_proof(house.ctx, "oncall", shown(secret)[1], "orders-db")[0].user.name == "oncall"
    with pytest.raises(Denied):
        user_of_proof(house.ctx, "oncall", shown(tickets[0])[1], "orders-db")


def test_what_is_asked_of_the_store_is_the_same_for_any_name(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who exists shows neither in the answer nor in the work done for it."""
    asked: list[str] = []
    run = Transaction._run

    def noted(self: Transaction, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        asked.append(str(statement))
        return run(self, statement, parameters)

    monkeypatch.setattr(Transaction, "_run", noted)
    seen = []
    for name in ("anybody", "nobody", "oncall"):  # the first adds the row that counts refusals
        asked.clear()
        with pytest.raises(Denied) as no:
            user_of_proof(house.ctx, name, shown("gwt_wrong", name)[1], "orders-db")
        seen.append((list(asked), no.value.refusal))
    assert seen[1] == seen[2]
    assert seen[1][0]
