"""Walks message headers over chunks as they pass, in both directions, and tells the statement account.

Bodies of rows and COPY data are never copied nor looked at. Chunking changes nothing: any split of the same bytes
gives the same records.
"""

from hashlib import sha256

from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_account import KEEP, Text
from gateway.wire.postgres_machine import CLIENT_MESSAGES, SERVER_MESSAGES
from gateway.wire.postgres_messages import HEADER
from gateway.wire.postgres_statements import StatementAccount

_UNPACK = HEADER.unpack_from
_HEAD = HEADER.size
_KEEP_NAMES = 8_192
_KEEP_REPLY = 2_048
_QUERY, _PARSE, _BIND, _COPY, _ROW = b"QPBdD"
_EMPTY = frozenset(b"SHXc")  # messages without a body
_TOLD = frozenset(b"CEZ")  # replies whose body the account reads


class _Capture:
    """The head of one client message while it arrives, and the digest of the SQL in it however long that is."""

    __slots__ = ("_before", "_digest", "_ended", "_length", "head", "kind", "size")

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.head = bytearray()
        self.size = 0
        self._digest = sha256()
        self._length = 0
        self._before = 1 if kind == _PARSE else 0  # strings in front of the SQL
        self._ended = kind not in (_QUERY, _PARSE)

    def feed(self, part: bytes) -> None:
        self.size += len(part)
        room = KEEP + _KEEP_NAMES - len(self.head)
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

    def tell(self, account: StatementAccount, at: float) -> None:
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
        else:
            if self.kind == _BIND and head[: 2 * _KEEP_NAMES].count(b"\0") < 2:
                raise ProtocolViolation("a name of impossible length")
            account.asked(self.kind, head, at)

    def _text(self, head: bytes) -> Text:
        return Text(head[: min(self._length, KEEP)], self._digest.hexdigest(), self._length)


class ClientWalk:
    """From the client to the server."""

    def __init__(self, account: StatementAccount) -> None:
        self._account = account
        self._fragment = b""  # of a header
        self._left = 0  # bytes of a body that are still to come
        self._capture: _Capture | None = None

    def feed(self, chunk: bytes, at: float) -> None:
        """Look at the next chunk; `at` in seconds on any steady clock. ProtocolViolation ends the session."""
        if self._fragment:
            chunk, self._fragment = self._fragment + chunk, b""
        pos, end = self._resume(chunk, at) if self._left else 0, len(chunk)
        while end - pos >= _HEAD:
            kind, length = _UNPACK(chunk, pos)
            if not 4 <= length <= CLIENT_MESSAGES.get(kind, 0) or (kind in _EMPTY and length != 4):
                raise ProtocolViolation("a message of a type or length that a client may not send")
            body, pos = pos + _HEAD, pos + 1 + length
            if kind == _COPY:
                self._account.copied_in(length - 4)
            elif kind in _EMPTY:
                self._account.asked(kind, b"", at)
            else:
                self._capture = _Capture(kind)
                self._capture.feed(chunk[body:pos])
                if pos <= end:
                    self._whole(at)
        self._left = max(0, pos - end)
        self._fragment = chunk[pos:]

    def _resume(self, chunk: bytes, at: float) -> int:
        taken = min(self._left, len(chunk))
        self._left -= taken
        if self._capture is not None:
            self._capture.feed(chunk[:taken])
            if not self._left:
                self._whole(at)
        return taken if not self._left else len(chunk) + self._left

    def _whole(self, at: float) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.tell(self._account, at)


class ServerWalk:
    """From the server to the client."""

    def __init__(self, account: StatementAccount) -> None:
        self._account = account
        self._fragment = b""
        self._left = 0
        self._kind = 0
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

    def feed(self, chunk: bytes, at: float) -> None:
        """Look at the next chunk; ProtocolViolation when the server says what it may not."""
        if self._fragment:
            chunk, self._fragment = self._fragment + chunk, b""
        pos, end = self._resume(chunk, at) if self._left else 0, len(chunk)
        rows = size = 0
        while end - pos >= _HEAD:
            kind, length = _UNPACK(chunk, pos)
            if kind == _ROW:
                rows += 1
                size += length - 4
            elif kind == _COPY:
                size += length - 4
            elif kind not in SERVER_MESSAGES:
                raise ProtocolViolation("the target sent a message that has no place here")
            if not 4 <= length <= 0x7FFFFFFF:
                raise ProtocolViolation("the target sent a message of an impossible length")
            body, pos = pos + _HEAD, pos + 1 + length
            if kind not in (_ROW, _COPY):
                if rows or size:
                    self._account.rows(rows, size)
                    rows = size = 0
                self._begin(kind, chunk[body : min(pos, body + _KEEP_REPLY)], at, is_whole=pos <= end)
        if rows or size:
            self._account.rows(rows, size)
        self._left = max(0, pos - end)
        self._fragment = chunk[pos:]

    def _begin(self, kind: int, head: bytes, at: float, *, is_whole: bool) -> None:
        if is_whole:
            self._account.answered(kind, head, at)
        else:
            self._kind, self._reply = kind, bytearray(head if kind in _TOLD else b"")

    def _resume(self, chunk: bytes, at: float) -> int:
        taken = min(self._left, len(chunk))
        self._left -= taken
        if self._reply is not None:
            if self._kind in _TOLD and len(self._reply) < _KEEP_REPLY:
                self._reply += chunk[: min(taken, _KEEP_REPLY)]
            if not self._left:
                reply, self._reply = bytes(self._reply), None
                self._account.answered(self._kind, reply, at)
        return taken if not self._left else len(chunk) + self._left
