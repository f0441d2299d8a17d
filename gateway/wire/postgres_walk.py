"""Walks message headers over chunks as they pass, in both directions, and tells the statement account.

Bodies of rows are never copied nor looked at; COPY data is digested. Chunking changes nothing: any split of the same
bytes gives the same records.
"""

from collections.abc import Container
from hashlib import sha256
from struct import Struct

from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_account import MAX_STATEMENT, Text
from gateway.wire.postgres_machine import CLIENT_MESSAGES, SERVER_MESSAGES
from gateway.wire.postgres_messages import HEADER
from gateway.wire.postgres_quick import TAILS, reply_of
from gateway.wire.postgres_rounds import RoundAccount
from gateway.wire.postgres_values import TELL_ALL, Telling, Values, values_told

_UNPACK = HEADER.unpack_from
_UNPACK_SIGNED = Struct(">Bi").unpack_from  # one comparison finds lengths that are too small and too large
_HEAD = HEADER.size
_KEEP_NAMES = 8_192
_KEEP_REPLY = 2_048
_QUERY, _PARSE, _BIND, _CALL, _COPY, _ROW = b"QPBFdD"
_NO_VALUES = bytes(4)  # no formats, no values
_EMPTY = frozenset(b"SHXc")  # messages without a body
_LONGEST = {**CLIENT_MESSAGES, **dict.fromkeys(_EMPTY, 4)}
_LONGEST_STATEMENT = MAX_STATEMENT + 5  # with the length word and a terminator
_TOLD = frozenset(b"CEZN")  # replies whose body the account reads


class StatementTooLong(ProtocolViolation):
    """A Query or Parse of more than MAX_STATEMENT bytes."""


class _Capture:
    """One client message while it arrives: the whole of a statement, the head of what may be longer."""

    __slots__ = ("_before", "_digest", "_ended", "_length", "_telling", "_values", "head", "kind", "size")

    def __init__(self, kind: int, telling: Telling) -> None:
        self.kind = kind
        self._telling = telling
        self.head = bytearray()
        self.size = 0
        self._digest = sha256()
        self._length = 0
        self._before = 1 if kind == _PARSE else 0  # strings in front of the SQL
        self._ended = kind not in (_QUERY, _PARSE)
        self._values: Values | None = None

    def feed(self, part: bytes) -> None:
        self.size += len(part)
        if self.kind in (_BIND, _CALL):
            self._feed_values(part)
            return
        room = _LONGEST_STATEMENT - len(self.head)
        if room > 0:
            self.head += part[:room]
        while not self._ended:
            cut = part.find(0)
            if not self._before:
                sql = part if cut < 0 else part[:cut]
                self._digest.update(sql)
                self._length += len(sql)
                self._ended = cut >= 0
                return
            if cut < 0:
                return
            self._before -= 1
            part = part[cut + 1 :]

    def _feed_values(self, part: bytes) -> None:
        """`head` keeps what stands in front of the values."""
        if self._values is not None:
            self._values.feed(part)
            return
        self.head += part
        start = _values_start(self.kind, self.head)
        if start:
            self._values = Values(self._telling)
            self._values.feed(bytes(self.head[start:]))
            del self.head[start:]
        elif len(self.head) > 2 * _KEEP_NAMES:
            raise ProtocolViolation("a name of impossible length")

    def tell(self, account: RoundAccount, at: float) -> None:
        """The message is whole."""
        head = bytes(self.head)
        if not self._ended:
            raise ProtocolViolation("a statement without its terminator")
        if self.kind == _QUERY:
            if self._length + 1 != self.size:
                raise ProtocolViolation("bytes behind the statement")
            account.query(self._text(head), at)
        elif self.kind == _PARSE:
            name, _, sql = head.partition(b"\0")
            if len(name) > _KEEP_NAMES:
                raise ProtocolViolation("a name of impossible length")
            account.parse(name, self._text(sql), at)
        elif self.kind in (_BIND, _CALL):
            if self._values is None:
                raise ProtocolViolation("a message that ends before its values")
            _tell_values(account, self.kind, head, self._values.told(), at)
        else:
            account.asked(self.kind, head, at)

    def _text(self, head: bytes) -> Text:
        return Text(head[: self._length], self._digest.hexdigest(), self._length)


def _values_start(kind: int, body: bytes | bytearray) -> int:
    """Where the values begin: behind two names, or behind the function's oid. 0 when that is not there."""
    if kind == _CALL:
        return 4 if len(body) >= 4 else 0
    cut = body.find(0, 0, 2 * _KEEP_NAMES)
    return 1 + body.find(0, cut + 1, 2 * _KEEP_NAMES) if cut >= 0 else 0


def _values_in(message: bytes, start: int, telling: Telling) -> bytes:
    if message.startswith(_NO_VALUES, start):
        return b""
    return values_told(message, start, telling)


def _tell_values(account: RoundAccount, kind: int, head: bytes, values: bytes, at: float) -> None:
    if kind == _CALL:
        account.call(int.from_bytes(head[:4], "big"), values, at)
    else:
        portal, source, _ = head.split(b"\0", 2)
        account.bind(portal, source, values, at)


def _text_of(sql: bytes) -> Text:
    return Text(sql, sha256(sql).hexdigest(), len(sql))


class ClientWalk:
    """From the client to the server."""

    def __init__(self, account: RoundAccount, telling: Telling = TELL_ALL) -> None:
        self._account = account
        self._telling = telling
        self._fragment = b""  # of a header
        self._left = 0  # bytes of a body that are still to come
        self._is_copy = False  # of COPY data
        self._capture: _Capture | None = None

    def is_at_boundary(self) -> bool:
        """True when the next chunk begins with a message."""
        return not self._left and not self._fragment

    def feed(self, chunk: bytes, at: float) -> None:
        """Look at the next chunk; `at` in seconds on any steady clock. ProtocolViolation ends the session."""
        if self._fragment:
            chunk, self._fragment = self._fragment + chunk, b""
        pos, end = self._resume(chunk, at) if self._left else 0, len(chunk)
        while end - pos >= _HEAD:
            kind, length = _UNPACK(chunk, pos)
            if kind in (_QUERY, _PARSE) and _LONGEST_STATEMENT < length <= _LONGEST[kind]:
                raise StatementTooLong("a statement is too long to be recorded")
            if not 4 <= length <= _LONGEST.get(kind, 0):
                raise ProtocolViolation("a message of a type or length that a client may not send")
            body, pos = pos + _HEAD, pos + 1 + length
            if kind == _COPY:
                self._account.copied_in(length - 4, chunk[body:pos])
                self._is_copy = pos > end
            elif length == 4 and kind in _EMPTY:
                self._account.asked(kind, b"", at)
            elif kind == _BIND and pos < end and self._rounds(chunk, body, pos, at):
                return
            elif pos <= end:
                self._whole(kind, chunk, body, pos, at)
            else:
                self._capture = _Capture(kind, self._telling)
                self._capture.feed(chunk[body:pos])
        self._left = max(0, pos - end)
        self._fragment = chunk[pos:]

    def _rounds(self, chunk: bytes, body: int, end: int, at: float) -> bool:
        """True when a whole round trip ends this chunk, and was told."""
        is_described = TAILS.get(chunk[end:])
        if is_described is None or chunk[body] or not self._account.may_round():
            return False
        cut = chunk.find(0, body + 1, min(end, body + _KEEP_NAMES))
        if cut < 0:
            return False
        values = values_told(chunk[cut + 1 : end], 0, self._telling)
        self._account.round(chunk[body + 1 : cut], values, at, is_described=is_described)
        self._left, self._fragment = 0, b""
        return True

    def _resume(self, chunk: bytes, at: float) -> int:
        taken = min(self._left, len(chunk))
        self._left -= taken
        if self._is_copy:
            self._account.copied_in(0, chunk[:taken])
            self._is_copy = self._left > 0
        elif self._capture is not None:
            self._capture.feed(chunk[:taken])
            if not self._left:
                capture, self._capture = self._capture, None
                capture.tell(self._account, at)
        return taken if not self._left else len(chunk) + self._left

    def _whole(self, kind: int, chunk: bytes, body: int, end: int, at: float) -> None:
        """A message that lies in one chunk, as nearly all do; `_Capture` is the same for those that come in parts."""
        account = self._account
        if kind == _QUERY:
            cut = chunk.find(0, body, end)
            if cut != end - 1:
                raise ProtocolViolation(
                    "bytes behind the statement" if cut >= 0 else "a statement without its terminator"
                )
            account.query(_text_of(chunk[body:cut]), at)
        elif kind in (_BIND, _CALL):
            message = chunk[body:end]
            start = _values_start(kind, message)
            if not start:
                raise ProtocolViolation("a message without a place for its values, or a name of impossible length")
            _tell_values(account, kind, message[:start], _values_in(message, start, self._telling), at)
        elif kind == _PARSE:
            cut = chunk.find(0, body, end)
            last = chunk.find(0, cut + 1, end) if cut >= 0 else -1
            if last < 0:
                raise ProtocolViolation("a statement without its terminator")
            if cut - body > _KEEP_NAMES:
                raise ProtocolViolation("a name of impossible length")
            account.parse(chunk[body:cut], _text_of(chunk[cut + 1 : last]), at)
        else:
            account.asked(kind, chunk[body : min(end, body + _KEEP_NAMES)], at)


class ServerWalk:
    """From the server to the client."""

    def __init__(self, account: RoundAccount, legal: Container[int] = SERVER_MESSAGES) -> None:
        self._account = account
        self._legal = legal
        self._fragment = b""
        self._left = 0
        self._kind = 0
        self._is_copy = False  # what is still to come
        self._reply: bytearray | None = None  # the head of a reply that the account reads

    def is_at_boundary(self) -> bool:
        """True when another message may be put in here."""
        return not self._left and not self._fragment

    def boundary_in(self, chunk: bytes) -> int | None:
        """How many bytes of `chunk`, which is not fed yet, end the present message; None when more are needed."""
        left = self._left
        if self._fragment:
            joined = self._fragment + chunk[:_HEAD]
            if len(joined) < _HEAD:
                return None
            left = 1 + int.from_bytes(joined[1:_HEAD], "big") - len(self._fragment)
        return left if left <= len(chunk) else None

    def feed(self, chunk: bytes, at: float) -> None:  # noqa: C901 - a call per message would cost too much
        """Look at the next chunk; ProtocolViolation when the server says what it may not."""
        if not self._fragment and not self._left and self._is_reply(chunk, at):
            return
        if self._fragment:
            chunk, self._fragment = self._fragment + chunk, b""
        pos, end = self._resume(chunk, at) if self._left else 0, len(chunk)
        account = self._account
        last = end - _HEAD
        while pos <= last:
            kind, length = _UNPACK_SIGNED(chunk, pos)
            if length < 4:
                raise ProtocolViolation("the target sent a message of an impossible length")
            if kind == _ROW:
                start, count = pos, 0
                while kind == _ROW and length >= 4:  # nothing but headers is looked at: results are mostly rows
                    count += 1
                    pos += 1 + length
                    if pos > last:
                        break
                    kind, length = _UNPACK_SIGNED(chunk, pos)
                account.rows(count, pos - start - _HEAD * count)
                continue
            if kind == _COPY:
                pos = self._copy(chunk, pos)
                continue
            if kind not in self._legal:
                raise ProtocolViolation("the target sent a message that has no place here")
            body, pos = pos + _HEAD, pos + 1 + length
            head = chunk[body : min(pos, body + _KEEP_REPLY)] if kind in _TOLD else b""
            if pos <= end:
                account.answered(kind, head, at)
            else:
                self._kind, self._reply = kind, bytearray(head)
        self._left = max(0, pos - end)
        self._fragment = chunk[pos:]

    def _copy(self, chunk: bytes, pos: int) -> int:
        """Where the COPY data that begins at `pos` ends. As often as rows, and for as little."""
        start, parts, last = pos, [], len(chunk) - _HEAD
        kind, length = _UNPACK_SIGNED(chunk, pos)
        while kind == _COPY and length >= 4:
            body = pos + _HEAD
            pos += 1 + length
            parts.append(chunk[body:pos])
            if pos > last:
                break
            kind, length = _UNPACK_SIGNED(chunk, pos)
        self._account.copied_out(pos - start - _HEAD * len(parts), b"".join(parts))
        self._is_copy = pos > len(chunk)
        return pos

    def _is_reply(self, chunk: bytes, at: float) -> bool:
        """True when this was the whole answer to all that is owed, and was told."""
        step = self._account.lone()
        if step is None:
            return False
        is_query = step.kind == _QUERY
        reply = reply_of(chunk, is_bound=not is_query, is_described=is_query or step.is_described)
        return reply is not None and self._account.replied(step, reply, at)

    def _resume(self, chunk: bytes, at: float) -> int:
        taken = min(self._left, len(chunk))
        self._left -= taken
        if self._is_copy:
            self._account.copied_out(0, chunk[:taken])
            self._is_copy = self._left > 0
        elif self._reply is not None:
            if self._kind in _TOLD and len(self._reply) < _KEEP_REPLY:
                self._reply += chunk[: min(taken, _KEEP_REPLY)]
            if not self._left:
                reply, self._reply = bytes(self._reply), None
                self._account.answered(self._kind, reply, at)
        return taken if not self._left else len(chunk) + self._left
