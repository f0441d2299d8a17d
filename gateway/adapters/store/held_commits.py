"""COMMITs that are held, in the store: what was written is sealed."""

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, update

from gateway.adapters.store.prepared import Found
from gateway.adapters.store.rows import Columns, columns_of
from gateway.adapters.store.tables import HELD_COMMITS, SESSIONS
from gateway.adapters.store.transaction import Transaction
from gateway.core.dry_run import Confirm
from gateway.core.held_commit import HeldCommit, HeldState

_C = columns_of(HELD_COMMITS)


class SqlHeldCommits:
    def __init__(self, transaction: Transaction) -> None:
        self._tx = transaction

    def get(self, session_id: str) -> HeldCommit | None:
        row = self._tx.first(select(HELD_COMMITS).where(_C.session == session_id))
        return _held_of(row) if row else None

    def put(self, held: HeldCommit) -> None:
        columns = _columns(held)
        if not self._tx.change(update(HELD_COMMITS).where(_C.session == held.session).values(columns)):
            self._tx.insert(insert(HELD_COMMITS), [columns])

    def of_ended(self, limit: int) -> Sequence[HeldCommit]:
        held = HELD_COMMITS.join(SESSIONS, _C.session == SESSIONS.c.id)
        query = select(HELD_COMMITS).select_from(held).where(SESSIONS.c.ended_at.is_not(None)).order_by(_C.session)
        return [_held_of(row) for row in self._tx.rows(query.limit(limit))]

    def remove(self, session_id: str, tx: int) -> bool:
        return self._tx.change(delete(HELD_COMMITS).where((_C.session == session_id) & (_C.tx == tx))) == 1


def _columns(held: HeldCommit) -> Columns:
    return {
        "session": held.session,
        "tx": held.tx,
        "mark": held.mark,
        "at": held.at,
        "confirm": held.confirm.value,
        "statements": held.statements,
        "rows": held.rows,
        "sealed": held.sealed,
        "state": held.state.value,
        "decided_by": held.decided_by,
        "decided_at": held.decided_at,
        "reason": held.reason,
    }


def _held_of(row: Found) -> HeldCommit:
    return HeldCommit(
        session=row[_C.session],
        tx=row[_C.tx],
        mark=row[_C.mark],
        at=row[_C.at],
        confirm=Confirm(row[_C.confirm]),
        statements=row[_C.statements],
        rows=row[_C.rows],
        sealed=row[_C.sealed],
        state=HeldState(row[_C.state]),
        decided_by=row[_C.decided_by],
        decided_at=row[_C.decided_at],
        reason=row[_C.reason],
    )
