"""What is kept of COMMITs that are held."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from gateway.core.dry_run import Confirm
from gateway.core.held_commit import HeldCommit
from gateway.core.written import Under, Write


class HeldCommits(Protocol):
    """One for each session at most: that of the transaction in which it is."""

    def get(self, session_id: str) -> HeldCommit | None: ...
    def put(self, held: HeldCommit) -> None:
        """In place of what was held before."""
        ...

    def of_ended(self, limit: int) -> Sequence[HeldCommit]:
        """So many of sessions that are over."""
        ...

    def remove(self, session_id: str, tx: int) -> bool:
        """The transaction is over; False when nothing of it was held."""
        ...


class Asking(NamedTuple):
    """What a door asks about: the transaction's number, the mark of what was written in it, and what that is; the
    first settings under which it was written, and how often they became others.
    """

    tx: int
    mark: str
    confirm: Confirm
    statements: int
    rows: int
    writes: Sequence[Write]
    under: Sequence[Under] = ()
    changes: int = 0


class Told(NamedTuple):
    """The answer. `is_refused`: nobody needs to be asked again. `by` and `reason` of whoever answered."""

    may_pass: bool
    is_refused: bool = False
    by: str = ""
    reason: str = ""
    waits: str = ""  # why nobody was asked, in a sentence
