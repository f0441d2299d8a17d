"""Certificates for the database door, with the real use cases: whom they let in, and for how long."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.app.database_certificate import database_certificate, digest_of_certificate, user_of_certificate
from gateway.app.list_sign_ins import revoke_sign_in
from gateway.app.people_ports import Credential
from gateway.app.shut_out import put_out
from gateway.core.errors import Denied, GatewayError
from tests.unit.app.house import House
from tests.unit.app.test_ticket_proof import granted

HOUR = timedelta(hours=1)
KEY = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def signed_in(house: House, name: str = "oncall", login: str = "lgn_1", lasts: timedelta = 12 * HOUR) -> Credential:
    at = house.ctx.clock.now()
    held = Credential(
        (login + name).ljust(64, "0"), "cli", house.people[name].id, at, at + lasts, data={"login": login}
    )
    with house.ctx.store.begin() as uow:
        uow.credentials.add(held)
    return held


def certified(house: House, held: Credential, name: str = "oncall") -> str:
    """The certificate's digest."""
    signed = database_certificate(house.ctx, house.people[name], held, KEY)
    assert signed.user_name == name
    return digest_of_certificate(signed.der)


def refused(house: House, digest: str, user: str = "oncall", target: str = "orders-db", level: str = "") -> str:
    with pytest.raises(GatewayError) as no:
        user_of_certificate(house.ctx, user, digest, target, level, "192.0.2.7:5000")
    assert house.events("session:denied")[-1].data["code"] == no.value.refusal.code
    return no.value.refusal.code


def test_it_lets_its_person_in_again_and_again_and_is_in_the_log(house: House) -> None:
    grant = granted(house)
    digest = certified(house, signed_in(house))
    for level in ("", "read"):
        user, found = user_of_certificate(house.ctx, "oncall", digest, "orders-db", level)
        assert (user.name, found.id) == ("oncall", grant.id)
    told = house.events("certificate:issued")[-1]
    assert (told.principal, told.data["door"], told.data["login"]) == ("oncall", "database", "lgn_1")
    assert str(told.data["key"]).startswith("SHA256:")


def test_it_gives_no_right_by_itself(house: House) -> None:
    digest = certified(house, signed_in(house))
    assert refused(house, digest) == "no-grant"
    granted(house)
    assert refused(house, digest, level="admin") == "no-grant"
    assert refused(house, digest, target="web-1") == "not-a-database"
    assert refused(house, digest, target="nowhere") == "unknown-target"


def test_nobody_is_somebody_else_by_typing_a_name(house: House) -> None:
    granted(house)
    digest = certified(house, signed_in(house, "developer"), "developer")
    assert refused(house, digest) == "certificate-of-another"
    assert refused(house, "0" * 64) == "certificate-ended"


def test_it_ends_after_an_hour_or_with_a_sign_in_that_ends_sooner(house: House) -> None:
    granted(house)
    long, short = certified(house, signed_in(house)), certified(house, signed_in(house, login="lgn_2", lasts=HOUR / 2))
    house.clock.advance(HOUR / 2)
    user_of_certificate(house.ctx, "oncall", long, "orders-db")
    assert refused(house, short) == "certificate-ended"
    house.clock.advance(HOUR / 2)
    assert refused(house, long) == "certificate-ended"


def test_it_ends_with_its_own_sign_in_and_no_other(house: House) -> None:
    granted(house)
    one, other = certified(house, signed_in(house)), certified(house, signed_in(house, login="lgn_2"))
    revoke_sign_in(house.ctx, house.people["oncall"], "lgn_1")
    assert refused(house, one) == "certificate-ended"
    user_of_certificate(house.ctx, "oncall", other, "orders-db")
    with house.ctx.store.begin() as uow:
        put_out(uow, house.people["oncall"], "usr_x", house.ctx.clock.now(), "left")
    assert refused(house, other) == "certificate-ended"


def test_who_is_disabled_is_out(house: House) -> None:
    from dataclasses import replace

    granted(house)
    digest = certified(house, signed_in(house))
    with house.ctx.store.begin() as uow:
        uow.users.upsert(replace(house.people["oncall"], disabled_at=house.ctx.clock.now()))
    assert refused(house, digest) == "certificate-ended"


@pytest.mark.parametrize("key", ["", "ssh-ed25519 AAAA", "ssh-dss AAAAB3NzaC1kc3M=", "x" * 9000, "ecdsa \u00e9"])
def test_keys_that_are_not_accepted(house: House, key: str) -> None:
    with pytest.raises(Denied) as no:
        database_certificate(house.ctx, house.people["oncall"], signed_in(house), key)
    assert no.value.refusal.code == "key-not-accepted"
    assert house.events("certificate:denied")


def test_where_no_authority_is_wired_nothing_is_signed(house: House) -> None:
    from dataclasses import replace

    from gateway.app.certificate_ports import NoClients

    with pytest.raises(Denied, match="takes no certificates") as no:
        database_certificate(replace(house.ctx, clients=NoClients()), house.people["oncall"], signed_in(house), KEY)
    assert no.value.refusal.next_steps
    assert house.events("certificate:denied")
