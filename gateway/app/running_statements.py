"""What databases work on for the sessions of this gateway, kept in the store for whoever asks any gateway.

Only what has run for a moment is told, so that busy sessions cost nothing. The text is sealed: statements hold what
nobody wants to find in a database's backup.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.app import journal
from gateway.app.context import Context
from gateway.app.list_access import is_a_look_each
from gateway.app.statement_ports import Statement
from gateway.core.principal import Machine, User
from gateway.core.session import Running, Session

TOLD_AFTER = timedelta(milliseconds=500)
LONGEST = 1000  # bytes of its text
_MOST_NAMED = 50


@dataclass(frozen=True, slots=True)
class Shown:
    """What a person sees of a statement that runs; `sql` is its head, "" where it cannot be shown."""

    n: int
    kind: str
    since: datetime
    sql: str


class RunningStatements:
    """Remembers what was stored last; one per process."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}

    def tick(self, ctx: Context) -> None:
        """Store what has changed. Called about once a second."""
        now = {session_id: ctx.live.statement(session_id) for session_id in ctx.live.ids()}
        slow = {of: told for of, told in now.items() if told is not None and told.age >= TOLD_AFTER}
        changed: dict[str, Running | None] = {
            of: self._running(ctx, of, told) for of, told in slow.items() if self._told.get(of) != told.n
        }
        changed |= dict.fromkeys((of for of in self._told if of not in slow), None)
        if changed:
            with ctx.store.begin() as uow:
                uow.sessions.show_running(changed)
        self._told = {of: told.n for of, told in slow.items()}

    @staticmethod
    def _running(ctx: Context, session_id: str, told: Statement) -> Running:
        head = told.sql[:LONGEST]
        sealed = ctx.sealer.seal(head.decode(errors="backslashreplace"), _bound(session_id, told.n))
        # Of a text that was cut, what it does cannot be read off.
        kind = ctx.reader.read(head).facts.kind.value if head and len(told.sql) < LONGEST else ""
        return Running(told.n, kind, ctx.clock.now() - told.age, sealed)


def shown_statements(ctx: Context, user: User | Machine, sessions: Sequence[Session]) -> dict[str, Shown]:
    """What runs in these sessions, which `user` may see; nothing for a machine. Who looks at others' is in the log.

    Where each look at others' takes a proof of its own, that something runs is shown, and not its text.
    """
    running = [session for session in sessions if session.is_live() and session.running is not None]
    if not running or isinstance(user, Machine):
        return {}
    others = [session for session in running if session.holder != user.id]
    places = {(session.target, session.level) for session in others}
    shut = {place for place in places if is_a_look_each(ctx, user, *place)}
    closed = {session.id for session in others if (session.target, session.level) in shut}
    _note(ctx, user, [session for session in others if session.id not in closed])
    return {session.id: _shown(ctx, session, is_open=session.id not in closed) for session in running}


def _note(ctx: Context, user: User, others: Sequence[Session]) -> None:
    if not others:
        return
    data = {
        "sessions": [session.id for session in others[:_MOST_NAMED]],
        "holders": sorted({session.holder_name for session in others})[:_MOST_NAMED],
        "count": len(others),
    }
    journal.confirm_logged(ctx, journal.record(ctx, "statement:shown", principal=user.name, data=data))


def _shown(ctx: Context, session: Session, *, is_open: bool) -> Shown:
    running = session.running
    assert running is not None, "of a session in which something runs"
    try:
        sql = ctx.sealer.unseal(running.sealed, _bound(session.id, running.n)) if is_open else ""
    except ValueError:  # no key is wired, or it has changed
        sql = ""
    return Shown(running.n, running.kind, running.since, sql)


def _bound(session_id: str, n: int) -> str:
    return f"statement {n} of {session_id}"
