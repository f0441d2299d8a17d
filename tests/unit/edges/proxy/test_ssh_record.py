"""The digest of a stream is of all that passed, kept or not, in whatever pieces, under the name of its algorithm."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from gateway.edges.proxy.ssh_record import ChannelRecord, FileTotals, SessionRecord, StreamRecord

# The official vectors (BLAKE3-team/BLAKE3, test_vectors.json): that many octets that count 0, 1 … 250, 0 …; of the
# digest the first 32 octets, which is what `b3sum` prints.
VECTORS = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    1023: "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    102400: "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
}
KEEP = 2_000


class Kept:
    """What a recorder was given."""

    id = "s-1"

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes]] = []

    def append(self, kind: str, _at: datetime, payload: bytes) -> int:
        self.records.append((kind, payload))
        return len(self.records) - 1

    def wait_durable(self, sequence: int, within: timedelta) -> None:
        """Nothing waits here."""

    def digest(self) -> tuple[int, str]:
        return 0, ""

    def seal(self) -> tuple[int, str]:
        return 0, ""


def recorded(pieces: list[bytes]) -> tuple[bytes, dict[str, object]]:
    """What is kept of a stream that came in these pieces, and what is said at its end."""
    kept = Kept()
    stream = StreamRecord(
        SessionRecord(kept, lambda: datetime.now(UTC), require=False), "out", 0, keep=KEEP, digest=True
    )
    for piece in pieces:
        stream.add(memoryview(piece))
    stream.seal()
    stream.seal()  # once only
    *data, (kind, said) = kept.records
    assert kind == "stream"
    assert all(payload[:4] == bytes(4) for _, payload in data)
    return b"".join(payload[4:] for _, payload in data), json.loads(said)


@pytest.mark.parametrize("count", VECTORS)
def test_the_digest_is_what_b3sum_prints(count: int) -> None:
    whole = bytes(value % 251 for value in range(count))
    kept, said = recorded([whole[:700], whole[700:]])
    assert kept == whole[:KEEP]
    assert said == {
        "channel": 0, "stream": "out", "octets": count, "kept": min(count, KEEP), "blake3": VECTORS[count],
    }  # fmt: skip


@given(st.lists(st.binary(max_size=3_000), max_size=6))
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    kept, said = recorded(pieces)
    assert kept == whole[:KEEP]
    assert said["blake3"] == blake3(whole).hexdigest()


def test_a_command_is_kept_up_to_the_limit_of_its_level() -> None:
    kept = Kept()
    channel = ChannelRecord(SessionRecord(kept, lambda: datetime.now(UTC), require=False), 0, 5)
    channel.begin("exec", b"cat")
    for stream in ("in", "out", "err"):
        channel.stream(stream, b"123")
        channel.stream(stream, b"456")
    channel.end()
    for stream in ("in", "out", "err"):
        assert b"".join(payload[4:] for kind, payload in kept.records if kind == stream) == b"12345"
    ends = [json.loads(payload) for kind, payload in kept.records if kind == "stream"]
    assert [(end["octets"], end["kept"], end["blake3"]) for end in ends] == [(6, 5, blake3(b"123456").hexdigest())] * 3


@pytest.mark.parametrize(
    ("op", "direction", "is_change"),
    [
        ("mkdir", "upload", True), ("rename", "", True), ("mkdir", "download", False), ("list", "", False),
        ("rsync", "download", False),
    ],
)  # fmt: skip
def test_only_what_is_done_to_the_target_is_a_change(op: str, direction: str, is_change: bool) -> None:
    totals = FileTotals()
    totals.add(op, direction, 0, "not-parsed" if op == "rsync" else "ok")
    assert totals.fields()["changes"] == is_change
