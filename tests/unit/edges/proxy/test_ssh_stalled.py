import struct

from hypothesis import given
from hypothesis import strategies as st

from gateway.edges.proxy.ssh_transport import unanswered


def tcp_info(*, probes: int = 0, unacknowledged: int = 0, silent_ms: int = 0) -> bytes:
    return struct.pack("=BBBB4x4I I 7I I", 1, 0, 0, probes, 0, 0, 0, 0, unacknowledged, *[0] * 7, silent_ms) + bytes(44)


@given(st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_only_with_data_on_its_way_is_silence_an_answer_that_is_missing(
    probes: int, unacknowledged: int, silent_ms: int
) -> None:
    info = tcp_info(probes=probes, unacknowledged=unacknowledged, silent_ms=silent_ms)
    assert unanswered(info) == (silent_ms if probes or unacknowledged else 0)
