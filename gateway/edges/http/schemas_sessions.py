"""The shapes of sessions: live and over, what they run, and the COMMITs that they hold."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from gateway.app.confirm_commit import HeldView
from gateway.app.running_statements import Shown
from gateway.core.session import Session
from gateway.edges.http.schemas import ReasonIn, Schema


class RunningOut(Schema):
    """What a database works on for a session: the head of its text (at most 1,000 bytes), what it does, since when.

    As of a second ago, and only what takes longer than half a second. `kind` is "" where it is not known.
    """

    n: int
    kind: str
    since: datetime
    sql: str


class CancelIn(ReasonIn):
    """Which statement: its number, so that none but that one is hit; 0 for whatever runs."""

    statement: int = Field(default=0, ge=0, le=2**53)


class SessionOut(Schema):
    """One session. `running` is null while it waits for its person, and to machines."""

    id: str
    grant: str
    holder: str
    target: str
    level: str
    protocol: str
    client: str
    gateway: str
    live: bool
    locked_by: str
    started_at: datetime
    active_at: datetime
    deadline: datetime
    ended_at: datetime | None
    end_reason: str
    end_detail: str
    recording_digest: str
    running: RunningOut | None

    @classmethod
    def of(cls, session: Session, shown: Shown | None = None) -> "SessionOut":
        """Rendered."""
        return cls(
            id=session.id,
            grant=session.grant,
            holder=session.holder_name,
            target=session.target,
            level=session.level,
            protocol=session.protocol.value,
            client=session.client,
            gateway=session.gateway,
            live=session.is_live(),
            locked_by=session.locked_by,
            active_at=session.active_at or session.started_at,
            started_at=session.started_at,
            deadline=session.deadline,
            ended_at=session.ended_at,
            end_reason=session.end_reason.value if session.end_reason else "",
            end_detail=session.end_detail,
            recording_digest=session.recording_digest,
            running=RunningOut(n=shown.n, kind=shown.kind, since=shown.since, sql=shown.sql) if shown else None,
        )


class AnswerIn(ReasonIn):
    """What is said to a COMMIT that is held: `mark` is what the answer is to, so that it is to nothing else."""

    mark: str = Field(max_length=64)
    verdict: Literal["confirm", "refuse"]


class WriteOut(Schema):
    """One statement that wrote: its command tag, the rows that this tells of, and its text (the first 1,000 bytes).

    `tag` is `failed` where the statement was not executed, and "" where the database does not tell.
    """

    sql: str
    tag: str
    rows: int


class UnderOut(Schema):
    """Settings of the session, from write number `first` on; behind the last write: those that COMMIT would have."""

    first: int
    settings: dict[str, str]


class HeldOut(Schema):
    """A COMMIT that is held, and what has been answered. `writes` are the first 100 of `statements`, `under` the first
    10 of the settings under which they ran, which were others `settings_changes` times. The gateway that holds the
    session carries a yes out; `heard_seconds_ago` is null when it is the one that answers here.
    """

    session: str
    holder: str
    target: str
    level: str
    tx: int
    mark: str
    confirm: str
    state: str
    at: datetime
    statements: int
    rows: int
    writes: list[WriteOut]
    under: list[UnderOut]
    settings_changes: int
    decided_by: str
    decided_at: datetime | None
    reason: str
    gateway: str
    heard_seconds_ago: float | None

    @classmethod
    def of(cls, view: HeldView) -> "HeldOut":
        """Rendered."""
        held, session = view.held, view.session
        return cls(
            session=session.id,
            holder=session.holder_name,
            target=session.target,
            level=session.level,
            tx=held.tx,
            mark=held.mark,
            confirm=held.confirm.value,
            state=held.state.value,
            at=held.at,
            statements=held.statements,
            rows=held.rows,
            writes=[WriteOut(sql=write.sql, tag=write.tag, rows=write.rows) for write in view.writes],
            under=[UnderOut(first=under.first, settings=dict(under.settings)) for under in view.under],
            settings_changes=view.changes,
            decided_by=held.decided_by,
            decided_at=held.decided_at,
            reason=held.reason,
            gateway=session.gateway,
            heard_seconds_ago=None if view.silence is None else view.silence.total_seconds(),
        )


class ShreddedOut(Schema):
    """A recording that was destroyed. `order` is the id of the event that ordered it."""

    session: str
    order: str
