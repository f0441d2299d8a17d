"""The shapes of what auditors read: events, and statements found in recordings."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from gateway.app.search_statements import FoundStatement
from gateway.edges.http.schemas import Schema


class EventOut(Schema):
    """One event of the audit log. `index` is its place in the tree, null until it is sequenced."""

    index: int | None
    id: str
    at: datetime
    type: str
    source: str
    outcome: str
    principal: str
    target: str
    request: str
    grant: str
    session: str
    data: dict[str, Any]


class StatementOut(Schema):
    """One statement of a session. What it returned is null until it has; `ms` from first to last byte.

    `kind` and `fingerprint` are "" until the index has read the text. `tx` is the number of its explicit transaction
    in the session, 0 without one; `outcome` committed, rolled-back, prepared, lost or unknown, "" while it is open.
    """

    session: str
    n: int
    at: datetime
    sql: str
    tag: str | None
    rows: int | None
    bytes: int | None
    ms: float | None
    sqlstate: str | None
    target: str
    principal: str
    kind: str
    fingerprint: str
    tx: int
    outcome: str

    @classmethod
    def of(cls, found: FoundStatement) -> "StatementOut":
        """Rendered."""
        return cls(**asdict(found))


class StatementsOut(Schema):
    statements: list[StatementOut]
    incomplete: list[str]
    incomplete_count: int
