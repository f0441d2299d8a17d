"""Masks columns in the answers of a PostgreSQL server, whatever the format, the protocol and the pieces they come in.

Each RowDescription says of every column which table and attribute it comes from. In the extended protocol it is sent
only when it is asked for, and a statement that was prepared long ago may be planned anew: so before each Execute the
server is asked to describe that very portal, and its answer is kept from a client that has not asked itself.

INVARIANT: no DataRow is let through unless the description of just that result came before it.
"""

import hmac
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from struct import Struct, error

from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_messages import HEADER, message

Conceal = Callable[[bytes], bytes | None]
# Of table oid, attribute number and type oid: how the column's values are masked, None where they are not.
Origin = Callable[[int, int, int], Conceal | None]
# Of schema and table: nothing in it is masked.
IsFree = Callable[[str, str], bool]
LONGEST_ROW = 1 << 26  # bytes of a row with masked columns, which is put together here
LONGEST_DESCRIPTION = 1 << 20
LONGEST_ERROR = 1 << 20
STARS = b"****"
_TEXTS = frozenset({19, 25, 1042, 1043})  # name, text, bpchar, varchar: the same in both formats
_BPCHAR = 1042
_SHOWN_FROM = 8  # characters a value must have for the last four to be shown
_HASH_DIGITS = 32
_HEAD = HEADER.size
_UNPACK = HEADER.unpack_from
_FIELD = Struct(">IhIhih")  # table, attribute, type, its size, its modifier, format
_SHORT = Struct(">h")
_LONG = Struct(">i")
_NULL = _LONG.pack(-1)
_EXECUTE, _DESCRIBE, _SYNC, _QUERY = b"EDSQ"
_DESCRIPTION, _NO_DATA, _ROW, _ERROR, _READY, _COPY_IN = b"TnDEZG"
_ANY = 0xFFFFFFFF
_MOST = {_DESCRIPTION: LONGEST_DESCRIPTION, _NO_DATA: 4, _ERROR: LONGEST_ERROR}
_WHOLE = frozenset((_DESCRIPTION, _ERROR))
_CONSTRAINT = (b"23", b"44")  # classes of SQLSTATEs whose details quote rows: constraints, WITH CHECK OPTION
_OURS, _THEIRS, _ENDS_SYNC, _ENDS_QUERY = range(4)


class CannotMask(Exception):
    """The result may hold masked columns, and nobody can say which. The text is for the person."""


def no_value(value: bytes) -> None:
    """For what has no other mask."""
    del value


def concealing(mask: str, type_oid: int, key: bytes) -> Conceal:
    """What `full`, `last4`, `hash` or `null` make of values of a type; texts keep their type, all else is NULL."""
    if type_oid not in _TEXTS or mask == "null":
        return no_value
    if mask == "full":
        return lambda _: STARS
    if mask == "last4":
        return _last4
    if mask != "hash":
        raise ValueError(mask)
    is_padded = type_oid == _BPCHAR

    def hashed(value: bytes) -> bytes:
        told = value.rstrip(b" ") if is_padded else value
        return hmac.digest(key, told, sha256).hex()[:_HASH_DIGITS].encode()

    return hashed


def _last4(value: bytes) -> bytes:
    try:
        text = value.decode().rstrip(" ")
    except UnicodeDecodeError:
        return STARS
    return STARS + text[-4:].encode() if len(text) >= _SHOWN_FROM else STARS


class Asked:
    """What the client, or this gateway for it, has asked and the server has not answered: descriptions and ends."""

    def __init__(self) -> None:
        self._due: deque[int] = deque()
        self._is_skipping = False  # the server skips to the next Sync

    def asks(self, what: int) -> None:
        if self._is_skipping and what != _ENDS_SYNC:
            return
        self._is_skipping = False
        self._due.append(what)

    def describes(self) -> bool:
        """A description has come; True when the client has asked for it."""
        if self._due and self._due[0] in (_OURS, _THEIRS):
            return self._due.popleft() == _THEIRS
        return True  # of a simple query

    def fails(self) -> None:
        if self._due and self._due[0] == _ENDS_QUERY:
            return
        while self._due and self._due[0] != _ENDS_SYNC:
            self._due.popleft()
        self._is_skipping = not self._due

    def ends(self) -> None:
        while self._due and self._due.popleft() not in (_ENDS_SYNC, _ENDS_QUERY):
            pass

    @property
    def is_simple(self) -> bool:
        """True while the server works for a simple query."""
        return bool(self._due) and self._due[0] == _ENDS_QUERY


class AskToDescribe:
    """From the client: before each Execute goes a Describe of its portal. Lengths were looked at before."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._held = bytearray()
        self._wanted = 0
        self._left = 0  # of a body that is under way

    def feed(self, chunk: bytes) -> bytes:
        """What goes to the server now."""
        if self._held:
            self._held += chunk
            if len(self._held) < self._wanted:
                return b""
            chunk = bytes(self._held)
            self._held.clear()
        pos = min(self._left, len(chunk))
        self._left -= pos
        out: list[bytes] = []
        start = 0
        while len(chunk) - pos >= _HEAD:
            kind, length = _UNPACK(chunk, pos)
            stop = pos + 1 + length
            if kind == _EXECUTE:
                if stop > len(chunk):
                    break
                portal = chunk[pos + _HEAD : chunk.find(0, pos + _HEAD, stop) + 1]
                out += (chunk[start:pos], message(b"D", b"P" + portal))
                start = pos
                self._asked.asks(_OURS)
            elif kind in _ENDS:
                self._asked.asks(_ENDS[kind])
            self._left = max(0, stop - len(chunk))
            pos = min(stop, len(chunk))
        self._held += chunk[pos:]
        self._wanted = _HEAD if len(self._held) < _HEAD else 1 + _UNPACK(self._held)[1]
        return b"".join((*out, chunk[start:pos]))


_ENDS = {_DESCRIBE: _THEIRS, _SYNC: _ENDS_SYNC, _QUERY: _ENDS_QUERY}


class MaskedAnswers:
    """From the server. What comes out is a stream as a server would send it whose tables hold the masked values.

    `trouble` says why nothing more comes out: what follows may hold masked columns, and nobody can say which.
    """

    def __init__(self, asked: Asked, origin: Origin, is_free: IsFree) -> None:
        """`origin` raises CannotMask for what is not known."""
        self._asked = asked
        self._origin = origin
        self._is_free = is_free
        self._held = bytearray()  # of a header, or of a message that is read here
        self._wanted = 0
        self._left = 0  # of a body that is passed on as it is
        self._columns: tuple[Conceal | None, ...] | None = None  # of the result that comes, once described
        self._is_masked = False
        self.trouble = ""

    def feed(self, chunk: bytes) -> bytes:
        """What goes on. ProtocolViolation ends the session, and so must the caller when there is `trouble`."""
        if self.trouble:
            return b""
        if self._held:
            self._held += chunk
            if len(self._held) < self._wanted:
                return b""
            chunk = bytes(self._held)
            self._held.clear()
        pos = min(self._left, len(chunk))
        self._left -= pos
        out: list[bytes] = []
        start, end = 0, len(chunk)
        while end - pos >= _HEAD:
            kind, length = _UNPACK(chunk, pos)
            stop = pos + 1 + length
            try:
                if self._is_read(kind, length):
                    if stop > end:
                        break
                    out += (chunk[start:pos], self._read(kind, chunk[pos:stop]))
                    start = stop
                elif kind != _ROW and not self._shows(kind):
                    out.append(chunk[start:pos])
                    start = stop
            except CannotMask as why:
                self.trouble = str(why)
                return b"".join((*out, chunk[start:pos]))
            self._left = max(0, stop - end)
            pos = min(stop, end)
        self._held += chunk[pos:]
        self._wanted = _HEAD if len(self._held) < _HEAD else 1 + _UNPACK(self._held)[1]
        return chunk if not out and pos == end else b"".join((*out, chunk[start:pos]))

    def _is_read(self, kind: int, length: int) -> bool:
        """True for what has to be whole. Nothing is held that is longer than it may be."""
        if not 4 <= length <= _MOST.get(kind, _ANY):
            raise ProtocolViolation("the target sent a message of an impossible length")
        if kind == _ROW:
            if self._columns is None:
                raise CannotMask("a row came without its description")
            if self._is_masked and length > LONGEST_ROW:
                raise CannotMask(f"a row with masked columns is longer than {LONGEST_ROW:,} bytes")
        return kind in _WHOLE or (kind == _ROW and self._is_masked)

    def _shows(self, kind: int) -> bool:
        """Take note of a message that is not read; False keeps it from the client (NoData alone)."""
        if kind == _NO_DATA:
            self._columns = None
            return self._asked.describes()
        if kind == _READY:
            self._asked.ends()
            self._columns = None
        elif kind == _COPY_IN and not self._asked.is_simple:
            raise CannotMask("COPY … FROM STDIN comes in a simple query at a level with masks")
        return True

    def _read(self, kind: int, whole: bytes) -> bytes:
        if kind == _ROW:
            return _masked_row(whole, self._columns or ())
        if kind == _ERROR:
            self._asked.fails()
            return _without_rows(whole, self._is_free)
        self._columns = tuple(self._origin(*each) for each in _origins(whole))
        self._is_masked = any(each is not None for each in self._columns)
        return whole if self._asked.describes() else b""


def _without_rows(whole: bytes, is_free: IsFree) -> bytes:
    """An error, without its detail where that may quote a row that the person's statement does not hold: one of a
    table with masks, which a cascade or a trigger has changed.
    """
    fields = [each for each in whole[_HEAD:].split(b"\0") if each]
    told = {each[:1]: each[1:] for each in fields}
    if not told.get(b"C", b"").startswith(_CONSTRAINT):
        return whole
    schema, table = (told.get(key, b"").decode(errors="replace") for key in (b"s", b"t"))
    if b"W" not in told and (not table or is_free(schema, table)):
        return whole
    return message(b"E", b"".join(each + b"\0" for each in fields if each[:1] != b"D") + b"\0")


def _origins(whole: bytes) -> list[tuple[int, int, int]]:
    """Table oid, attribute number and type oid of each column of a RowDescription."""
    found = []
    try:
        (count,) = _SHORT.unpack_from(whole, _HEAD)
        pos = _HEAD + 2
        for _ in range(count):
            pos = whole.index(0, pos) + 1
            table, attribute, type_oid, _, _, _ = _FIELD.unpack_from(whole, pos)
            pos += _FIELD.size
            found.append((table, attribute, type_oid))
    except (error, ValueError):
        pos = -1
    if pos != len(whole):
        raise ProtocolViolation("the target sent a description that cannot be read")
    return found


def _masked_row(whole: bytes, columns: tuple[Conceal | None, ...]) -> bytes:
    pieces = [whole[_HEAD : _HEAD + 2]]
    pos = _HEAD + 2
    try:
        if _SHORT.unpack(pieces[0])[0] != len(columns):
            raise ProtocolViolation("the target sent a row of another width than it said")
        for conceal in columns:
            (length,) = _LONG.unpack_from(whole, pos)
            start, pos = pos, pos + 4 + max(length, 0)
            if conceal is None or length < 0:
                pieces.append(whole[start:pos])
                continue
            shown = conceal(whole[start + 4 : pos])
            pieces += (_NULL,) if shown is None else (_LONG.pack(len(shown)), shown)
    except error:
        pos = -1
    if pos != len(whole):
        raise ProtocolViolation("the target sent a row that cannot be read")
    return message(b"D", b"".join(pieces))
