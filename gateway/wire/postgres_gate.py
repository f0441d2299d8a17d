"""Stands in a relayed session where a level has statement rules or a budget. Elsewhere there is none, and no cost.

A refused statement is not answered here: what goes to the server in its place is a text that no server can parse, so
that the server itself fails at that very point, in its own order, inside or outside a transaction, and skips to the
next Sync where the protocol says so. Its ErrorResponse, known by a word that nobody can guess, is exchanged for ours.
Since SQL reaches a server in Query and Parse only, a prepared statement needs no second look, whatever its name.

A statement that has used up its budget is told so at once; the rest of its answer is kept from the client up to the
ReadyForQuery, while the edge has it cancelled.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_messages import HEADER, Report, error_response, message, parse_fields
from gateway.wire.postgres_portals import Portals

Judge = Callable[[bytes], Report | None]
CANCELED = "57014"
_SESSION_OVER = Report("FATAL", "53400", "the session is over")
MOST_PENDING = 10_000  # refusals that the server has not answered yet
LONGEST_ERROR = 1 << 20
_UNPACK = HEADER.unpack_from
_HEAD = HEADER.size
_QUERY, _PARSE, _CALL, _BIND, _EXECUTE, _SYNC = b"QPFBES"
_ERROR, _READY, _SUSPENDED, _SETTING = b"EZsS"
_COUNTED = frozenset(b"DdVN")  # each as a row: rows, COPY, what a function call gives, notices (RAISE tells anything)
_RUNS = frozenset((_QUERY, _BIND, _EXECUTE, _CALL))  # to bind is to plan, with immutable functions run
_WHOLE = frozenset(b"EZS")  # read here
_APART = frozenset(b"AS")  # notifications and settings belong to no statement


class Refusals:
    """What stands in for refused statements, and what the client is told about each."""

    def __init__(self, nonce: str) -> None:
        """`nonce`: at least 16 characters of [a-z0-9] that nobody can guess."""
        self._word = f"gw_refused_{nonce}_"
        self._number = 0
        self._reports: dict[int, Report] = {}

    def stand_in(self, report: Report) -> bytes:
        """A text that fails to parse."""
        self._number += 1
        self._reports[self._number] = report
        if len(self._reports) > MOST_PENDING:
            del self._reports[next(iter(self._reports))]
        return f"{self._word}{self._number}".encode()

    def is_one(self, sql: bytes) -> bool:
        """True for what `stand_in` makes, which says nothing that could be judged."""
        word = self._word.encode()
        return sql.startswith(word) and sql[len(word) :].isdigit()

    def known(self, fields: dict[str, str]) -> Report | None:
        """The report for the server's error, when it is about a stand-in; those before it were skipped."""
        if not self._reports:
            return None
        _, found, rest = fields.get("M", "").partition(self._word)
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        report = self._reports.pop(int(digits), None) if found and digits and len(digits) < 20 else None
        if report is not None:
            for number in [n for n in self._reports if n < int(digits)]:
                del self._reports[number]
        return report


@dataclass(frozen=True, slots=True)
class PortalRule:
    """`is_indirect` of a text that was judged; `report` tells the client what may not be bound or run."""

    portals: Portals
    is_indirect: Callable[[bytes], bool]
    report: Report


class ClientGate:
    """From the client: whole statements are judged, all else passes as it comes. Lengths were looked at before.

    `has_run`: something that runs has passed; for the edge to take back once the server has answered it all.
    """

    def __init__(
        self, judge: Judge, no_calls: Report | None, refusals: Refusals, portals: PortalRule | None = None
    ) -> None:
        """`no_calls` is told about function calls by number, which cannot be judged; None lets them pass."""
        self._judge = judge
        self._no_calls = no_calls
        self._refusals = refusals
        self._portals = portals
        self._read = frozenset((_QUERY, _PARSE, _CALL, *((_BIND, _EXECUTE, _SYNC) if portals else ())))
        self._held = bytearray()  # of a header, or of a statement that is not whole
        self._wanted = 0
        self._left = 0  # of a body that is under way
        self._drops = False  # that body
        self.has_run = False

    def feed(self, chunk: bytes) -> bytes:
        """What goes to the server now."""
        if self._held:
            self._held += chunk
            if len(self._held) < self._wanted:
                return b""
            chunk = bytes(self._held)
            self._held.clear()
        out: list[bytes] = []
        pos, start = self._under_way(chunk)
        while len(chunk) - pos >= _HEAD:
            kind, length = _UNPACK(chunk, pos)
            stop = pos + 1 + length
            if stop > len(chunk) and self._waits(kind, chunk, pos + _HEAD):
                break
            instead = self._instead(kind, chunk[pos + _HEAD : stop]) if kind in self._read else None
            self.has_run = self.has_run or kind in _RUNS
            if instead is not None:
                out += (chunk[start:pos], instead)
                start = stop
            if stop > len(chunk):
                self._left, self._drops = stop - len(chunk), instead is not None
                stop = len(chunk)
            pos = stop
        self._held += chunk[pos:]
        self._wanted = _HEAD if len(self._held) < _HEAD else self._wanted_of(*_UNPACK(self._held))
        return b"".join((*out, chunk[start:pos]))

    def _waits(self, kind: int, chunk: bytes, body: int) -> bool:
        """True when more of a message must be there before it is judged."""
        if kind == _BIND and self._portals is not None:
            return chunk.count(0, body) < 2  # two names; how long they may be was looked at before
        return kind in (_QUERY, _PARSE) or (kind == _EXECUTE and self._portals is not None)

    def _wanted_of(self, kind: int, length: int) -> int:
        return len(self._held) + 1 if kind == _BIND else 1 + length

    def _under_way(self, chunk: bytes) -> tuple[int, int]:
        """(where the next message begins, where what passes begins)."""
        taken = min(self._left, len(chunk))
        self._left -= taken
        return taken, taken if self._drops and taken else 0

    def _instead(self, kind: int, body: bytes) -> bytes | None:
        if kind == _CALL:
            if self._no_calls is None:
                return None
            return message(b"Q", self._refusals.stand_in(self._no_calls) + b"\0")
        if kind == _QUERY:
            report = self._judge(body[: body.find(0)])
            return None if report is None else message(b"Q", self._refusals.stand_in(report) + b"\0")
        if kind == _PARSE:
            return self._instead_of_parse(body)
        return self._instead_of_run(kind, body, self._portals) if self._portals is not None else None

    def _instead_of_parse(self, body: bytes) -> bytes | None:
        name, sql, _ = body.split(b"\0", 2)
        report = self._judge(sql)
        if report is not None:
            return self._parse(name, report)
        if self._portals is not None:
            self._portals.portals.parse(name, is_indirect=self._portals.is_indirect(sql))
        return None

    def _instead_of_run(self, kind: int, body: bytes, rule: PortalRule) -> bytes | None:
        if kind == _SYNC:
            rule.portals.sync()
            return None
        first, _, rest = body.partition(b"\0")
        if kind == _BIND:
            may = rule.portals.may_bind(first, rest.partition(b"\0")[0])
        else:
            may = rule.portals.may_execute(first, rest)
        return None if may else self._parse(b"", rule.report)

    def _parse(self, name: bytes, report: Report) -> bytes:
        return message(b"P", name + b"\0" + self._refusals.stand_in(report) + b"\0\0\0")


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many rows and bytes may pass; None is any."""

    rows: int | None = None
    bytes: int | None = None

    def exceeded(self, rows: int, size: int) -> str:
        """`rows`, `bytes`, or "" while there is room."""
        if self.rows is not None and rows > self.rows:
            return "rows"
        return "bytes" if self.bytes is not None and size > self.bytes else ""


class TargetGate:
    """From the server. `feed` gives what the account is told and what the client sees: the same object as a rule.

    `over_statement` and `over_session` say what was used up, for the edge to take and act upon; `encoding` what the
    server has last said that the client's is, and `is_ready` that it has said all: it tells of settings in front of a
    ReadyForQuery (PostgreSQL 14 and newer).
    """

    def __init__(
        self, refusals: Refusals, statement: Allowance, session: Allowance, report: Callable[[str], Report]
    ) -> None:
        """`report` makes what a client is told whose statement has used up its `rows`, `bytes` or `time`."""
        self._refusals = refusals
        self._statement = statement
        self._session = session
        self._report = report
        self._held = b""  # of a header, or of an error
        self._left = 0  # of a body that is under way
        self._shows_rest = True  # that body is one for the client
        self._cut: Report | None = None  # the statement under way is cut, and the client was told
        self._due: Report | None = None  # to be cut at the next boundary
        self._is_fetched_in_parts = False
        self._rows = self._size = self._all_rows = self._all_size = 0
        self._apart = self._apart_size = 0  # notifications, and settings' bytes, since the last ReadyForQuery
        self.over_statement = ""
        self.over_session = ""
        self.encoding = ""
        self.is_ready = False
        self.readies = 0  # ReadyForQuery messages so far

    @property
    def is_cutting(self) -> bool:
        """True from a cut to the ReadyForQuery behind it."""
        return self._cut is not None or self._due is not None

    @property
    def is_within_shown(self) -> bool:
        """True while the client has a part of a message."""
        return bool(self._left) and self._shows_rest

    def cut(self, what: str) -> bytes:
        """Cut the statement under way; what the client is to be told now, nothing while a message is under way."""
        if self.is_cutting:
            return b""
        report = self._report(what)
        if self._left or self._held:
            self._due = report
            return b""
        self._cut = report
        return error_response(report)

    def feed(self, chunk: bytes) -> tuple[bytes, bytes]:
        """(told, shown)."""
        chunk, self._held = self._held + chunk if self._held else chunk, b""
        pos = min(self._left, len(chunk))
        self._left -= pos
        out = _Out(chunk, pos, is_hidden=not self._shows_rest)
        while len(chunk) - pos >= _HEAD:
            kind, length = _UNPACK(chunk, pos)
            stop = pos + 1 + length
            if length < 4:
                break  # the account ends the session
            if kind in _WHOLE and stop > len(chunk):
                if length > LONGEST_ERROR:
                    raise ProtocolViolation("the target sent a message of an impossible length")
                break
            self._message(kind, chunk, pos, stop, out)
            if stop > len(chunk):
                self._left = stop - len(chunk)
                stop = len(chunk)
            pos = stop
        if len(chunk) - pos >= _HEAD and _UNPACK(chunk, pos)[1] < 4:
            out.through(len(chunk))
        else:
            out.through(pos)
            self._held = chunk[pos:]
        return out.result()

    def _message(self, kind: int, chunk: bytes, pos: int, stop: int, out: "_Out") -> None:
        if self._due is not None and kind not in _APART:
            self._cut, self._due = self._due, None
            out.insert(pos, error_response(self._cut))
        self.is_ready = kind == _READY or (self.is_ready and kind in _APART)
        if kind in _COUNTED and self._cut is None:
            self._count(stop - pos - _HEAD, pos, out)
        elif kind in _APART:
            self._count_apart(kind != _SETTING, stop - pos - _HEAD)
        elif kind == _SUSPENDED:
            self._is_fetched_in_parts = True
        elif kind == _READY:
            self._ready(chunk[pos + _HEAD : stop])
        if kind == _SETTING:
            self._set(chunk[pos + _HEAD : stop])
        # Behind a session's last row nothing is shown but the edge's last words: in front of a ReadyForQuery they are
        # the answer to what was asked, behind it many clients take no notice of them.
        self._shows_rest = not self.over_session and (self._cut is None or kind in _APART)
        out.hide_from(pos, is_hidden=not self._shows_rest)
        if kind == _ERROR:
            self._failed(chunk, pos, stop, out)

    def _count(self, size: int, pos: int, out: "_Out") -> None:
        self._rows += 1
        self._size += size
        if self._is_session_over():
            return
        over = self._statement.exceeded(self._rows, self._size)
        if over:
            self.over_statement = over
            self._cut = self._report(over)
            out.insert(pos, error_response(self._cut))

    def _is_session_over(self, over: str = "") -> bool:
        over = over or self._session.exceeded(self._all_rows + self._rows, self._all_size + self._size)
        if over:
            self.over_session = self.over_session or over
            self._cut = _SESSION_OVER  # the edge says the last words
        return bool(over)

    def _count_apart(self, rows: int, size: int) -> None:
        """There is no statement to cut: when they are more than one may take, too, the session is over."""
        self._apart += rows
        self._apart_size += size
        self._all_rows += rows
        self._all_size += size
        self._is_session_over(self._statement.exceeded(self._apart, self._apart_size))

    def _failed(self, chunk: bytes, pos: int, stop: int, out: "_Out") -> None:
        fields = parse_fields(chunk[pos + _HEAD : stop])
        report = self._refusals.known(fields)
        if report is None and self._cut is not None and fields.get("C") == CANCELED:
            report = self._cut
        if report is None and self._cut is None:
            report = self._too_long(stop - pos - _HEAD, pos, out)
        if report is not None:
            out.exchange(pos, stop, error_response(report))

    def _too_long(self, size: int, pos: int, out: "_Out") -> Report | None:
        """What is told in place of an error that is more than may be taken: a cast quotes what it is given."""
        self._size += size
        if self._is_session_over():
            out.hide_from(pos, is_hidden=True)
            return None
        over = self._statement.exceeded(self._rows, self._size)
        return self._report(over) if over else None

    def _set(self, body: bytes) -> None:
        name, _, value = body.partition(b"\0")
        if name == b"client_encoding":
            self.encoding = value.rstrip(b"\0").decode("ascii", "replace")

    def _ready(self, body: bytes) -> None:
        self.readies += 1
        self._cut = self._due = None
        self._apart = self._apart_size = 0
        # A portal that is fetched in parts is one statement, until nothing can be left of it.
        if body == b"I" or not self._is_fetched_in_parts:
            self._all_rows += self._rows
            self._all_size += self._size
            self._rows = self._size = 0
            self._is_fetched_in_parts = False


class _Out:
    """Pieces of a chunk as they are told and shown; costs nothing while both are the chunk itself."""

    def __init__(self, chunk: bytes, pos: int, *, is_hidden: bool) -> None:
        self._chunk = chunk
        self._told: list[bytes] = []
        self._shown: list[bytes] = []
        self._start = 0
        self._end = pos
        self._is_hidden = is_hidden

    def hide_from(self, pos: int, *, is_hidden: bool) -> None:
        if is_hidden != self._is_hidden:
            self._take(pos)
            self._is_hidden = is_hidden

    def insert(self, pos: int, words: bytes) -> None:
        """Shown only: the account hears of it from the server."""
        self._take(pos)
        self._shown.append(words)

    def exchange(self, pos: int, stop: int, words: bytes) -> None:
        self._take(pos)
        self._told.append(words)
        if not self._is_hidden:
            self._shown.append(words)
        self._start = stop

    def through(self, end: int) -> None:
        self._end = end

    def result(self) -> tuple[bytes, bytes]:
        if not self._told and not self._shown and not self._is_hidden and self._start == 0:
            whole = self._chunk if self._end == len(self._chunk) else self._chunk[: self._end]
            return whole, whole
        self._take(self._end)
        return b"".join(self._told), b"".join(self._shown)

    def _take(self, pos: int) -> None:
        piece = self._chunk[self._start : pos]
        self._start = max(pos, self._start)
        self._told.append(piece)
        if not self._is_hidden:
            self._shown.append(piece)
