"""What verification says: findings about single events or about the log as a whole."""

from dataclasses import dataclass, field
from enum import StrEnum

from gateway.audit.checkpoint import Checkpoint


class Fault(StrEnum):
    """What is wrong. The first six concern one event, the others the log as a whole."""

    CHANGED = "changed"
    REMOVED = "removed"
    REORDERED = "reordered"
    INSERTED = "inserted"
    CUT = "cut"
    MALFORMED = "malformed"
    CHECKPOINT = "checkpoint"
    ROLLBACK = "rollback"
    REWRITTEN = "rewritten"
    TILE = "tile"
    RECEIPT = "receipt"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. `index` is the first event concerned (None: no single one), `event` its id ("" when unknown)."""

    fault: Fault
    sentence: str
    index: int | None = None
    event: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """One entry as it was seen: its leaf hash and event id. An auditor keeps them for the next time."""

    hash: bytes
    id: str


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome. `findings` are sorted by index; `note` is the signed checkpoint as served.

    `witnesses` are names, each with when it cosigned (unix seconds). `newest_at` is when the last event happened, by
    the gateway's clock; "" in an empty log. An old log verifies as well as a new one: only these tell them apart.
    """

    findings: tuple[Finding, ...]
    checkpoint: Checkpoint | None = None
    note: str = ""
    witnesses: tuple[tuple[str, int], ...] = ()
    entries: tuple[Seen, ...] = field(default=(), repr=False)
    newest_at: str = ""

    @property
    def is_verified(self) -> bool:
        """True when every check held."""
        return self.checkpoint is not None and not self.findings

    @property
    def first(self) -> Finding | None:
        """The first event concerned, or else the first fault."""
        return self.findings[0] if self.findings else None
