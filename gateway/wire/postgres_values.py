"""Reads the values of a Bind or FunctionCall as they arrive, and keeps what a record may hold of them.

A short text is kept as it is, of everything else length and digest: the wire may carry a gigabyte here. Where values
are masked, what is kept of each is its length and a digest under a key that dies with the session.
"""

from collections.abc import Generator
from hashlib import blake2b, sha256
from json import JSONEncoder
from struct import Struct, error, unpack_from
from typing import NamedTuple

from gateway.wire.buffer import ProtocolViolation

KEEP_TEXT = 256  # characters of a value in text format
KEEP_HEX = 32  # octets of one in binary format
KEEP_ALL = 4_096  # bytes of all values of a statement, as JSON
_PIECE = 65_536
_NULL = 0xFFFFFFFF
_SHORT = Struct(">H").unpack_from
_LONG = Struct(">i").unpack_from


KEYED_OCTETS = 16


class Telling(NamedTuple):
    """How much is told of values: all (neither), masked (`key`: at least 16 secret octets), or only how many."""

    key: bytes = b""
    is_silent: bool = False


TELL_ALL = Telling()


class ValueList:
    """What is told of a statement's values, in order."""

    def __init__(self, telling: Telling = TELL_ALL) -> None:
        self._telling = telling
        self._told: list[str] = []
        self._size = 0
        self._left_out = 0

    def tell(self, value: str) -> None:
        """Keep one more value, as JSON, if there is room."""
        size = (len(value) if value.isascii() else len(value.encode())) + 1
        if self._telling.is_silent or self._left_out or self._size + size > KEEP_ALL:
            self._left_out += 1
            return
        self._size += size
        self._told.append(value)

    def listed(self) -> bytes:
        """What was told so far: members of a record, with a comma in front; nothing without values."""
        if not self._told and not self._left_out:
            return b""
        told = f',"params":[{",".join(self._told)}]' if self._told else ""
        more = f',"params_left_out":{self._left_out}' if self._left_out else ""
        return f"{told}{more}".encode()


class Values(ValueList):
    """Fed with the body behind the names (Bind) or the oid (FunctionCall), in any pieces."""

    def __init__(self, telling: Telling = TELL_ALL) -> None:
        super().__init__(telling)
        self._is_whole = False
        self._buffer = bytearray()
        self._steps = self._read()
        self._wanted = next(self._steps)

    def feed(self, part: bytes) -> None:
        """Take the next piece; what stands behind the values is not looked at."""
        if self._is_whole:
            return
        self._buffer += part
        pos = 0
        try:
            while len(self._buffer) - pos >= self._wanted:
                pos, piece = pos + self._wanted, bytes(self._buffer[pos : pos + self._wanted])
                self._wanted = self._steps.send(piece)
        except StopIteration:
            self._is_whole = True
        del self._buffer[:pos]

    def told(self) -> bytes:
        """`listed`, when the message is whole."""
        if not self._is_whole:
            raise ProtocolViolation("values that end before their count")
        return self.listed()

    def _read(self) -> Generator[int, bytes, None]:
        """Yields how many bytes it needs next."""
        formats = [0] * _number((yield 2))
        for place in range(len(formats)):
            formats[place] = _number((yield 2))
        count = _number((yield 2))
        if len(formats) not in (0, 1, count):
            raise ProtocolViolation("formats that do not fit the values")
        for place in range(count):
            form = formats[place if len(formats) > 1 else 0] if formats else 0
            length = _number((yield 4))
            if length == _NULL:
                self.tell("null")
            elif length > 0x7FFFFFFF:
                raise ProtocolViolation("a value of an impossible length")
            else:
                yield from self._value(length, is_text=form == 0)

    def _value(self, length: int, *, is_text: bool) -> Generator[int, bytes, None]:
        key = self._telling.key
        digest = blake2b(key=key, digest_size=KEYED_OCTETS) if key else sha256()
        left, head = length, b""
        while left:
            piece = yield min(left, _PIECE)
            head = head or piece[: 4 * KEEP_TEXT]
            digest.update(piece)
            left -= len(piece)
        if key:
            self.tell(_masked(length, digest.hexdigest()))
            return
        text = head.decode(errors="backslashreplace") if is_text and length <= 4 * KEEP_TEXT else None
        if text is not None and len(text) <= KEEP_TEXT:
            self.tell(_encode(text))
        else:
            octets = "" if is_text else f',"hex":"{head[:KEEP_HEX].hex()}"'
            self.tell(f'{{"length":{length},"sha256":"{digest.hexdigest()}"{octets}}}')


def values_told(body: bytes, pos: int, telling: Telling = TELL_ALL) -> bytes:
    """`Values.told` of values that lie whole in `body` from `pos` on, as nearly all do, without its pauses."""
    try:
        (formats,) = _SHORT(body, pos)
        forms = unpack_from(f">{formats}H", body, pos + 2) if formats else ()
        (count,) = _SHORT(body, pos + 2 + 2 * formats)
        pos += 4 + 2 * formats
        if formats not in (0, 1, count):
            raise ProtocolViolation("formats that do not fit the values")
        told: list[str] = []
        for place in range(count):
            (length,) = _LONG(body, pos)
            start, pos = pos + 4, pos + 4 + max(length, 0)
            if length < -1:
                raise ProtocolViolation("a value of an impossible length")
            if pos > len(body):
                raise ProtocolViolation("values that end before their count")
            form = forms[place if formats > 1 else 0] if formats else 0
            told.append("null" if length < 0 else _described(body[start:pos], telling, is_text=form == 0))
    except error:
        raise ProtocolViolation("values that end before their count") from None
    listed = ",".join(told).encode()
    if told and not telling.is_silent and len(listed) < KEEP_ALL:
        return b',"params":[%b]' % listed
    values = ValueList(telling)
    for value in told:
        values.tell(value)
    return values.listed()


def _masked(length: int, digest: str) -> str:
    return f'{{"length":{length},"keyed":"{digest}"}}'


def _described(value: bytes, telling: Telling, *, is_text: bool) -> str:
    if telling.key:
        return _masked(len(value), blake2b(value, key=telling.key, digest_size=KEYED_OCTETS).hexdigest())
    if is_text and len(value) <= 4 * KEEP_TEXT:
        text = value.decode(errors="backslashreplace")
        if len(text) <= KEEP_TEXT:
            return _encode(text)
    octets = "" if is_text else f',"hex":"{value[:KEEP_HEX].hex()}"'
    return f'{{"length":{len(value)},"sha256":"{sha256(value).hexdigest()}"{octets}}}'


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


_encode = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
