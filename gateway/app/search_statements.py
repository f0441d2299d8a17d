"""What was said to databases, across all sessions: for those who may read the audit log."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.app import journal
from gateway.app.authorise import authorise
from gateway.app.context import Context
from gateway.app.shreds import shredded_among
from gateway.core.decision import Action, Facts
from gateway.core.errors import Refusal, Unavailable
from gateway.core.principal import User

MOST = 1000
LONGEST_TEXT = 1000
_UNREADABLE = Refusal(
    "index-unreadable",
    "The index of statements cannot be read.",
    next_steps=("If it is damaged, it is made anew when the gateway starts again; the recordings are not concerned.",),
)


@dataclass(frozen=True, slots=True)
class StatementQuery:
    """What to look for; empty fields match everything. `text` is part of a statement, case-insensitively."""

    text: str = ""
    target: str = ""
    principal: str = ""
    session: str = ""
    since: datetime | None = None
    limit: int = 100
    kind: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class FoundStatement:
    """One statement of one session. What it returned is None until it has: `bytes` of rows, `ms` from first to last.

    `kind` is a StatementKind, `fingerprint` what texts share that differ in constants alone; "" while not known.
    `tx` numbers the explicit transactions of a session (0: none), `outcome` is how that one ended; "" while it is open.
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
    kind: str = ""
    fingerprint: str = ""
    tx: int = 0
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """`incomplete` are sessions that are not all indexed yet, being too busy, or because the index is new."""

    statements: Sequence[FoundStatement]
    incomplete: frozenset[str]


class IndexUnreadable(Exception):
    """It is damaged, or its disk fails. The recordings are not concerned."""


class StatementSearch(Protocol):
    """An index over recordings."""

    def search(self, query: StatementQuery) -> Sequence[FoundStatement]:
        """Newest first; IndexUnreadable."""
        ...

    def behind(self) -> frozenset[str]:
        """Sessions whose statements are not all there yet."""
        ...


def search_statements(
    ctx: Context,
    index: StatementSearch,
    user: User,
    *,
    text: str = "",
    target: str = "",
    principal: str = "",
    session: str = "",
    since: datetime | None = None,
    limit: int = 100,
    kind: str = "",
    fingerprint: str = "",
) -> Findings:
    """Who searches for what is in the log before the answer is given. Raises Denied, Unavailable."""
    authorise(ctx, user, Action.AUDIT, None, Facts(ctx.clock.now()))
    query = StatementQuery(
        text[:LONGEST_TEXT], target, principal, session, since, max(1, min(limit, MOST)), kind, fingerprint
    )
    data = {
        "in": "statements",
        "text": query.text,
        "target": target[:200],
        "principal": principal[:200],
        "session": session[:200],
        "kind": kind,
        "fingerprint": fingerprint[:200],
        "since": since.isoformat() if since else "",
    }
    noted = journal.record(ctx, "audit:searched", principal=user.name, data=data)
    journal.confirm_logged(ctx, noted)
    try:
        found, behind = index.search(query), index.behind()
    except IndexUnreadable as error:
        raise Unavailable(_UNREADABLE) from error
    gone = shredded_among(ctx, {each.session for each in found})  # of an old copy of the index, or of a key
    return Findings([each for each in found if each.session not in gone], behind)
