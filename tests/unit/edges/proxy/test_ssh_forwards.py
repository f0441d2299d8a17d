from collections.abc import Callable
from typing import cast

from gateway.edges.proxy.ssh_forwards import Forwards, Host


class CountingHost:
    """Of a connection only what a refusal needs."""

    def __init__(self) -> None:
        self.threads = 0
        self.told: list[tuple[str, str, dict[str, object]]] = []

    def start(self, work: Callable[[], None]) -> None:
        self.threads += 1
        work()

    def tell(self, type: str, outcome: str, data: dict[str, object]) -> None:
        self.told.append((type, outcome, data))


def test_many_refusals_in_a_second_cost_one_thread_and_one_event() -> None:
    host = CountingHost()
    forwards = Forwards(cast("Host", host))
    for _ in range(100):
        forwards.refused("tun@openssh.com")
    assert host.threads == 1
    assert host.told == [("forward:refused", "denied", {"what": "tun@openssh.com", "untold": 0})]
    forwards._quiet_until = 0.0
    forwards.refused("tun@openssh.com")
    assert host.told[1:] == [("forward:refused", "denied", {"what": "tun@openssh.com", "untold": 99})]
