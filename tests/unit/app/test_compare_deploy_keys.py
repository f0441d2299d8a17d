"""Two gateways on one database and their deploy keys."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.app.compare_deploy_keys import compare_deploy_keys
from gateway.app.context import Context
from tests.unit.app.house import House

OURS, OTHER, NEW = b"o" * 32, b"x" * 32, b"n" * 32


@dataclass(frozen=True)
class Keys:
    newest_first: Sequence[bytes]

    def root_keys(self) -> Sequence[bytes]:
        return self.newest_first


def gateway(house: House, name: str, *keys: bytes) -> Context:
    return replace(house.ctx, gateway=name, deploy_keys=Keys(keys))


def told(house: House) -> list[dict[str, object]]:
    return [dict(event.data) for event in house.events() if event.type == "deploy-token:key-changed"]


def test_a_copied_key_and_a_rotated_one_are_nothing_to_tell(house: House):
    assert compare_deploy_keys(gateway(house, "a", OURS))
    assert compare_deploy_keys(gateway(house, "b", OURS))
    assert compare_deploy_keys(gateway(house, "a", NEW, OURS))
    assert compare_deploy_keys(gateway(house, "b", OURS))  # it gets the new line later
    assert compare_deploy_keys(gateway(house, "b", NEW, OURS))
    assert compare_deploy_keys(gateway(house, "a", NEW))
    assert told(house) == []


def test_a_key_of_its_own_is_an_event_that_names_no_key(house: House):
    assert compare_deploy_keys(gateway(house, "a", OURS))
    assert not compare_deploy_keys(gateway(house, "b", OTHER))
    (event,) = told(house)
    assert event["gateway"] == "b"
    assert event["was"] != event["now"]
    assert OTHER.hex() not in str(event)
    assert not compare_deploy_keys(gateway(house, "a", OURS))  # each of them says so, at every start
    assert len(told(house)) == 2
