"""The recording format: framed records in a hash chain, and the check that nothing was changed, cut or added.

Format: docs/formats/recording.md. Nothing here reads a file or a clock, so that an auditor can use this module alone:
`read_sealed` takes any binary stream, `verify_chain` any frames. The chain begins with the session's id, therefore
frames of one session cannot stand in for another's.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple, Protocol

MAX_PAYLOAD = 1024 * 1024  # bytes of one frame; a longer record is split over several
MAX_KIND = 32
MAX_SESSION_ID = 64
LINK = 8  # bytes of the chain digest stored after each frame, so that a check can name the first bad one
DOMAIN = b"gateway-recording/v1\n"
SEALED_MAGIC = b"GWREC\x00\x01\n"
TRAILER_MARK = 0xFE
BATCH = "batch"  # kind of a frame that holds several records

_HEADER = struct.Struct(">BBBIQQ")  # mark, flags, length of kind, length of payload, sequence number, unix ns
_TRAILER = struct.Struct(">BQ32s")  # mark, number of frames, chain digest
_PART = struct.Struct(">BIQ")  # length of kind, length of payload, unix ns
_MARK = 0xF1
_CONTINUES = 0x01
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HEADER_SIZE = _HEADER.size
LARGEST_FRAME = HEADER_SIZE + MAX_KIND + MAX_PAYLOAD + LINK


class MalformedRecordingError(ValueError):
    """Bytes that are no frame, header or trailer of this format."""


class TruncatedRecordingError(MalformedRecordingError):
    """The bytes end in the middle of something."""


class BrokenRecordingError(Exception):
    """The chain does not hold. `seq` is the first record that cannot be trusted."""

    def __init__(self, seq: int, why: str) -> None:
        super().__init__(f"record {seq}: {why}")
        self.seq = seq
        self.why = why


class Frame(NamedTuple):
    """One record, or a piece of one (`continues`: the next frame is its next piece). `at_ns` is unix nanoseconds."""

    seq: int
    at_ns: int
    kind: str
    payload: bytes
    continues: bool = False
    link: bytes = b""

    def at(self) -> datetime:
        """The instant, to the microsecond."""
        return _EPOCH + timedelta(microseconds=self.at_ns // 1000)

    def encoded(self) -> bytes:
        """The canonical bytes that the chain covers."""
        return encode(self.seq, self.at_ns, self.kind, self.payload, continues=self.continues)


def iso(at_ns: int) -> str:
    """Unix nanoseconds as people read them, UTC, to the microsecond."""
    return (_EPOCH + timedelta(microseconds=at_ns // 1000)).isoformat()


def unix_ns(at: datetime) -> int:
    """An aware instant as unix nanoseconds, without the rounding of floats."""
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


# ---------------------------------------------------------------- frames


@lru_cache(maxsize=256)
def _kind_bytes(kind: str) -> bytes:
    encoded = kind.encode()
    if not 0 < len(encoded) <= MAX_KIND or not kind.isascii() or not kind.replace("-", "").isalnum():
        raise ValueError(f"a kind of record is 1 to {MAX_KIND} ASCII letters, digits and dashes, not {kind[:60]!r}")
    return encoded


def encode(seq: int, at_ns: int, kind: str, payload: bytes, *, continues: bool = False) -> bytes:
    """The canonical bytes of a frame, without its link; ValueError when something is out of bounds."""
    name = _kind_bytes(kind)
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a frame holds at most {MAX_PAYLOAD} bytes, got {len(payload)}")
    return _HEADER.pack(_MARK, _CONTINUES if continues else 0, len(name), len(payload), seq, at_ns) + name + payload


def decode(data: bytes | memoryview, offset: int = 0) -> tuple[Frame, int]:
    """The frame (with its link) at `offset`, and the offset after it. Truncated or Malformed otherwise."""
    if len(data) - offset < HEADER_SIZE:
        raise TruncatedRecordingError("a frame's header is cut short")
    kind_length, payload_length, flags, seq, at_ns = _header(data[offset : offset + HEADER_SIZE])
    start = offset + HEADER_SIZE + kind_length
    end = start + payload_length
    if len(data) < end + LINK:
        raise TruncatedRecordingError("a frame is cut short")
    kind = _kind_text(bytes(data[offset + HEADER_SIZE : start]))
    return Frame(
        seq, at_ns, kind, bytes(data[start:end]), flags == _CONTINUES, bytes(data[end : end + LINK])
    ), end + LINK


def is_piece(frame: bytes) -> bool:
    """True for encoded bytes of a frame whose record goes on in the next one."""
    return frame[1] == _CONTINUES


def frame_of(encoded: bytes) -> Frame:
    """The frame in its canonical bytes."""
    return decode(encoded + bytes(LINK))[0]._replace(link=b"")


def _header(header: bytes | memoryview) -> tuple[int, int, int, int, int]:
    """Bounds are judged here, before anything is allocated for the rest."""
    mark, flags, kind_length, payload_length, seq, at_ns = _HEADER.unpack(header)
    if mark != _MARK or flags not in (0, _CONTINUES):
        raise MalformedRecordingError("no frame begins here")
    if not 0 < kind_length <= MAX_KIND or payload_length > MAX_PAYLOAD:
        raise MalformedRecordingError("a frame's lengths are out of bounds")
    return kind_length, payload_length, flags, seq, at_ns


@lru_cache(maxsize=256)
def _kind_text(name: bytes) -> str:
    try:
        kind = name.decode("ascii")
        _kind_bytes(kind)
    except ValueError as error:
        raise MalformedRecordingError("a frame's kind is not readable") from error
    return kind


def joined(frames: Iterable[Frame], limit: int = 16 * MAX_PAYLOAD) -> Iterator[Frame]:
    """Whole records: pieces put together under the first one's number, batches unpacked. Beyond `limit` bytes a record
    stays in parts.

    So does one whose rest was lost in a gap.
    """
    first: Frame | None = None
    pieces: list[bytes] = []
    size = 0
    for frame in unpacked(frames):
        if first is not None and frame.kind != first.kind:
            yield first._replace(payload=b"".join(pieces))
            first, pieces, size = None, [], 0
        first = first or frame
        pieces.append(frame.payload)
        size += len(frame.payload)
        if not frame.continues or size >= limit:
            yield first._replace(payload=b"".join(pieces), continues=frame.continues)
            first, pieces, size = None, [], 0
    if first is not None:
        yield first._replace(payload=b"".join(pieces))


def batch_of(records: Iterable[tuple[str, int, bytes]]) -> bytes:
    """The payload of one frame that holds all of these records: kind, unix ns and payload."""
    parts: list[bytes] = []
    for kind, at_ns, payload in records:
        name = _kind_bytes(kind)
        parts += (_PART.pack(len(name), len(payload), at_ns), name, payload)
    return b"".join(parts)


def unpacked(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Records of a batch each by itself, all with the number of their frame; other frames as they are."""
    for frame in frames:
        if frame.kind == BATCH:
            yield from _parts(frame)
        else:
            yield frame


def _parts(frame: Frame) -> Iterator[Frame]:
    payload, start = frame.payload, 0
    while start < len(payload):
        if len(payload) - start < _PART.size:
            raise MalformedRecordingError("a record of a batch is cut short")
        kind_length, length, at_ns = _PART.unpack_from(payload, start)
        start += _PART.size
        end = start + kind_length + length
        if end > len(payload):
            raise MalformedRecordingError("a record of a batch is cut short")
        yield Frame(
            frame.seq, at_ns, _kind_text(payload[start : start + kind_length]), payload[start + kind_length : end]
        )
        start = end


# ---------------------------------------------------------------- the chain


class Chain:
    """The running digest of one session: digest_n = SHA-256(digest_{n-1} || frame), digest_0 from the session's id."""

    __slots__ = ("count", "digest")

    def __init__(self, session_id: str) -> None:
        self.count = 0
        self.digest = sha256(DOMAIN + session_id.encode()).digest()

    def extend(self, frame: bytes) -> bytes:
        """Take one frame's canonical bytes in; its link."""
        running = sha256(self.digest)
        running.update(frame)  # not joined first: a frame may be large
        self.digest = running.digest()
        self.count += 1
        return self.digest[:LINK]


def verified(
    session_id: str,
    frames: Iterable[Frame],
    expected_count: int,
    expected_digest: str,
    evidence: Sequence[tuple[int, str]] = (),
) -> Iterator[Frame]:
    """Pass the frames on as long as the chain holds; BrokenRecordingError names the first one that is wrong.

    `expected_digest` (hex) and `evidence`, pairs of (count, hex digest) taken while the session ran, come from the log.
    Links name an edit; only the log's digests reveal one whose author wrote new links too, and then the evidence
    narrows down where it begins.
    """
    chain = Chain(session_id)
    known = _known([*evidence, (expected_count, expected_digest)])
    proved = 0
    for frame in _readable(frames, chain):
        if frame.seq != chain.count:
            raise BrokenRecordingError(chain.count, f"missing; number {frame.seq} stands in its place")
        if chain.count >= expected_count:
            raise BrokenRecordingError(chain.count, f"added after the end; the log knows of {expected_count} records")
        if chain.extend(frame.encoded()) != frame.link:
            raise BrokenRecordingError(frame.seq, "changed: it does not fit the chain")
        if (digest := known.get(chain.count)) is not None:
            if chain.digest.hex() != digest:
                raise BrokenRecordingError(
                    proved, f"changed: of records {proved} to {frame.seq} one is not what the log saw"
                )
            proved = chain.count
        yield frame
    if chain.count != expected_count:
        raise BrokenRecordingError(chain.count, f"missing: the log knows of {expected_count} records")
    if (most := max(known, default=0)) > expected_count:
        raise BrokenRecordingError(chain.count, f"missing: the log saw {most} records before it was told of this end")
    if expected_count == 0 and expected_digest not in ("", chain.digest.hex()):
        raise BrokenRecordingError(0, "the log's digest is not that of an empty recording")


def _known(told: Iterable[tuple[int, str]]) -> dict[int, str]:
    """The log's digests by count. A chain has one for each count: whoever adds another to the log has forged one."""
    known: dict[int, str] = {}
    for count, digest in told:
        if count > 0 and known.setdefault(count, digest) != digest:
            raise BrokenRecordingError(0, f"the log has two digests of the first {count} records")
    return known


def _readable(frames: Iterable[Frame], chain: Chain) -> Iterator[Frame]:
    """Bytes that cannot be read are a broken record as well."""
    try:
        yield from frames
    except MalformedRecordingError as error:
        raise BrokenRecordingError(chain.count, str(error)) from error


def verify_chain(
    session_id: str,
    frames: Iterable[Frame],
    expected_count: int,
    expected_digest: str,
    evidence: Sequence[tuple[int, str]] = (),
) -> None:
    """Return when every frame is what the log says; see `verified`."""
    for _ in verified(session_id, frames, expected_count, expected_digest, evidence):
        pass


# ---------------------------------------------------------------- the sealed file (inside its gzip wrapping)


class Stream(Protocol):
    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        ...


def sealed_header(session_id: str) -> bytes:
    """What a sealed file begins with."""
    name = session_id.encode("ascii")
    if not 0 < len(name) <= MAX_SESSION_ID:
        raise ValueError("a session id has 1 to 64 ASCII characters")
    return SEALED_MAGIC + bytes([len(name)]) + name


def sealed_trailer(count: int, digest: bytes) -> bytes:
    """What a sealed file ends with."""
    return _TRAILER.pack(TRAILER_MARK, count, digest)


def read_sealed(stream: Stream) -> tuple[str, Iterator[Frame]]:
    """The session's id and its frames. The iterator raises Truncated, Malformed or BrokenRecordingError on its way.

    It holds the frames against the file's own trailer; only `verified` holds them against the log.
    """
    if _take(stream, len(SEALED_MAGIC)) != SEALED_MAGIC:
        raise MalformedRecordingError("this is no sealed recording, or one of a newer version")
    length = _take(stream, 1)[0]
    if not 0 < length <= MAX_SESSION_ID:
        raise MalformedRecordingError("the session id's length is out of bounds")
    try:
        session_id = _take(stream, length).decode("ascii")
    except UnicodeDecodeError as error:
        raise MalformedRecordingError("the session id is not readable") from error
    return session_id, _sealed_frames(stream, session_id)


def _sealed_frames(stream: Stream, session_id: str) -> Iterator[Frame]:
    chain = Chain(session_id)
    while (mark := _take(stream, 1)[0]) != TRAILER_MARK:
        header = bytes([mark]) + _take(stream, HEADER_SIZE - 1)
        kind_length, payload_length, *_ = _header(header)
        frame, _ = decode(header + _take(stream, kind_length + payload_length + LINK))
        if frame.seq != chain.count or chain.extend(frame.encoded()) != frame.link:
            raise BrokenRecordingError(chain.count, "it does not fit the chain")
        yield frame
    _, count, digest = _TRAILER.unpack(bytes([TRAILER_MARK]) + _take(stream, _TRAILER.size - 1))
    if (count, digest) != (chain.count, chain.digest):
        raise BrokenRecordingError(chain.count, f"the file ends with the digest of {count} records")
    if stream.read(1):
        raise MalformedRecordingError("something stands after the end")


def _take(stream: Stream, size: int) -> bytes:
    """Exactly `size` bytes, which the caller has bounded."""
    data = stream.read(size)
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            raise TruncatedRecordingError("the recording is cut short")
        data += more
    return data
