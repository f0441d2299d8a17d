import pytest

from gateway.edges.proxy import ssh_strangers
from gateway.edges.proxy.ssh_strangers import Strangers


def test_an_address_is_admitted_in_bursts_and_then_at_its_rate() -> None:
    strangers = Strangers(burst=3, per_second=1)
    assert [strangers.admit("a", now=0) for _ in range(4)] == [True, True, True, False]
    assert strangers.admit("b", now=0)
    assert strangers.admit("a", now=1)
    assert not strangers.admit("a", now=1.5)


def test_who_logs_in_gives_the_place_back() -> None:
    strangers = Strangers(burst=1, per_second=0.01)
    for now in range(10):
        assert strangers.admit("a", now=now)
        strangers.proven("a", now=now)


def test_the_memory_is_bounded_and_rested_addresses_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_strangers, "MOST_ADDRESSES", 2)
    strangers = Strangers(burst=2, per_second=1)
    assert [strangers.admit(address, now=0) for address in "abc"] == [True, True, False]
    assert strangers.admit("c", now=5)
