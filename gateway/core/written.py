"""What was written in one transaction, and under which settings: what a yes is given to."""

from hashlib import sha256
from typing import NamedTuple

from gateway.core.session_settings import Settings

MOST_SHOWN = 100  # writes of a transaction
MOST_UNDER = 10  # times that its settings were others


class Write(NamedTuple):
    """One statement that was, or may have been, executed: the head of its text, its digest, its command tag."""

    sql: str
    digest: str
    tag: str  # "failed" where it was not executed, "" where the server does not tell

    @property
    def rows(self) -> int:
        """As the tag tells them. What is behind SELECT or FETCH are the rows shown, which who writes may choose."""
        verb, _, number = self.tag.rpartition(" ")
        if verb.partition(" ")[0] not in _COUNTS_WRITES:
            return 0
        return int(number) if number.isascii() and number.isdigit() and len(number) < 20 else 0


_COUNTS_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "COPY"})  # command tags


class Under(NamedTuple):
    """The settings from the `first` write on, counted from 1; behind the last one: those under which COMMIT runs."""

    first: int
    settings: Settings


class Written:
    """The first of it in words, all of it as a digest."""

    def __init__(self) -> None:
        self.shown: list[Write] = []
        self.under: list[Under] = []
        self.changes = 0  # of settings; the first ones are in `under`
        self.count = 0
        self.rows = 0
        self._last: Settings | None = None
        self._told = 0  # writes whose settings are known
        self._digest = sha256()

    def add(self, write: Write) -> None:
        """In the order of execution."""
        self.count += 1
        self.rows += write.rows
        self._digest.update(f"{len(write.tag)}:{write.tag}{write.digest}\n".encode())
        if len(self.shown) < MOST_SHOWN:
            self.shown.append(write)

    def tell(self, settings: Settings) -> bool:
        """Under which all is that was added since the last time; whether they are others than then."""
        first, self._told = self._told + 1, self.count
        if settings == self._last:
            return False
        self._last = settings
        self.changes += 1
        self._digest.update(f"={first}:{sha256(repr(settings).encode()).hexdigest()}\n".encode())
        if len(self.under) < MOST_UNDER:
            self.under.append(Under(first, settings))
        return True

    def join(self, other: "Written") -> None:
        """All of another's, behind it. Under which settings that is has to be told anew."""
        self.count += other.count
        self.rows += other.rows
        self._digest.update(f"+{other.count}:{other.digest()}\n".encode())
        self.shown += other.shown[: MOST_SHOWN - len(self.shown)]

    def digest(self) -> str:
        """Another for each other sequence of writes, tags, rows and settings."""
        return self._digest.hexdigest()


def mark_of(session: str, tx: int, written: Written) -> str:
    """What a yes is given to: this session's transaction, and all that was written in it so far."""
    return sha256(f"{session}\n{tx}\n{written.count}\n{written.digest()}".encode()).hexdigest()[:32]
