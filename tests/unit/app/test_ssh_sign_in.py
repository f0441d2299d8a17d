"""Tickets at the SSH door, and the list of certificates that were taken back, with the real use cases."""

import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.app.end_session import end_session
from gateway.app.issue_ticket import issue_ticket
from gateway.app.open_session import open_session, user_of_ticket
from gateway.app.publish_krl import krl, target_ca
from gateway.app.request_access import Ask, request_access
from gateway.app.ssh_sign_in import BAD_TICKET, MOST_FAILURES, grant_asked_for, ticket_holder
from gateway.core.errors import Denied, GatewayError, NotFound, Refusal
from gateway.core.grant import Grant
from gateway.core.session import EndReason
from gateway.core.ssh_rules import certificate_serial
from gateway.core.target import Kind
from tests.unit.app.house import INCIDENT, House

HOUR = timedelta(hours=1)
FROM = "192.0.2.7:50000"


def granted(house: House, level: str = "shell") -> Grant:
    outcome = request_access(house.ctx, house.people["oncall"], Ask("web-1", level, HOUR, "disk is filling", INCIDENT))
    assert outcome.grant is not None
    return outcome.grant


@pytest.mark.parametrize("login", ["web-1", "oncall%web-1", "shell%web-1"])
def test_a_ticket_is_for_its_person_level_and_target(house: House, login: str) -> None:
    grant = granted(house)
    ticket = issue_ticket(house.ctx, house.people["oncall"], "web-1")
    assert ticket.kind is Kind.SSH
    found = ticket_holder(house.ctx, login, ticket.secret, FROM)
    assert not isinstance(found, Refusal)
    assert (found[0].name, found[1].id) == ("oncall", grant.id)


@pytest.mark.parametrize(
    "login",
    ["", "%", "developer%web-1", "root%web-1", "oncall%orders-db", "oncall%nowhere", "oncall%shell%web-1", "x" * 300],
)
def test_another_name_level_or_target_is_refused_with_one_answer(house: House, login: str) -> None:
    granted(house)
    ticket = issue_ticket(house.ctx, house.people["oncall"], "web-1")
    assert ticket_holder(house.ctx, login, ticket.secret, FROM) is BAD_TICKET
    assert ticket_holder(house.ctx, "oncall%web-1", ticket.secret + "x", FROM) is BAD_TICKET
    assert not any(ticket.secret in str(event) for event in house.events())


def test_a_ticket_that_is_used_expired_or_of_a_disabled_person(house: House) -> None:
    granted(house)
    oncall = house.people["oncall"]
    once = issue_ticket(house.ctx, oncall, "web-1", single_use=True)
    assert ticket_holder(house.ctx, "web-1", once.secret, FROM) is not BAD_TICKET
    assert ticket_holder(house.ctx, "web-1", once.secret, FROM) is BAD_TICKET
    again = issue_ticket(house.ctx, oncall, "web-1")
    with house.ctx.store.begin() as uow:
        uow.users.upsert(replace(oncall, disabled_at=house.clock.now()))
    assert ticket_holder(house.ctx, "web-1", again.secret, FROM) is BAD_TICKET
    with house.ctx.store.begin() as uow:
        uow.users.upsert(oncall)
    house.later(HOUR)
    assert ticket_holder(house.ctx, "web-1", again.secret, FROM) is BAD_TICKET


def test_a_ticket_is_worth_nothing_at_the_other_door(house: House) -> None:
    granted(house)
    request_access(house.ctx, house.people["oncall"], Ask("orders-db", "read", HOUR, "p99", INCIDENT))
    server = issue_ticket(house.ctx, house.people["oncall"], "web-1")
    database = issue_ticket(house.ctx, house.people["oncall"], "orders-db")
    with pytest.raises(Denied, match="not valid"):
        user_of_ticket(house.ctx, "oncall", server.secret, "web-1")
    assert ticket_holder(house.ctx, "oncall%orders-db", database.secret, FROM) is BAD_TICKET


def test_guessing_is_slow_and_leaves_a_bounded_trace(house: House) -> None:
    granted(house)
    ticket = issue_ticket(house.ctx, house.people["oncall"], "web-1")
    codes = {
        found.code
        for number in range(MOST_FAILURES + 5)
        if isinstance(found := ticket_holder(house.ctx, "web-1", f"gwt_{number}", FROM), Refusal)
    }
    assert codes == {"ticket-invalid", "too-many-tries"}
    assert len(house.events("session:denied")) == MOST_FAILURES
    late = ticket_holder(house.ctx, "web-1", ticket.secret, FROM)
    assert isinstance(late, Refusal)
    elsewhere = ticket_holder(house.ctx, "web-1", ticket.secret, "192.0.2.8:1")
    assert not isinstance(elsewhere, Refusal)
    for _ in range(MOST_FAILURES):
        ticket_holder(house.ctx, "web-1", "gwt_x", "[2001:db8::1]:5")
    same_network = ticket_holder(house.ctx, "web-1", ticket.secret, "[2001:db8::2]:5")
    assert isinstance(same_network, Refusal)


def test_the_left_part_with_a_certificate(house: House) -> None:
    grant, oncall = granted(house), house.people["oncall"]
    for left in ("", "shell", "oncall"):
        assert grant_asked_for(house.ctx, oncall, "web-1", left).id == grant.id
    with pytest.raises(NotFound, match="no level 'developer'"):
        grant_asked_for(house.ctx, oncall, "web-1", "developer")
    with pytest.raises(GatewayError):
        grant_asked_for(house.ctx, house.people["developer"], "web-1", "oncall")


def test_certificates_of_revoked_sessions_are_listed_for_targets(house: House, tmp_path: Path) -> None:
    grant, oncall = granted(house), house.people["oncall"]
    public = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    revoked = {}
    for reason in (EndReason.KILLED, EndReason.GRANT_REVOKED, EndReason.CLIENT_CLOSED):
        opened = open_session(house.ctx, oncall, grant, FROM)
        line = house.ctx.ssh.target_certificate(  # type: ignore[attr-defined]  # the real authority
            public, "deploy", opened.session.id, grant.id, house.clock.now()
        )
        (tmp_path / "cert.pub").write_text(line + "\n")
        end_session(house.ctx, opened.session, opened.recording, reason)
        started = house.events("session:started")[-1]
        assert started.data["serial"] == str(certificate_serial(opened.session.id))
        (tmp_path / "krl").write_bytes(krl(house.ctx))
        asked = ["ssh-keygen", "-Q", "-f", str(tmp_path / "krl"), str(tmp_path / "cert.pub")]
        revoked[reason] = subprocess.run(asked, capture_output=True, check=False).returncode != 0
    assert revoked == {EndReason.KILLED: True, EndReason.GRANT_REVOKED: True, EndReason.CLIENT_CLOSED: False}
    assert target_ca(house.ctx).startswith("ssh-ed25519 ")
    before = len(krl(house.ctx))
    house.later(2 * HOUR)
    assert len(krl(house.ctx)) < before  # certificates that ended long ago need no list
