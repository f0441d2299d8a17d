"""What the names of prepared statements, or of portals, mean to the server, round by round."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from gateway.wire.buffer import ProtocolViolation

MOST_NAMES = 5_000  # prepared statements, and portals, of one session
NAME_BYTES = 63  # the server tells names apart by so many bytes (NAMEDATALEN - 1)

M = TypeVar("M", bound=Hashable)


class Names(Generic[M]):
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
