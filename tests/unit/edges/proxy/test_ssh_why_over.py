"""What ended a connection: the peer's fault is told as such, and ours is not put on the peer."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from paramiko import Message

from gateway.edges.proxy.ssh_fields import ProtocolViolationError
from gateway.edges.proxy.ssh_transport import HardTransport


def _ended_by(why: BaseException) -> Any:
    return SimpleNamespace(_internals=SimpleNamespace(saved_exception=why))


@pytest.mark.parametrize(
    ("stumble", "is_theirs"),
    [(lambda: Message(b"\0\0\0\1\xff").get_list(), True), (b"\xff".decode, False), (lambda: int("x"), False)],
)
def test_a_value_error_is_the_peers_only_where_paramiko_stumbled(stumble: Callable[[], object], is_theirs: bool):
    with pytest.raises(ValueError) as why:
        stumble()
    over = HardTransport.why_over(_ended_by(why.value))
    assert isinstance(over, ProtocolViolationError) is is_theirs
    assert is_theirs or over is why.value
