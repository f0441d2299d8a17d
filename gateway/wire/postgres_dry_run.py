"""Keeps a session in step with its server, round by round, so that each COMMIT can be judged by what was done before.

A round is what one ReadyForQuery answers: a simple query, or messages up to a Sync. What comes behind it waits until
that ReadyForQuery is here, so whoever judges knows the state of the transaction and not only what it should be. Within
a round the server skips everything behind an error: so what a name means that was given in it is known there, and
once the round has failed it may be either.

A COMMIT that is held is not sent: in its place goes the Sync that ends its round, and what the client is told comes
before the ReadyForQuery that answers this. So the transaction stays open, and the client knows.
"""

from collections import deque
from collections.abc import Hashable
from enum import IntEnum
from typing import Generic, NamedTuple, Protocol, TypeVar

from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_messages import HEADER, message

MOST_NAMES = 5_000  # prepared statements, and portals, of one session
NAME_BYTES = 63  # the server tells names apart by so many bytes (NAMEDATALEN - 1)
LONGEST = (1 << 20) + 8192  # bytes of a message that is read here; of a longer one the account ends the session
LONGEST_BIND = 20_000  # bytes of one that is read; names end in so many, for the account allows fewer
LONGEST_TAG = 4096
_UNPACK = HEADER.unpack_from
_HEAD = HEADER.size
_QUERY, _PARSE, _BIND, _EXECUTE, _CLOSE, _SYNC, _CALL, _TERMINATE = b"QPBECSFX"
_ASIDE = frozenset(b"dcfH")  # COPY data, which a server that reads none ignores, and Flush: they begin no round
_WHOLE = frozenset(b"QPEC")
_TAG, _EMPTY, _SUSPENDED, _ERROR, _READY, _COPY_IN = b"CIsEZG"
_READ_WHOLE = frozenset((_TAG, _READY))
_HEARD = frozenset(b"CIsEZG123nT")
_ENDS = {
    ord(asked): frozenset(ends) for asked, ends in (("P", b"1"), ("B", b"2"), ("C", b"3"), ("D", b"nT"), ("E", b"CIs"))
}
MOST_OWED = 100_000  # the account lets a client owe fewer

M = TypeVar("M", bound=Hashable)


class Word(IntEnum):
    """What becomes of a statement."""

    PASS = 0
    REFUSE = 1
    HOLD = 2
    ASK = 3  # the caller finds out whether it may pass, and tells `DryRunGate.answer`


class Said(NamedTuple):
    """`stands_in`: a text that the server fails on, with REFUSE. `names` are given to statements by SQL; `hides`: any
    name may be, to anything, until the transaction is over.
    """

    word: Word
    stands_in: bytes = b""
    names: tuple[bytes, ...] = ()
    hides: bool = False


class Judge(Protocol[M]):
    """What texts mean, and what may be done. The gate calls it in the order in which things happen."""

    def read(self, sql: bytes) -> M:
        """What a text means."""
        ...

    def may_parse(self, meaning: M) -> Said:
        """PASS or REFUSE."""
        ...

    def bound(self, meaning: M, values: bytes | None) -> M:
        """The same with values, as they stand in the Bind; None when they are too long to be looked at."""
        ...

    def query(self, meaning: M) -> Said: ...
    def run(self, meanings: frozenset[M]) -> Said:
        """An Execute of one of these."""
        ...

    def agreed(self, meanings: frozenset[M]) -> None:
        """What was asked about goes on."""
        ...

    def answered(self, tag: str) -> None: ...
    def ready(self, status: bytes, *, has_failed: bool) -> None: ...


class _Names(Generic[M]):
    """What names mean to the server, as far as that is known. Beyond MOST_NAMES the oldest may mean anything."""

    def __init__(self, unknown: frozenset[M], anything: frozenset[M]) -> None:
        self._unknown = unknown
        self._anything = anything
        self._known: dict[bytes, frozenset[M]] = {}
        self._now: dict[bytes, frozenset[M]] = {}  # if nothing in this round has failed; empty where it was closed
        self._any: dict[bytes, frozenset[M]] = {}  # all that a name had in this round, and before
        self.is_hidden = False  # SQL that is not read here may give any name anew

    def look(self, name: bytes) -> frozenset[M]:
        name = name[:NAME_BYTES]
        if not name.isascii():
            return self._anything  # in another client_encoding it may have been spelled otherwise
        known = self._now.get(name) or self._known.get(name) or self._unknown
        return known | self._unknown if self.is_hidden and name else known  # SQL cannot give the empty name

    def give(self, name: bytes, meanings: frozenset[M]) -> None:
        """As it goes on."""
        name = name[:NAME_BYTES]
        self._any[name] = self._any.get(name, self._known.get(name, frozenset())) | meanings
        self._now[name] = meanings
        if len(self._any) > MOST_NAMES:
            raise ProtocolViolation(f"more than {MOST_NAMES:,} prepared statements or portals before a Sync")

    def add(self, name: bytes, meanings: frozenset[M]) -> None:
        """It may be these, too."""
        name = name[:NAME_BYTES]
        self.give(name, self._now.get(name, self._known.get(name, frozenset())) | meanings)

    def close(self, name: bytes) -> None:
        """A Close goes on."""
        self.give(name, frozenset())

    def end_round(self, *, has_failed: bool) -> None:
        for name, meanings in (self._any if has_failed else self._now).items():
            self._known.pop(name, None)  # so that dict order stays the order of their last use
            if meanings:
                self._known[name] = meanings
        self._now.clear()
        self._any.clear()
        if self.is_hidden:
            self._known = {name: known | self._unknown if name else known for name, known in self._known.items()}
        while len(self._known) > MOST_NAMES:
            del self._known[next(iter(self._known))]
            self._unknown = self._anything

    def clear(self) -> None:
        self._known.clear()


class DryRunGate(Generic[M]):
    """`feed` takes what the client sends, `take` gives what may be accounted for and go on, `edited` what of that is
    sent; `answers` is fed what the server sends. Lengths are looked at by the account, behind `take`.
    """

    def __init__(self, judge: Judge[M], prepared: M, cursor: M, anything: frozenset[M]) -> None:
        """`prepared` stands for what SQL has prepared, `cursor` for a portal that SQL has opened, `anything` for what
        may be whatever there is.
        """
        self._judge = judge
        self._prepared = frozenset((prepared,))
        self._statements: _Names[M] = _Names(self._prepared, anything)
        self._portals: _Names[M] = _Names(frozenset((cursor,)), anything)
        self._buffer = bytearray()
        self._left = 0  # of a body that passes
        self._drops_rest = False  # that body
        self._taken = 0  # bytes given so far
        self._sent = 0  # bytes of them that `edited` has seen
        self._edits: deque[tuple[int, int, bytes]] = deque()
        self.is_waiting = False  # for a ReadyForQuery
        self._is_simple = False  # of a simple query
        self._owed: deque[frozenset[int]] = deque()  # what answers the messages that no Sync has ended yet
        self._is_dropping = False  # up to the next Sync, behind a COMMIT that is held
        self._holds = False  # the client is told so before the ReadyForQuery
        self._has_failed = False
        self._asked: frozenset[M] | None = None
        self._answer: bool | None = None
        self._is_blocked = False
        self._heard = b""  # of a message of the server that is read whole
        self._heard_left = 0

    # ------------------------------------------------------------ from the client

    @property
    def is_asking(self) -> bool:
        """True from ASK to `answer`."""
        return self._asked is not None and self._answer is None

    @property
    def is_blocked(self) -> bool:
        """True while bytes of the client wait for anything else than more of them."""
        return self._is_blocked

    def feed(self, chunk: bytes) -> None:
        """The client has sent this."""
        self._buffer += chunk

    def answer(self, *, may_pass: bool) -> None:
        """Of what was asked about: `take` goes on with it."""
        self._answer = may_pass

    def take(self) -> bytes:
        """What goes on now. ProtocolViolation ends the session."""
        buffer, pos = self._buffer, 0
        self._is_blocked = False
        while True:
            if self._left:
                step = min(self._left, len(buffer) - pos)
                self._left -= step
                if self._drops_rest:
                    self._edit(pos, step, b"")
                pos += step
            if self._left or len(buffer) - pos < _HEAD:
                break
            kind, length = _UNPACK(buffer, pos)
            if length < 4 or (kind in _WHOLE and length > LONGEST):
                self._edit(pos, 1 << 60, b"")  # the account finds what is wrong, and nothing of it is sent
                pos = len(buffer)
                break
            step = self._message(kind, 1 + length, pos)
            if not step:
                break
            pos += step
        told = bytes(buffer[:pos])
        del buffer[:pos]
        self._taken += pos
        return told

    def edited(self, chunk: bytes) -> bytes:
        """What is sent for what was taken: the same bytes in the same order, in any pieces."""
        start, self._sent = self._sent, self._sent + len(chunk)
        out: list[bytes] = []
        pos = 0
        while self._edits and self._edits[0][0] < self._sent:
            first, last, words = self._edits[0]
            out += (chunk[pos : max(first - start, pos)], words)
            pos = min(last, self._sent) - start
            if last > self._sent:
                self._edits[0] = (self._sent, last, b"")
                break
            self._edits.popleft()
        return b"".join((*out, chunk[pos:])) if out else chunk

    def _edit(self, pos: int, size: int, words: bytes) -> None:
        self._edits.append((self._taken + pos, self._taken + pos + size, words))

    def _message(self, kind: int, size: int, pos: int) -> int:
        """How many bytes of it go on; 0 when it has to wait."""
        if kind in _ASIDE or kind == _TERMINATE:
            return self._stream(size, pos, drops=self._is_dropping and kind != _TERMINATE)
        if self.is_waiting or self.is_asking:
            self._is_blocked = True
            return 0
        if self._is_dropping and kind != _SYNC:
            return self._stream(size, pos, drops=True)
        if kind in _WHOLE:
            body = bytes(self._buffer[pos + _HEAD : pos + size])
            return self._whole(kind, body, size, pos) if len(body) == size - _HEAD else 0
        if kind == _BIND and not self._bind(size, pos):
            return 0
        if kind == _CALL:
            self._demand_answers()
            self._wait(is_simple=True)
        elif kind == _SYNC:
            self._is_dropping = False
            self._wait(is_simple=False)
        else:
            self._owe(kind)
        return self._stream(size, pos, drops=False)

    def _bind(self, size: int, pos: int) -> bool:
        """False when what is read of it is not there yet."""
        end = pos + min(size, LONGEST_BIND)
        if end > len(self._buffer):
            return False
        names = bytes(self._buffer[pos + _HEAD : end]).split(b"\0", 2)
        if len(names) == 3:
            values = names[2] if size <= LONGEST_BIND else None
            meanings = self._statements.look(names[1])
            self._portals.give(names[0], frozenset(self._judge.bound(each, values) for each in meanings))
        return True

    def _stream(self, size: int, pos: int, *, drops: bool) -> int:
        there = min(size, len(self._buffer) - pos)
        self._left, self._drops_rest = size - there, drops
        if drops:
            self._edit(pos, there, b"")
        return there

    def _wait(self, *, is_simple: bool) -> None:
        self.is_waiting, self._is_simple = True, is_simple

    def _owe(self, kind: int) -> None:
        if kind in _ENDS and not self._has_failed:
            self._owed.append(_ENDS[kind])
            if len(self._owed) > MOST_OWED:
                raise ProtocolViolation(f"more than {MOST_OWED:,} messages before a Sync")

    def _demand_answers(self) -> None:
        """A server that skips to a Sync would skip this as well, and say nothing."""
        if self._owed or self._has_failed:
            raise ProtocolViolation("a simple query comes behind a Sync at a level with dry_run")

    def _whole(self, kind: int, body: bytes, size: int, pos: int) -> int:
        if kind == _QUERY:
            self._demand_answers()
            return size if self._query(body, size, pos) else 0
        if kind == _EXECUTE:
            if not self._execute(body, size, pos):
                return 0
        elif kind == _PARSE:
            self._parse(body, size, pos)
        else:
            names = self._statements if body[:1] == b"S" else self._portals
            names.close(body[1:].partition(b"\0")[0])
        self._owe(kind)
        return size

    def _query(self, body: bytes, size: int, pos: int) -> bool:
        meaning = self._judge.read(body[: body.find(0)])
        said = self._judge.query(meaning) if self._answer is None else self._answered(frozenset((meaning,)))
        if said.word is Word.ASK:
            return self._ask(frozenset((meaning,)))
        if said.word is Word.REFUSE:
            self._edit(pos, size, message(b"Q", said.stands_in + b"\0"))
        elif said.word is Word.HOLD:
            self._edit(pos, size, message(b"S", b""))
            self._holds = True
        self._name(said)
        self._wait(is_simple=said.word is not Word.HOLD)
        return True

    def _execute(self, body: bytes, size: int, pos: int) -> bool:
        meanings = self._portals.look(body[: body.find(0)])
        said = self._judge.run(meanings) if self._answer is None else self._answered(meanings)
        if said.word is Word.ASK:
            return self._ask(meanings)
        if said.word is Word.REFUSE:
            self._edit(pos, size, message(b"P", b"\0" + said.stands_in + b"\0\0\0"))
        elif said.word is Word.HOLD:
            self._edit(pos, size, b"")
            self._is_dropping = self._holds = True
        self._name(said)
        return True

    def _ask(self, meanings: frozenset[M]) -> bool:
        self._asked, self._is_blocked = meanings, True
        return False

    def _answered(self, meanings: frozenset[M]) -> Said:
        """To what was asked: the very message that still stands first."""
        may_pass, self._answer, self._asked = self._answer, None, None
        if may_pass:
            self._judge.agreed(meanings)
        return Said(Word.PASS if may_pass else Word.HOLD)

    def _name(self, said: Said) -> None:
        for name in said.names:
            self._statements.add(name, self._prepared)
        if said.hides:
            self._statements.is_hidden = self._portals.is_hidden = True

    def _parse(self, body: bytes, size: int, pos: int) -> None:
        name, sql, _ = (*body.split(b"\0", 2), b"", b"")[:3]
        meaning = self._judge.read(sql)
        said = self._judge.may_parse(meaning)
        if said.word is Word.REFUSE:
            self._edit(pos, size, message(b"P", name + b"\0" + said.stands_in + b"\0\0\0"))
        else:
            self._statements.give(name, frozenset((meaning,)))

    # ------------------------------------------------------------ from the server

    def answers(self, chunk: bytes) -> list[bytes | None]:
        """The same in pieces; None stands where the client has to be told that its COMMIT is held."""
        if self._heard:
            chunk, self._heard = self._heard + chunk, b""
        pos = min(self._heard_left, len(chunk))
        self._heard_left -= pos
        pieces: list[bytes | None] = []
        start = 0
        while len(chunk) - pos >= _HEAD:
            kind, length = _UNPACK(chunk, pos)
            if length < 4:
                pos = len(chunk)  # the account ends the session
                break
            stop = pos + 1 + length
            if kind in _READ_WHOLE:
                if length > LONGEST_TAG:
                    raise ProtocolViolation("the target sent a message of an impossible length")
                if stop > len(chunk):
                    break
            body = chunk[pos + _HEAD : stop] if kind in _READ_WHOLE else b""
            if kind in _HEARD and self._hear(kind, body):
                pieces += (chunk[start:pos], None)
                start = pos
            self._heard_left = max(0, stop - len(chunk))
            pos = min(stop, len(chunk))
        self._heard = chunk[pos:]
        return [*pieces, chunk[start:pos]]

    def _hear(self, kind: int, body: bytes) -> bool:
        """True when the client has to be told something in front of it."""
        if self._owed and kind in self._owed[0]:
            self._owed.popleft()
        if kind == _ERROR:
            self._has_failed = True
            self._owed.clear()
        elif kind == _TAG:
            self._judge.answered(body.partition(b"\0")[0].decode(errors="backslashreplace"))
        elif kind in (_EMPTY, _SUSPENDED):
            self._judge.answered("")
        elif kind == _COPY_IN and not self._is_simple:
            raise ProtocolViolation("COPY … FROM STDIN comes in a simple query at a level with dry_run")
        elif kind == _READY:
            return self._end_round(body[:1])
        return False

    def _end_round(self, status: bytes) -> bool:
        if not self.is_waiting:
            raise ProtocolViolation("the target said that it was ready when it was not asked")
        has_failed, is_held = self._has_failed, self._holds and not self._has_failed
        self._judge.ready(status, has_failed=has_failed)
        self._statements.end_round(has_failed=has_failed)
        self._portals.end_round(has_failed=has_failed)
        if status == b"I":
            self._portals.clear()
            self._statements.is_hidden = self._portals.is_hidden = False
        self._owed.clear()
        self.is_waiting = self._has_failed = self._holds = False
        return is_held
