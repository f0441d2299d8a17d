"""What is stored of sessions, and the connections that a process holds for them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from gateway.app.statement_ports import Statement
from gateway.core.grant import Grant
from gateway.core.principal import User
from gateway.core.session import Cancel, EndReason, Running, Session


@dataclass(frozen=True, slots=True)
class LiveView:
    """All that decides whether a live session may go on, in one read."""

    session: Session
    grant: Grant
    holder: User


class Sessions(Protocol):
    def add(self, session: Session) -> None: ...
    def get(self, session_id: str) -> Session | None: ...
    def save(self, session: Session) -> bool:
        """Store an end; False when it was over already."""
        ...

    def request_kill(self, session_id: str, by: str) -> bool:
        """Mark for ending by the gateway that holds it; False when it is over or marked already."""
        ...

    def lock(self, session_id: str, by: str) -> bool:
        """Mark its input as held back by `by`, or free it when `by` is ""; False when it is over or so already."""
        ...

    def request_cancel(self, session_id: str, wish: Cancel) -> bool:
        """Mark its statement for cancelling by the gateway that holds it; False when it is over."""
        ...

    def show_running(self, running: Mapping[str, Running | None]) -> None:
        """What databases work on for these sessions now."""
        ...

    def touch(self, session_ids: Collection[str], at: datetime) -> None:
        """Something happened in them."""
        ...

    def list(
        self, *, live: bool | None = None, holder: str = "", target: str = "", grant: str = "", limit: int = 200
    ) -> Sequence[Session]:
        """Newest first."""
        ...

    def live_marks(self, gateway: str) -> Mapping[str, object]:
        """Every live session of one gateway, with what changes when its view does (but for `active_at`). Cheap."""
        ...

    def live_views(self, gateway: str, only: Collection[str] | None = None) -> Sequence[LiveView]:
        """Every live session of one gateway (or those of them) with its grant and holder, as stored now."""
        ...


class Gateways(Protocol):
    """Which gateway processes are alive: what a dead one held is ended by the others."""

    def beat(self, gateway: str, at: datetime) -> None: ...
    def silent_since(self, before: datetime) -> Sequence[str]: ...
    def heard(self, gateway: str) -> datetime | None: ...
    def forget(self, gateway: str) -> None: ...


class LiveSession(Protocol):
    """A connection held by this process. All calls come from another thread and return at once."""

    def terminate(self, reason: EndReason, detail: str) -> None:
        """Tell the person, close both legs. Idempotent."""
        ...

    def warn(self, sentence: str) -> None:
        """Say a sentence on the person's terminal if the protocol has a place for it."""
        ...

    def lock(self, *, locked: bool) -> None:
        """Hold the person's input back, or let it through again; Conflict where the protocol cannot."""
        ...

    def idle_for(self) -> timedelta:
        """How long nothing came from the person; zero where the protocol does not tell."""
        ...

    def statement(self) -> Statement | None:
        """What the target works on for it; None where it waits for the person, or the protocol has no statements."""
        ...

    def cancel(self, by: str, n: int) -> None:
        """Have statement `n` (0: whatever runs) cancelled on the target, if that is what runs; the person is told."""
        ...
