"""A recording as JSON lines, which is how the API hands it out: an announcement, then one line per frame."""

import json
import struct
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple, Protocol

from gateway.audit.recording import Frame, MalformedRecordingError

MAX_LINE: Final = 2 * 1024 * 1024  # bytes; a frame's payload is a MiB at most, in base64


class LineStream(Protocol):
    def readline(self, size: int, /) -> bytes:
        """Up to `size` bytes, to the end of the line at most; b"" at the end."""
        ...


class Announced(NamedTuple):
    """The first line: what follows, as the server says. Only digests that one has from the log prove anything."""

    session: str
    protocol: str
    records: int
    digest: str
    evidence: tuple[tuple[int, str], ...]
    complete: bool


def to_json_lines(announced: Announced, frames: Iterable[Frame]) -> Iterator[bytes]:
    """The announcement, then one line per frame."""
    yield json.dumps(announced._asdict()).encode() + b"\n"
    for frame in frames:
        yield json.dumps(frame_to_json(frame)).encode() + b"\n"


def from_json_lines(lines: Iterable[str | bytes]) -> tuple[Announced, Iterator[Frame]]:
    """The inverse; MalformedRecordingError, also on the way, for what is no recording."""
    parsed = _objects(lines)
    match next(parsed, None):
        case {
            "session": str(session),
            "protocol": str(protocol),
            "records": int(count),
            "digest": str(digest),
            "evidence": list(evidence),
            "complete": bool(complete),
        }:
            known = tuple(_pair(each) for each in evidence)
            return Announced(session, protocol, count, digest, known, complete), map(frame_from_json, parsed)
        case _:
            raise MalformedRecordingError("this is no recording")


def _pair(told: object) -> tuple[int, str]:
    match told:
        case [int(count), str(digest)]:
            return count, digest
        case _:
            raise MalformedRecordingError("what the log saw is no list of counts and digests")


def lines_of(stream: LineStream) -> Iterator[bytes]:
    """The lines of a file. One that is longer than a record can make it comes in pieces, and those are no JSON."""
    return iter(lambda: stream.readline(MAX_LINE), b"")


def _objects(lines: Iterable[str | bytes]) -> Iterator[dict[str, object]]:
    for line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MalformedRecordingError("a line is no JSON") from error
        if not isinstance(value, dict):
            raise MalformedRecordingError("a line is no JSON object")
        yield value


def frame_to_json(frame: Frame) -> dict[str, object]:
    """One line of the API's answer."""
    return {
        "seq": frame.seq,
        "at_ns": frame.at_ns,
        "kind": frame.kind,
        "continues": frame.continues,
        "payload": b64encode(frame.payload).decode(),
        "link": frame.link.hex(),
    }


def frame_from_json(line: Mapping[str, object]) -> Frame:
    """The inverse; MalformedRecordingError when a field is missing or of another type."""
    match line:
        case {
            "seq": int(seq),
            "at_ns": int(at_ns),
            "kind": str(kind),
            "continues": bool(continues),
            "payload": str(payload),
            "link": str(link),
        }:
            try:
                frame = Frame(seq, at_ns, kind, b64decode(payload, validate=True), continues, bytes.fromhex(link))
                frame.encoded()
            except (ValueError, struct.error) as error:
                raise MalformedRecordingError("a record's fields are out of bounds") from error
            return frame
        case _:
            raise MalformedRecordingError("a record lacks a field")
