import hashlib

from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.file_digest import FileDigest


def fed(*pieces: tuple[int, bytes]) -> FileDigest:
    digest = FileDigest()
    for offset, piece in pieces:
        digest.begin(offset)
        digest.update(piece)
    return digest


def run(offset: int, piece: bytes) -> bytes:
    return offset.to_bytes(8, "big") + len(piece).to_bytes(8, "big") + hashlib.sha256(piece).digest()


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_in_order_it_is_the_digest_of_the_file(pieces: list[bytes]) -> None:
    digest, at = FileDigest(), 0
    for piece in pieces:
        digest.begin(at)
        digest.update(piece)
        at += len(piece)
    assert digest.fields() == {"sha256": hashlib.sha256(b"".join(pieces)).hexdigest()}
    assert digest.octets == at


def test_out_of_order_it_is_the_digest_of_the_runs() -> None:
    digest = fed((0, b"ab"), (2, b"c"), (10, b"xy"), (0, b"z"))
    runs = run(0, b"abc") + run(10, b"xy") + run(0, b"z")
    assert digest.fields() == {"sha256": None, "runs": 3, "sha256_runs": hashlib.sha256(runs).hexdigest()}
    assert digest.octets == 6
    assert fed((5, b"x")).fields()["runs"] == 1


def test_what_was_not_seen_has_no_digest() -> None:
    digest = fed((0, b"ab"))
    digest.lose()
    assert digest.fields() == {"sha256": None}
