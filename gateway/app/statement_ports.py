"""What is asked about the text of a statement."""

from datetime import timedelta
from typing import NamedTuple, Protocol

from gateway.core.statement_facts import UNKNOWN, StatementFacts


class Statement(NamedTuple):
    """What a target works on: number `n` of its session, the head of its text (some hundred bytes), since when."""

    n: int
    sql: bytes
    age: timedelta


class Told(NamedTuple):
    """`fingerprint` is the same for texts that differ in constants alone; "" when unknown."""

    facts: StatementFacts
    fingerprint: str


class StatementReader(Protocol):
    def read(self, sql: bytes) -> Told:
        """By PostgreSQL's own grammar. Never raises: what cannot be read is unknown."""
        ...

    def tree(self, sql: bytes) -> object:
        """The parse tree as JSON values, libpg_query's; None when there is none. Never raises."""
        ...


class ReadsNothing:
    """Stands in where no parser is wired: everything is unknown."""

    def read(self, sql: bytes) -> Told:
        del sql
        return Told(UNKNOWN, "")

    def tree(self, sql: bytes) -> object:
        del sql
        return None
