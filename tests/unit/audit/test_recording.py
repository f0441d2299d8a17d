import gzip
from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.recording import (
    BATCH,
    LINK,
    MAX_PAYLOAD,
    BrokenRecordingError,
    Chain,
    Frame,
    MalformedRecordingError,
    TruncatedRecordingError,
    batch_of,
    decode,
    encode,
    joined,
    read_sealed,
    sealed_header,
    sealed_trailer,
    unix_ns,
    unpacked,
    verify_chain,
)
from gateway.audit.recording_json import MAX_LINE, Announced, frame_from_json, from_json_lines, lines_of, to_json_lines
from tests.fakes import START

SESSION = "ses_1"
Records = list[tuple[str, bytes, int]]
kinds = st.sampled_from(["out", "statement", "result", "x-1"])
drafts = st.lists(st.tuples(kinds, st.binary(max_size=60), st.integers(0, 2**63)), min_size=1, max_size=12)


def chained(records: Records, session: str = SESSION) -> tuple[list[Frame], Chain]:
    chain = Chain(session)
    frames = []
    for seq, (kind, payload, at) in enumerate(records):
        link = chain.extend(encode(seq, at, kind, payload))
        frames.append(Frame(seq, at, kind, payload, False, link))
    return frames, chain


def verify(frames: list[Frame], chain: Chain, evidence: tuple[tuple[int, str], ...] = ()) -> None:
    verify_chain(SESSION, frames, chain.count, chain.digest.hex(), evidence)


def sealed(frames: list[Frame], chain: Chain) -> bytes:
    body = b"".join(f.encoded() + f.link for f in frames)
    return sealed_header(SESSION) + body + sealed_trailer(chain.count, chain.digest)


@given(drafts)
def test_what_was_written_is_read_back(records: Records):
    frames, chain = chained(records)
    data = b"".join(f.encoded() + f.link for f in frames)
    offset, read = 0, []
    while offset < len(data):
        frame, offset = decode(data, offset)
        read.append(frame)
    assert read == frames
    verify(read, chain)
    session, again = read_sealed(BytesIO(sealed(frames, chain)))
    assert (session, list(again)) == (SESSION, frames)
    announced = Announced(SESSION, "ssh", chain.count, chain.digest.hex(), ((1, "aa"),), True)
    told, lines = from_json_lines(to_json_lines(announced, frames))
    assert (told, list(lines)) == (announced, frames)


@given(drafts)
def test_a_batch_is_its_records(records: Records):
    batch = Frame(3, 7, BATCH, batch_of((kind, at, payload) for kind, payload, at in records))
    around = [Frame(2, 5, "out", b"before"), batch, Frame(4, 9, "out", b"behind")]
    told = [(f.seq, f.kind, f.payload, f.at_ns) for f in joined(around)]
    assert told == [(2, "out", b"before", 5), *((3, *each) for each in records), (4, "out", b"behind", 9)]


@given(drafts, st.integers(1, 20))
def test_a_batch_that_is_cut_is_malformed(records: Records, cut: int):
    whole = batch_of((kind, at, payload) for kind, payload, at in records)
    payload = whole[:-cut]
    ends = {len(batch_of((k, at, p) for k, p, at in records[:n])) for n in range(len(records))}
    if len(payload) not in ends:
        with pytest.raises(MalformedRecordingError):
            list(unpacked([Frame(0, 0, BATCH, payload)]))


@given(drafts, st.data())
def test_a_changed_record_is_named(records: Records, data: st.DataObject):
    frames, chain = chained(records)
    k = data.draw(st.integers(0, len(frames) - 1))
    bad = frames[k]
    change = data.draw(st.sampled_from(["payload", "at", "kind", "continues", "link"]))
    frames[k] = {
        "payload": bad._replace(payload=bad.payload + b"!"),
        "at": bad._replace(at_ns=bad.at_ns + 1),
        "kind": bad._replace(kind=bad.kind + "x"),
        "continues": bad._replace(continues=True),
        "link": bad._replace(link=bytes(LINK) if bad.link != bytes(LINK) else b"\1" * LINK),
    }[change]
    with pytest.raises(BrokenRecordingError) as caught:
        verify(frames, chain)
    assert caught.value.seq == k


@given(drafts, st.data())
def test_a_dropped_record_is_named(records: Records, data: st.DataObject):
    frames, chain = chained(records)
    k = data.draw(st.integers(0, len(frames) - 1))
    with pytest.raises(BrokenRecordingError) as caught:
        verify(frames[:k] + frames[k + 1 :], chain)
    assert caught.value.seq == k


@given(drafts, st.data())
def test_a_cut_tail_is_named(records: Records, data: st.DataObject):
    frames, chain = chained(records)
    k = data.draw(st.integers(0, len(frames) - 1))
    with pytest.raises(BrokenRecordingError) as caught:
        verify(frames[:k], chain)
    assert caught.value.seq == k


@given(drafts.filter(lambda r: len(r) > 1), st.data())
def test_swapped_records_are_named(records: Records, data: st.DataObject):
    frames, chain = chained(records)
    k = data.draw(st.integers(0, len(frames) - 2))
    frames[k], frames[k + 1] = frames[k + 1], frames[k]
    with pytest.raises(BrokenRecordingError) as caught:
        verify(frames, chain)
    assert caught.value.seq == k


@given(drafts)
def test_an_addition_is_named(records: Records):
    frames, chain = chained(records)
    longer, _ = chained([*records, ("out", b"one more", 1)])
    with pytest.raises(BrokenRecordingError) as caught:
        verify(longer, chain)
    assert caught.value.seq == len(frames)


@given(drafts.filter(lambda r: len(r) > 2), st.data())
def test_a_recording_rewritten_with_new_links_is_narrowed_down_by_the_evidence(records: Records, data: st.DataObject):
    _, chain = chained(records)
    k = data.draw(st.integers(0, len(records) - 1))
    evidence = []
    running = Chain(SESSION)
    for seq, (kind, payload, at) in enumerate(records):
        running.extend(encode(seq, at, kind, payload))
        if seq % 2:
            evidence.append((running.count, running.digest.hex()))
    forged = list(records)
    forged[k] = (records[k][0], records[k][1] + b"forged", records[k][2])
    frames, _ = chained(forged)
    with pytest.raises(BrokenRecordingError) as caught:
        verify(frames, chain, tuple(evidence))
    assert caught.value.seq == max([count for count, _ in evidence if count <= k], default=0)


@given(drafts.filter(lambda r: len(r) > 1), st.data())
def test_an_end_that_falls_short_of_what_the_log_saw_is_broken(records: Records, data: st.DataObject):
    """Somebody cut the spool of a gateway that died, and what was left was sealed as if it were all."""
    frames, chain = chained(records)
    left = data.draw(st.integers(1, len(records) - 1))
    rest, end = chained(records[:left])
    with pytest.raises(BrokenRecordingError, match=f"the log saw {chain.count} records") as caught:
        verify(rest, end, ((chain.count, chain.digest.hex()),))
    assert caught.value.seq == left
    verify(frames, chain, ((end.count, end.digest.hex()),))


@given(drafts)
def test_two_digests_of_as_many_records_prove_nothing(records: Records):
    """Whoever can add events to the log adds one that fits his forgery, in any order of the two."""
    _, true = chained(records)
    frames, forged = chained([(kind, payload + b"!", at) for kind, payload, at in records])
    told = (true.count, true.digest.hex()), (forged.count, forged.digest.hex())
    for evidence in (told, told[::-1], told[:1]):
        with pytest.raises(BrokenRecordingError):
            verify(frames, forged, evidence)


@given(drafts)
def test_another_sessions_frames_do_not_stand_in(records: Records):
    frames, chain = chained(records, "ses_2")
    with pytest.raises(BrokenRecordingError) as caught:
        verify(frames, chain)
    assert caught.value.seq == 0


@given(drafts, st.data())
def test_any_changed_or_missing_byte_of_a_sealed_file_is_an_error(records: Records, data: st.DataObject):
    good = sealed(*chained(records))
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = bytearray(good)
    flipped[at] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(flipped), good[:at], good + b"\0"):
        with pytest.raises((MalformedRecordingError, BrokenRecordingError)):
            list(read_sealed(BytesIO(bad))[1])


@given(st.binary(max_size=200))
def test_garbage_is_malformed_and_nothing_worse(garbage: bytes):
    with suppress(MalformedRecordingError):
        decode(garbage)
    with pytest.raises(MalformedRecordingError):
        list(read_sealed(BytesIO(garbage))[1])


def test_a_length_out_of_bounds_is_refused_before_anything_is_read():
    class Bounded(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert 0 <= size <= 4096
            return super().read(size)

    huge = sealed_header(SESSION) + b"\xf1\x00\x03\xff\xff\xff\xff" + bytes(16) + b"out"
    with pytest.raises(MalformedRecordingError, match="bounds"):
        list(read_sealed(Bounded(huge))[1])


def test_what_is_out_of_bounds_is_not_written():
    with pytest.raises(ValueError):
        encode(0, 0, "out", bytes(MAX_PAYLOAD + 1))
    for kind in ("", "a" * 33, "a b", "é", "\n"):
        with pytest.raises(ValueError):
            encode(0, 0, kind, b"")
    with pytest.raises(ValueError):
        sealed_header("")


def test_a_frame_cut_anywhere_is_truncated():
    whole = encode(0, 1, "out", b"abc") + bytes(LINK)
    for cut in range(len(whole)):
        with pytest.raises(TruncatedRecordingError):
            decode(whole[:cut])


def test_pieces_are_joined():
    frames = [Frame(0, 1, "out", b"a", True), Frame(1, 2, "out", b"b"), Frame(2, 3, "in", b"c")]
    assert [(f.seq, f.payload) for f in joined(frames)] == [(0, b"ab"), (2, b"c")]
    assert [f.payload for f in joined(frames, limit=1)] == [b"a", b"b", b"c"]
    assert [f.payload for f in joined(frames[:1])] == [b"a"]


def test_time_keeps_its_microseconds():
    at = START.replace(microsecond=123457)
    assert Frame(0, unix_ns(at), "out", b"").at() == at


def test_an_empty_recording_has_no_digest_but_its_own():
    verify_chain(SESSION, [], 0, "")
    verify_chain(SESSION, [], 0, Chain(SESSION).digest.hex())
    with pytest.raises(BrokenRecordingError):
        verify_chain(SESSION, [], 0, "00")


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"seq": 0},
        {"seq": 0, "at_ns": 0, "kind": "out", "continues": False, "payload": "%%", "link": ""},
        {"seq": -1, "at_ns": 0, "kind": "out", "continues": False, "payload": "", "link": ""},
        {"seq": 0, "at_ns": 0, "kind": "o t", "continues": False, "payload": "", "link": ""},
    ],
)
def test_json_that_is_no_record_is_refused(line: dict[str, object]):
    with pytest.raises(MalformedRecordingError):
        frame_from_json(line)


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"{", b'{"session": 1}'])
def test_lines_that_are_no_recording_are_refused(text: bytes):
    with pytest.raises(MalformedRecordingError):
        from_json_lines([text])


def test_a_line_without_an_end_is_not_held_in_memory():
    endless = BytesIO(b"x" * (MAX_LINE + 5) + b"\n{}\n")
    assert [len(line) for line in lines_of(endless)] == [MAX_LINE, 6, 3]


def test_a_line_holds_the_largest_frame():
    largest = Frame(2**63, 2**63, "x" * 32, bytes(MAX_PAYLOAD), True, bytes(LINK))
    lines = b"".join(to_json_lines(Announced(SESSION, "ssh", 1, "", (), True), [largest]))
    assert list(from_json_lines(lines_of(BytesIO(lines)))[1]) == [largest]


def test_a_sealed_file_is_a_plain_gzip():
    good = sealed(*chained([("out", b"x", 1)]))
    with gzip.open(BytesIO(gzip.compress(good))) as stream:
        assert [f.payload for f in read_sealed(stream)[1]] == [b"x"]
