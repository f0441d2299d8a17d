"""Which explicit transaction a statement belongs to, and how each ends: from command tags and ReadyForQuery alone.

Rules:
- ReadyForQuery is the truth: what is open at `I` has ended, and at `T` or `E` there is a transaction.
- The tag ROLLBACK stands for the end of a transaction and for a return to a savepoint alike, so the text decides; where
  it does not, and the next ReadyForQuery does not either, the outcome is unknown. Nothing is ever called committed
  that may have been undone, nor the other way round.
- Warnings of the server (25001, 25P01) are believed only right before the tag that they belong to: functions can raise
  them, too.
"""

import re
from enum import IntEnum
from typing import Final, NamedTuple


class Turn(IntEnum):
    """What a text says of the transaction's end."""

    UNKNOWN = 0
    WHOLE = 1  # COMMIT or ROLLBACK and nothing else
    CHAIN = 2  # the same, and another begins
    SAVEPOINT = 3  # every ROLLBACK in it is one to a savepoint


class Ended(NamedTuple):
    """`n` is the statement that it ended with, 0 for none."""

    tx: int
    outcome: str  # committed, rolled-back, prepared, lost or unknown
    n: int


_BEGINS: Final = frozenset(("BEGIN", "START TRANSACTION"))
TURNS: Final = _BEGINS | {"COMMIT", "ROLLBACK", "PREPARE TRANSACTION"}  # command tags
_IN_ONE, _IN_NONE = "25001", "25P01"  # there is already a transaction; there is none
_SPACE = rb"(?:\s++|--[^\n]*+\n|/\*(?:[^*]|\*(?!/))*+\*/)*+"
_LONE: Final = re.compile(
    _SPACE + rb"(?:commit|end|rollback|abort)(?:\s+(?:work|transaction))?"
    rb"(?:\s+(to)\s[^;]*+|\s+(and\s+chain)|\s+and\s+no\s+chain)?\s*+;?\s*+\Z",
    re.IGNORECASE,
)
_FULL_ROLLBACK: Final = re.compile(rb"\b(?:abort|rollback(?!\s+(?:(?:work|transaction)\s+)?to\s))", re.IGNORECASE)


def turn_of(sql: bytes) -> Turn:
    """Linear in the length of the text, and next to nothing for what has no such word."""
    low = sql.lower()
    is_back = b"rollback" in low or b"abort" in low
    if not is_back and b"commit" not in low and b"end" not in low:
        return Turn.UNKNOWN
    lone = _LONE.match(sql)
    if lone is not None:
        return Turn.SAVEPOINT if lone[1] else Turn.CHAIN if lone[2] else Turn.WHOLE
    return Turn.SAVEPOINT if is_back and not _FULL_ROLLBACK.search(sql) else Turn.UNKNOWN


class Transactions:
    """Those of one session, numbered from 1. `current` is 0 outside one; `ended` is for the caller to take."""

    def __init__(self) -> None:
        self.current = 0
        self.ended: list[Ended] = []
        self.warning = ""
        self._count = 0
        self._may_be_over = False

    def warned(self, head: bytes) -> None:
        """A NoticeResponse, or as much of it as holds its SQLSTATE."""
        told = b"\0" + head
        self.warning = next((code for code in (_IN_ONE, _IN_NONE) if b"\0C%b\0" % code.encode() in told), "")

    def tagged(self, tag: str, turn: Turn, n: int) -> None:
        """One of `TURNS` has come, of statement `n`."""
        warning, self.warning = self.warning, ""
        if tag in _BEGINS:
            if warning != _IN_ONE:
                self._end("unknown", n)  # nothing to end, or what was told of it cannot be
                self._open()
        elif not self.current:
            return
        elif warning == _IN_NONE:
            self._end("rolled-back" if self._may_be_over else "unknown", n)
        elif tag == "PREPARE TRANSACTION":
            self._end("prepared", n)
        elif tag == "COMMIT":
            self._end("unknown" if self._may_be_over else "committed", n)
            self._chain(turn)
        elif turn is Turn.UNKNOWN:
            self._may_be_over = True
        elif turn is not Turn.SAVEPOINT:
            self._end("rolled-back", n)
            self._chain(turn)

    def ready(self, status: bytes, n: int) -> None:
        """What ReadyForQuery says, behind statement `n`."""
        self.warning = ""
        if status == b"I":
            self._end("rolled-back", n)  # its tag would have ended it otherwise: a commit that failed, or a ROLLBACK
            return
        if self._may_be_over:
            self._end("unknown", n)
        if not self.current:
            self._open()

    def lose(self) -> None:
        """The session is over."""
        self._end("lost", 0)

    def _chain(self, turn: Turn) -> None:
        if turn is Turn.CHAIN:
            self._open()

    def _open(self) -> None:
        self._count += 1
        self.current = self._count

    def _end(self, outcome: str, n: int) -> None:
        if self.current:
            self.ended.append(Ended(self.current, outcome, n))
        self.current = 0
        self._may_be_over = False
