import pytest
from hypothesis import given
from hypothesis import strategies as st
from paramiko import SSHException

from gateway.edges.proxy.ssh_chacha import TAG, ChaChaPoly

KEY = bytes(range(64))


@given(st.integers(0, 2**32 - 1), st.binary(min_size=8, max_size=300))
def test_what_is_sealed_opens_again(sequence: int, body: bytes) -> None:
    keys = ChaChaPoly(KEY)
    packet = keys.seal(sequence, len(body).to_bytes(4, "big"), body)
    assert keys.length(sequence, packet[:4]) == len(body)
    assert keys.open(sequence, packet) == body
    assert len(packet) == 4 + len(body) + TAG


@given(st.binary(min_size=8, max_size=64), st.data())
def test_any_flipped_bit_and_any_other_place_are_refused(body: bytes, data: st.DataObject) -> None:
    keys = ChaChaPoly(KEY)
    packet = bytearray(keys.seal(7, len(body).to_bytes(4, "big"), body))
    with pytest.raises(SSHException):
        keys.open(8, bytes(packet))
    bit = data.draw(st.integers(0, len(packet) * 8 - 1))
    packet[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SSHException):
        keys.open(7, bytes(packet))


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="64"):
        ChaChaPoly(bytes(32))
