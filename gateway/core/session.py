"""One recorded connection under one grant, and why it ended."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from gateway.core.errors import Refusal
from gateway.core.grant import Grant, GrantState


class Protocol(StrEnum):
    POSTGRES = "postgres"
    SSH = "ssh"


class EndReason(StrEnum):
    """Every session has exactly one. `sentence()` is what the person sees."""

    CLIENT_CLOSED = "client-closed"
    TARGET_CLOSED = "target-closed"
    TARGET_UNREACHABLE = "target-unreachable"
    GRANT_EXPIRED = "grant-expired"
    GRANT_REVOKED = "grant-revoked"
    KILLED = "killed"
    IDLE_TIMEOUT = "idle-timeout"
    BUDGET_EXCEEDED = "budget-exceeded"
    MASKS_UNSURE = "masks-unsure"
    POLICY_CHANGED = "policy-changed"
    USER_DISABLED = "user-disabled"
    RECORDING_FAILED = "recording-failed"
    PROTOCOL_VIOLATION = "protocol-violation"
    GATEWAY_FAULT = "gateway-fault"
    GATEWAY_STOPPED = "gateway-stopped"
    INTERRUPTED = "interrupted"  # found open after a crash

    def sentence(self, detail: str = "") -> str:
        """One human sentence for the terminal."""
        said = _SENTENCES[self]
        return f"{said} ({detail})" if detail else said


IDLE_WARNING = timedelta(minutes=1)
_SENTENCES = {
    EndReason.CLIENT_CLOSED: "You closed the session.",
    EndReason.TARGET_CLOSED: "The target closed the connection.",
    EndReason.TARGET_UNREACHABLE: "The target cannot be reached.",
    EndReason.GRANT_EXPIRED: "Your grant has ended, so this session was closed. Ask again with gw request.",
    EndReason.GRANT_REVOKED: "Your grant was revoked, so this session was closed.",
    EndReason.KILLED: "This session was ended by an operator.",
    EndReason.IDLE_TIMEOUT: "Nothing happened for too long, so this session was closed.",
    EndReason.BUDGET_EXCEEDED: "This session has taken as much as its level allows, so it was closed.",
    EndReason.MASKS_UNSURE: "The gateway cannot tell which columns to mask, so this session was closed.",
    EndReason.POLICY_CHANGED: "Policy no longer allows this session, so it was closed.",
    EndReason.USER_DISABLED: "Your account was disabled, so this session was closed.",
    EndReason.RECORDING_FAILED: "This session can no longer be recorded, so it was closed. The target is fine.",
    EndReason.PROTOCOL_VIOLATION: "The client broke the protocol, so the session was closed.",
    EndReason.GATEWAY_FAULT: "The gateway made a mistake, so this session was closed; its log says where.",
    EndReason.GATEWAY_STOPPED: "The gateway is stopping; connect again in a moment.",
    EndReason.INTERRUPTED: "The gateway stopped unexpectedly during this session.",
}


@dataclass(frozen=True, slots=True)
class Running:
    """What a database works on for a session: statement `n`, of a StatementKind, with (the head of) its text sealed."""

    n: int
    kind: str
    since: datetime
    sealed: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody wants a statement cancelled: number `n`, or 0 for whatever runs. Each has a `mark` of its own."""

    mark: str
    by: str
    n: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """`deadline` is the grant's own end. `gateway` names the process that holds the connection.

    `locked_by` is who holds the person's input back, "" for nobody. `active_at` is when its recording last grew.
    `running` is as of a moment ago, and only what takes a while; `cancel` the newest wish of that kind.
    """

    id: str
    grant: str
    holder: str
    holder_name: str
    target: str
    level: str
    protocol: Protocol
    client: str
    gateway: str
    started_at: datetime
    deadline: datetime
    ended_at: datetime | None = None
    end_reason: EndReason | None = None
    end_detail: str = ""
    recording_digest: str = ""
    kill_requested_by: str = ""
    locked_by: str = ""
    active_at: datetime | None = None
    running: Running | None = None
    cancel: Cancel | None = None

    def is_live(self) -> bool:
        """True until it has ended."""
        return self.ended_at is None


def begin(
    grant: Grant, *, session_id: str, protocol: Protocol, client: str, gateway: str, at: datetime
) -> Session | Refusal:
    """A session under a grant that is active at `at`; its deadline is the grant's."""
    state = grant.state(at)
    if state is not GrantState.ACTIVE:
        return Refusal(
            f"grant-{state.value}",
            f"Your grant for {grant.target} is {state.value}.",
            ("an active grant",),
            (f"Ask again: gw request {grant.target} --level {grant.level} --reason …",),
        )
    return Session(
        session_id, grant.id, grant.holder, grant.holder_name, grant.target, grant.level,
        protocol, client, gateway, at, grant.window.not_after,
    )  # fmt: skip


def end(session: Session, reason: EndReason, at: datetime, detail: str = "", digest: str = "") -> Session | Refusal:
    """The session, over. The first reason stands."""
    if not session.is_live():
        return Refusal("session-over", f"Session {session.id} is over already.")
    return replace(
        session, ended_at=max(at, session.started_at), end_reason=reason, end_detail=detail, recording_digest=digest
    )


def lock(session: Session, user_id: str, user_name: str, *, locked: bool) -> Session | Refusal:
    """The session with its input held back, or let through again; the lock of another is not the holder's to open."""
    if not session.is_live():
        return Refusal("session-over", "That session is over already.")
    if session.protocol is not Protocol.SSH:
        return Refusal(
            "lock-not-supported",
            "Only SSH sessions can be locked: a statement that is held back would hold its transaction's locks.",
            next_steps=(f"gw session kill {session.id} ends it.",),
        )
    if locked == bool(session.locked_by):
        return Refusal("lock-unchanged", f"That session is {'locked' if locked else 'not locked'} already.")
    if not locked and user_id == session.holder and user_name != session.locked_by:
        return Refusal("own-session", f"{session.locked_by} has locked your session, so somebody else must unlock it.")
    return replace(session, locked_by=user_name if locked else "")


def cancel(session: Session, wish: Cancel) -> Session | Refusal:
    """The session with a wish that a statement be cancelled; it goes on otherwise.

    Without a number that is the one that was seen to run, or what runs then where none was.
    """
    if not session.is_live():
        return Refusal("session-over", "That session is over already.")
    if session.protocol is not Protocol.POSTGRES:
        return Refusal(
            "cancel-not-supported",
            "Only database sessions have statements that can be cancelled.",
            next_steps=(f"gw session kill {session.id} ends it.",),
        )
    if wish.n == 0 and session.running is not None:
        wish = replace(wish, n=session.running.n)  # and not the one after it, by the time that it is acted on
    return replace(session, cancel=wish)


def idle_verdict(idle: timedelta, limit: timedelta | None) -> EndReason | timedelta | None:
    """The end of a session that was idle for too long, else the time left when it is to be warned of it, else None.

    The warning is due a minute before, or at half the time when that is shorter.
    """
    if limit is None:
        return None
    left = limit - idle
    if left <= timedelta(0):
        return EndReason.IDLE_TIMEOUT
    return left if left <= min(IDLE_WARNING, limit / 2) else None


def verdict(grant: Grant, at: datetime, *, user_enabled: bool, killed_by: str = "") -> EndReason | None:
    """Why a live session under this grant must end now; None to let it live. Checked at least every second."""
    if killed_by:
        return EndReason.KILLED
    if not user_enabled:
        return EndReason.USER_DISABLED
    match grant.state(at):
        case GrantState.REVOKED:
            return EndReason.GRANT_REVOKED
        case GrantState.ACTIVE:
            return None
        case _:
            return EndReason.GRANT_EXPIRED
