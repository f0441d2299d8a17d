"""A COMMIT that a dry-run level holds, and what somebody answers: yes to exactly what was written, or no for good."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from gateway.core.dry_run import Confirm
from gateway.core.errors import Refusal


class HeldState(StrEnum):
    WAITING = "waiting"
    CONFIRMED = "confirmed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class HeldCommit:
    """Of transaction `tx` of a session (its number in the recording). `mark` stands for all that was written in it.

    `sealed`: the first of the statements, for those who decide. `statements` and `rows` count all.
    """

    session: str
    tx: int
    mark: str
    at: datetime
    confirm: Confirm
    statements: int
    rows: int
    sealed: str = ""
    state: HeldState = HeldState.WAITING
    decided_by: str = ""
    decided_at: datetime | None = None
    reason: str = ""


def held_again(known: HeldCommit | None, now: HeldCommit) -> HeldCommit:
    """What counts when a COMMIT is held: a yes is for one mark only, a no for the whole transaction."""
    if known is None or known.tx != now.tx:
        return now
    return known if known.mark == now.mark or known.state is HeldState.REFUSED else now


def may_decide(held: HeldCommit, state: HeldState, holder: str, user_id: str) -> Refusal | None:
    """Why this person may not answer, whatever policy says: `holder` is whose session it is. Four eyes for APPROVER."""
    if state is not HeldState.CONFIRMED:
        return None
    if held.confirm is Confirm.APPROVER and user_id == holder:
        return Refusal(
            "own-commit",
            "At this level somebody else says yes to what you have written.",
            ("an approver's yes",),
            ("Ask an approver: gw session commit shows them what is held.",),
        )
    if held.confirm is Confirm.SELF and user_id != holder:
        return Refusal("not-your-commit", "At this level whoever wrote says yes to it.", (), ("You may refuse it.",))
    return None


def decide(held: HeldCommit, mark: str, state: HeldState, by: str, at: datetime, reason: str) -> HeldCommit | Refusal:
    """The same with an answer to what `mark` stands for."""
    if held.state is HeldState.REFUSED:
        return Refusal("commit-refused", f"{held.decided_by} has refused it; only ROLLBACK is left.")
    if held.mark != mark:
        return Refusal(
            "commit-changed",
            "Something else was written since: your answer was to another state of the transaction.",
            ("a look at what is held now",),
            (f"gw session commit {held.session} shows it.",),
        )
    if held.state is state:
        return Refusal("commit-confirmed", f"{held.decided_by} has confirmed it already; COMMIT goes through.")
    return replace(held, state=state, decided_by=by, decided_at=at, reason=reason)
