"""What nearly all traffic is made of, recognised at a glance: one round trip in one chunk either way.

The walks tell the same of these chunks, message by message; this is for speed alone (tests hold one against the other).
"""

from struct import Struct
from typing import NamedTuple

from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_account import KEEP
from gateway.wire.postgres_messages import message
from gateway.wire.postgres_values import Telling, values_told

_HEAD = Struct(">Bi").unpack_from
_BOUND = message(b"2")
_NO_DATA = message(b"n")
_ROW, _DESCRIPTION, _COMPLETE = b"DTC"
_READY = message(b"Z", b"I")[:5]
_LONGEST_TAG = 64
_SHORTEST = 7
_KEEP_NAMES = 8_192
_QUERY, _BIND = b"QB"
_DESCRIBE, _EXECUTE, _SYNC = message(b"D", b"P\0"), message(b"E", bytes(5)), message(b"S")

# What follows a Bind of the unnamed portal in its chunk: whether it asks for a description.
TAILS = {_DESCRIBE + _EXECUTE + _SYNC: True, _EXECUTE + _SYNC: False}


class Asked(NamedTuple):
    """One statement's whole question: a Query, or what stands between a Bind of `source` and its Sync."""

    is_query: bool
    source: bytes  # of a Query its SQL
    values: bytes = b""
    is_described: bool = True


class Reply(NamedTuple):
    """One statement's whole answer: `size` bytes of rows, the bodies of its CommandComplete and ReadyForQuery."""

    rows: int
    size: int
    tag: bytes
    status: bytes


def asked_of(chunk: bytes, telling: Telling) -> Asked | None:
    """None when it is not exactly one question, a long one, or one whose values make no sense."""
    if len(chunk) < _SHORTEST:
        return None
    kind, length = _HEAD(chunk)
    end = 1 + length
    if kind == _QUERY:
        is_whole = end == len(chunk) <= KEEP and chunk.find(0, 5) == end - 1
        return Asked(is_query=True, source=chunk[5:-1]) if is_whole else None
    is_described = TAILS.get(chunk[end:]) if kind == _BIND and length > 0 else None
    if is_described is None or chunk[5]:
        return None
    cut = chunk.find(0, 6, min(end, _KEEP_NAMES))
    if cut < 0:
        return None
    try:
        values = values_told(chunk[cut + 1 : end], 0, telling)
    except ProtocolViolation:
        return None
    return Asked(is_query=False, source=chunk[6:cut], values=values, is_described=is_described)


def reply_of(chunk: bytes, *, is_bound: bool, is_described: bool) -> Reply | None:
    """None when it is not exactly one answer: (BindComplete) (RowDescription) rows, CommandComplete, ReadyForQuery."""
    ready = len(chunk) - 6
    if ready < 5 or not chunk.startswith(_READY, ready):
        return None
    start = _rows_start(chunk, is_bound=is_bound, is_described=is_described)
    if not 0 <= start < ready:
        return None
    kind, length = _HEAD(chunk, start)
    pos, rows = start, 0
    while kind == _ROW and length >= 4:
        rows += 1
        pos += 1 + length
        if pos >= ready:
            return None
        kind, length = _HEAD(chunk, pos)
    if kind != _COMPLETE or pos + 1 + length != ready or length > _LONGEST_TAG:
        return None
    return Reply(rows, pos - start - 5 * rows, chunk[pos + 5 : ready], chunk[ready + 5 :])


def _rows_start(chunk: bytes, *, is_bound: bool, is_described: bool) -> int:
    """Where BindComplete and description end; -1 when one of them is missing. A Query may come without description."""
    if is_bound and not chunk.startswith(_BOUND):
        return -1
    pos = 5 if is_bound else 0
    if not is_described:
        return pos
    if chunk.startswith(_NO_DATA, pos):
        return pos + 5
    kind, length = _HEAD(chunk, pos)
    if kind == _DESCRIPTION and length >= 4:
        return pos + 1 + int(length)
    return -1 if is_bound else pos
