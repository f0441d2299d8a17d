"""Who is on call: shifts as snapshots with a source and an age, read without asking any provider.

A snapshot row is evidence: it says from where and when it was fetched, and a decision carries it along
(absence or age beyond the limits means "not on call").
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from gateway.core.window import Window


class Freshness(StrEnum):
    FRESH = "fresh"
    STALE = "stale"
    PROJECTED = "projected"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Shift:
    """One person's duty for one service. `subject` is a user name; `level` the escalation level, 1 first."""

    service: str
    subject: str
    level: int
    window: Window
    source: str
    fetched_at: datetime
    source_hash: str


@dataclass(frozen=True, slots=True)
class RotaRules:
    """Handover grace on both ends, and up to which escalation level and age a shift counts."""

    grace_before: timedelta = timedelta(minutes=15)
    grace_after: timedelta = timedelta(minutes=30)
    max_level: int = 2
    fresh_within: timedelta = timedelta(minutes=10)
    stale_within: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class OnCall:
    """Whether `subject` is on call for `service` at one instant, and the evidence for it.

    `until` is the end of the duty with grace; `others` name who is on call now, lowest level first.
    """

    service: str
    subject: str
    is_on_call: bool
    freshness: Freshness
    level: int | None = None
    until: datetime | None = None
    shift: Shift | None = None
    others: tuple[str, ...] = ()


def freshness(fetched_at: datetime, at: datetime, rules: RotaRules) -> Freshness:
    """How old evidence may be called; evidence from the future is none (a clock is wrong)."""
    age = at - fetched_at
    if age < -timedelta(minutes=1):
        return Freshness.NONE
    if age <= rules.fresh_within:
        return Freshness.FRESH
    return Freshness.STALE if age <= rules.stale_within else Freshness.PROJECTED


def with_grace(shift: Shift, rules: RotaRules) -> Window:
    """The shift's window widened by the handover grace."""
    return Window(shift.window.not_before - rules.grace_before, shift.window.not_after + rules.grace_after)


def is_counted(shift: Shift, at: datetime, rules: RotaRules) -> bool:
    """True when the shift is evidence at `at`: near enough in escalation, covering, and not too old."""
    return (
        1 <= shift.level <= rules.max_level
        and with_grace(shift, rules).contains(at)
        and freshness(shift.fetched_at, at, rules) in (Freshness.FRESH, Freshness.STALE)
    )


def on_call(shifts: Iterable[Shift], service: str, subject: str, at: datetime, rules: RotaRules) -> OnCall:
    """Judge one person's duty from snapshots. No evidence is a no."""
    counted = sorted(
        (s for s in shifts if s.service == service and is_counted(s, at, rules)),
        key=lambda s: (s.level, s.subject, at - s.fetched_at),  # of two sources that agree, the fresher one is evidence
    )
    # The strict window names who to call; grace lets in, it does not make anybody the person to page.
    others = tuple(dict.fromkeys(s.subject for s in counted if s.window.contains(at) and s.subject != subject))
    mine = [s for s in counted if s.subject == subject]
    if not mine:
        age = freshness(max(s.fetched_at for s in counted), at, rules) if counted else Freshness.NONE
        return OnCall(service, subject, is_on_call=False, freshness=age, others=others)
    best = mine[0]
    until = max(with_grace(s, rules).not_after for s in mine)
    return OnCall(service, subject, True, freshness(best.fetched_at, at, rules), best.level, until, best, others)
