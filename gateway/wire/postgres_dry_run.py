"""Keeps a session in step with its server, round by round, so that each COMMIT can be judged by what was done before.

A round is what one ReadyForQuery answers: a simple query, or messages up to a Sync. What comes behind it waits until
that ReadyForQuery is here, so whoever judges knows the state of the transaction and not only what it should be. Within
a round the server skips everything behind an error: so what a name means that was given in it is known there, and
once the round has failed it may be either.

A COMMIT that is held is not sent: in its place goes the Sync that ends its round, and what the client is told comes
before the ReadyForQuery that answers this. So the transaction stays open, and the client knows.

Whoever judges may have a question of their own between two rounds. The client hears nothing of it but the ReadyForQuery
behind it, in place of its own, and an error: the transaction has failed then.
"""

from collections import deque
from enum import IntEnum
from typing import Generic

from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_judge import Judge, M, Said, Word
from gateway.wire.postgres_messages import HEADER, message
from gateway.wire.postgres_names import Names
from gateway.wire.postgres_question import ANSWERS

LONGEST = (1 << 20) + 8192  # bytes of a message that is read here; of a longer one the account ends the session
LONGEST_BIND = 20_000  # bytes of one that is read; names end in so many, for the account allows fewer
LONGEST_TAG = 4096
LONGEST_ANSWER = 1 << 16  # bytes of a message that answers a question of our own
_UNPACK = HEADER.unpack_from
_HEAD = HEADER.size
_QUERY, _PARSE, _BIND, _EXECUTE, _CLOSE, _SYNC, _CALL, _TERMINATE = b"QPBECSFX"
_ASIDE = frozenset(b"dcfH")  # COPY data, which a server that reads none ignores, and Flush: they begin no round
_WHOLE = frozenset(b"QPEC")
_TAG, _EMPTY, _SUSPENDED, _ERROR, _READY, _COPY_IN = b"CIsEZG"
_READ_WHOLE = frozenset((_TAG, _READY))
_HEARD = frozenset(b"CIsEZG123nT")
_ROW = ord("D")
_FOR_ALL = frozenset(b"ENSA")
_ENDS = {
    ord(asked): frozenset(ends) for asked, ends in (("P", b"1"), ("B", b"2"), ("C", b"3"), ("D", b"nT"), ("E", b"CIs"))
}
_FLUSH = message(b"H", b"")
MOST_OWED = 100_000  # the account lets a client owe fewer


class _Fate(IntEnum):
    """What becomes of a message of the server."""

    GOES_ON = 0
    GOES_BEHIND = 1  # what the client has to be told of its COMMIT
    STAYS = 2


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
        self._statements: Names[M] = Names(self._prepared, anything)
        self._portals: Names[M] = Names(frozenset((cursor,)), anything)
        self._buffer = bytearray()
        self._left = 0  # of a body that passes
        self._drops_rest = False  # that body
        self._taken = 0  # bytes given so far
        self._sent = 0  # bytes of them that `edited` has seen
        self._edits: deque[tuple[int, int, bytes]] = deque()
        self.is_waiting = False  # for a ReadyForQuery
        self._is_simple = False  # of a simple query
        self._owed: deque[frozenset[int]] = deque()  # what answers the messages that no Sync has ended yet
        self._wants_flush = self._has_flushed = False  # what is owed
        self._is_dropping = False  # up to the next Sync, behind a COMMIT that is held
        self._holds = False  # the client is told so before the ReadyForQuery
        self._has_failed = False
        self._asked: frozenset[M] | None = None
        self._answer: bool | None = None
        self._is_blocked = False
        self.question = b""  # for the caller to send, by `take_question`
        self._is_question_open = False  # a question of our own, up to the ReadyForQuery that answers it
        self._row: bytes | None = None  # of the answer
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

    @property
    def is_asked(self) -> bool:
        """True while there is a question of our own, or its answer has not come."""
        return self._is_question_open

    @property
    def is_within(self) -> bool:
        """True while a message of the client has been given in part."""
        return bool(self._left)

    def answer(self, *, may_pass: bool) -> None:
        """Of what was asked about: `take` goes on with it."""
        self._answer = may_pass

    def take(self) -> bytes:
        """What goes on now, and maybe a Flush behind it. ProtocolViolation ends the session."""
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
        if self._wants_flush and not self._has_flushed:
            told += _FLUSH
            self._has_flushed = True
        self._wants_flush = False
        self._taken += len(told)
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
            if not self._has_answers():
                return 0
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
            self._has_flushed = False
            if len(self._owed) > MOST_OWED:
                raise ProtocolViolation(f"more than {MOST_OWED:,} messages before a Sync")

    def _has_answers(self) -> bool:
        """To all that a simple query follows without a Sync (pgjdbc sends BEGIN so): a server that skips to one would
        skip the query as well, and say nothing. Where they have not come a Flush asks for them. Close does not fail.
        """
        if self._has_failed:
            raise ProtocolViolation("a simple query comes behind a Sync at a level with dry_run")
        if all(owed is _ENDS[_CLOSE] for owed in self._owed):
            return True
        self._wants_flush = self._is_blocked = True
        return False

    def _whole(self, kind: int, body: bytes, size: int, pos: int) -> int:
        if kind == _QUERY:
            return size if self._has_answers() and self._query(body, size, pos) else 0
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
            is_whole = kind in _READ_WHOLE or self._is_question_open
            if is_whole:
                if length > (LONGEST_ANSWER if self._is_question_open else LONGEST_TAG):
                    raise ProtocolViolation("the target sent a message of an impossible length")
                if stop > len(chunk):
                    break
            fate = self._hear(kind, chunk[pos + _HEAD : stop] if is_whole else b"")
            if fate is not _Fate.GOES_ON:
                pieces.append(chunk[start:pos])
                start = stop if fate is _Fate.STAYS else pos
            if fate is _Fate.GOES_BEHIND:
                pieces.append(None)
            self._heard_left = max(0, stop - len(chunk))
            pos = min(stop, len(chunk))
        self._heard = chunk[pos:]
        return [*pieces, chunk[start:pos]]

    def take_question(self) -> bytes:
        """It is being sent."""
        question, self.question = self.question, b""
        return question

    def _hear(self, kind: int, body: bytes) -> _Fate:
        if self._is_question_open:
            return self._hear_answer(kind, body)
        if kind not in _HEARD:
            return _Fate.GOES_ON
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
        return _Fate.GOES_ON

    def _end_round(self, status: bytes) -> _Fate:
        if not self.is_waiting:
            raise ProtocolViolation("the target said that it was ready when it was not asked")
        has_failed = self._has_failed
        self._holds = self._holds and not has_failed
        self._judge.ready(status, has_failed=has_failed)
        self._statements.end_round(has_failed=has_failed)
        self._portals.end_round(has_failed=has_failed)
        if status == b"I":
            self._portals.clear()
            self._statements.is_hidden = self._portals.is_hidden = False
        self._owed.clear()
        self._has_failed = False
        self.question = self._judge.question()
        if self.question:
            self._is_question_open = True
            return _Fate.STAYS
        return self._go_on()

    def _hear_answer(self, kind: int, body: bytes) -> _Fate:
        if kind == _ROW:
            self._row = body[6:]  # behind the number of columns and the length of the first
        elif kind == _ERROR:
            self._row = None
        elif kind == _READY and not self.question:
            return self._end_answer(body[:1])
        if kind not in _FOR_ALL and (kind not in ANSWERS or self.question):
            raise ProtocolViolation("the target answers what it was not asked")
        return _Fate.STAYS if kind in ANSWERS else _Fate.GOES_ON

    def _end_answer(self, status: bytes) -> _Fate:
        row, self._row, self._is_question_open = self._row, None, False
        if status == b"T" and row is not None:
            self._judge.told(row)
        elif status == b"E":
            self._judge.ready(status, has_failed=False)
            self._holds = False  # COMMIT would be a ROLLBACK now, and the client has heard of an error
        else:
            raise ProtocolViolation("the target gave no answer")
        return self._go_on()

    def _go_on(self) -> _Fate:
        holds = self._holds
        self.is_waiting = self._holds = False
        return _Fate.GOES_BEHIND if holds else _Fate.GOES_ON
