from dataclasses import replace
from datetime import timedelta

from gateway.adapters.store import SqlStore
from gateway.app.passkey_ports import Passkey
from tests.contract.store_values import LEAD, ONCALL, T0

KEY = Passkey("AAEC", ONCALL.id, "blue key", "pQEC", 7, ("hybrid", "usb"), T0, T0 + timedelta(hours=1))


def test_a_passkey_comes_back_in_every_field(store: SqlStore) -> None:
    other, later = replace(KEY, id="B", user=LEAD.id), replace(KEY, id="C", created_at=T0 + timedelta(days=1))
    with store.begin() as uow:
        uow.users.upsert(ONCALL)
        uow.users.upsert(LEAD)
        for key in (later, other, replace(KEY, used_at=None, transports=(), id="A"), KEY):
            uow.passkeys.add(key)
    with store.read() as uow:
        assert uow.passkeys.get("AAEC") == KEY
        assert uow.passkeys.get("aaec") is None
        assert [key.id for key in uow.passkeys.of(ONCALL.id)] == ["A", "AAEC", "C"]
        assert uow.passkeys.of("usr_nobody") == []


def test_a_count_is_taken_from_one_value_to_the_next_once(store: SqlStore) -> None:
    at = T0 + timedelta(hours=2)
    with store.begin() as uow:
        uow.users.upsert(ONCALL)
        uow.passkeys.add(KEY)
        assert uow.passkeys.used(KEY, 8, at)
        assert not uow.passkeys.used(KEY, 9, at)  # somebody else was faster
        found = uow.passkeys.get(KEY.id)
    assert found == replace(KEY, sign_count=8, used_at=at)


def test_a_removed_passkey_is_gone(store: SqlStore) -> None:
    with store.begin() as uow:
        uow.users.upsert(ONCALL)
        uow.passkeys.add(KEY)
        assert uow.passkeys.remove(KEY.id)
        assert not uow.passkeys.remove(KEY.id)
        assert uow.passkeys.get(KEY.id) is None
        assert not uow.passkeys.used(KEY, 8, T0)


def test_when_the_provider_last_told_of_a_person(store: SqlStore) -> None:
    with store.begin() as uow:
        uow.users.upsert(ONCALL)
        assert uow.users.confirmed_at(ONCALL.id) is None
        uow.users.confirm(ONCALL.id, T0)
        uow.users.upsert(replace(ONCALL, groups=frozenset({"new"})))  # their own change is no word of the provider
        assert uow.users.confirmed_at(ONCALL.id) == T0
        assert uow.users.confirmed_at("usr_nobody") is None
