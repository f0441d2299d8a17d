"""What `DryRunGate` asks about each statement, and what it is told."""

from collections.abc import Hashable
from enum import IntEnum
from typing import NamedTuple, Protocol, TypeVar

M = TypeVar("M", bound=Hashable)  # what a text means


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
    def question(self) -> bytes:
        """What to ask the server between two rounds, right behind `ready`: made by `question`; empty for none."""
        ...

    def told(self, answer: bytes) -> None:
        """The only value of its only row; ProtocolViolation when it is no answer."""
        ...
