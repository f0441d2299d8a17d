"""Dry-run: at a level with it nothing that was written is committed before somebody's yes to exactly what was written.

Judged on what can commit. A write outside an explicit transaction would commit by itself, so it is refused; a COMMIT
of a transaction in which something was written is held. `Ledger` is told of each text before it goes on, and of what
the server answers; between two ReadyForQuery messages it takes nothing for done.

A seat belt, like all rules on texts: what a function, a trigger or a view does inside is not in the parse tree.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from gateway.core.dry_run_points import Points
from gateway.core.dry_run_text import Does, Step, Text
from gateway.core.session_settings import Settings
from gateway.core.statement_rules import Broken
from gateway.core.written import Write, Written

_MOST_TOLD = 5  # of the texts that one may be


class Confirm(StrEnum):
    """Whose yes a COMMIT needs."""

    SELF = "self"
    APPROVER = "approver"


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a level says. `functions` (last names, * for any letters) count as writes, besides `WRITING_FUNCTIONS`."""

    confirm: Confirm
    functions: tuple[str, ...] = ()


# ---------------------------------------------------------------- what may be committed


class State(NamedTuple):
    """Of the explicit transaction: one is open for certain, something may have been written in one that may be open, it
    can only be rolled back for certain.
    """

    is_open: bool = False
    is_written: bool = False
    is_failed: bool = False
    is_untold: bool = False  # something was, and the server has not said yet under which settings


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105 - no password
    REFUSE = "refuse"
    HOLD = "hold"
    ASK = "ask"  # pass it if somebody has said yes to what `Ledger.mark` stands for, else hold it


class Ruling(NamedTuple):
    """`broken` with REFUSE."""

    verdict: Verdict
    broken: Broken | None = None


_PASS = Ruling(Verdict.PASS)
_OUTSIDE = Broken(
    "dry-run",
    "A write comes in a transaction at this level: its rows are looked at before they stay.",
    "BEGIN; your statement; look at the rows; COMMIT, which is held; then gw session commit.",
)
_ALONE_HERE = Broken(
    "dry-run",
    "What runs in no transaction, or what no ROLLBACK takes back, cannot be held: it does not run at this level.",
    "Ask for another level.",
)
_TWO_PHASE = Broken(
    "dry-run",
    "PREPARE TRANSACTION would let a transaction be committed elsewhere, and is refused at this level.",
    "COMMIT; it is held.",
)
_MIXED = Broken(
    "dry-run",
    "The end of a transaction in which something is written comes in a text of its own at this level.",
    "Send COMMIT, or ROLLBACK, by itself.",
)
_SETS = Broken(
    "dry-run",
    "What is set behind a write comes by itself: else nobody knows under which settings that was written.",
    "Send SET, or set_config, as a query of its own; in a pipeline behind a Sync.",
)
_UNREAD = Broken(
    "dry-run",
    "The statement cannot be judged: it does not parse, or is too long.",
    "Correct it; send data as parameters or with COPY … FROM STDIN.",
)
_ENDS = frozenset({Does.COMMIT, Does.COMMIT_CHAIN, Does.ROLLBACK, Does.ROLLBACK_CHAIN})
_COMMITS = frozenset({Does.COMMIT, Does.COMMIT_CHAIN})
_UNDOES = _ENDS | {Does.ROLLBACK_TO}
_EARLIER = b"(parsed under earlier settings, maybe others) "


def after(state: State, does: Does) -> State:
    """Where a statement leads that succeeds."""
    match does:
        case Does.BEGIN:
            return state._replace(is_open=True)
        case Does.COMMIT | Does.ROLLBACK:
            return State()
        case Does.COMMIT_CHAIN | Does.ROLLBACK_CHAIN:
            return State(state.is_open)
        case Does.ROLLBACK_TO:
            return state._replace(is_failed=False)
        case Does.WRITE:
            return state._replace(is_written=state.is_open, is_untold=state.is_open)
        case _:
            return state


def _needs_yes(state: State, does: Does) -> bool:
    return does in _COMMITS and state.is_written and not state.is_failed


def _merged(states: Collection[State]) -> State:
    """Of several that it may be, the one in which the least is allowed."""
    return State(
        all(s.is_open for s in states),
        any(s.is_written for s in states),
        all(s.is_failed for s in states),
        any(s.is_untold for s in states),
    )


@dataclass(slots=True)
class _Due:
    """What the server has not answered yet: a write in a transaction, or (None) anything else."""

    written: Written | None = None
    sql: str = ""
    digest: str = ""


class Ledger:
    """The transaction of one session. INVARIANT: nothing written is committed unless `agreed` was called for it.

    The caller sends nothing that begins another round (a simple query, or the messages up to a Sync) before the
    ReadyForQuery of the last one was told.
    """

    def __init__(self) -> None:
        self._now = State()  # if everything of this round succeeds
        self._worst = False  # something was written at some point of this round, or before it
        self._parts = [Written()]  # of this round: each end of a transaction begins another
        self._due: deque[_Due] = deque()
        self._points = Points()
        self._has_run = False  # anything, in this round
        self._agreed: _Due | None = None
        self._hides = False  # something did in this transaction, so that whatever reads may write
        self.has_committed = False  # the COMMIT that was agreed to; for the caller to take
        self.era = 0  # another one when settings may be others
        self._has_set = False  # something in this transaction, which its end may undo
        self._told: Settings | None = None

    @property
    def written(self) -> Written:
        """In the transaction that is open. To be asked between two rounds, or at ASK."""
        return self._parts[-1]

    def query(self, text: Text) -> Ruling:
        """A simple query, which is to go on. What is refused or held, and not asked again, does not."""
        if text.steps is None:
            return Ruling(Verdict.REFUSE, _UNREAD)
        if len(text.steps) == 1:
            return self.run([text])
        broken = _broken(self._now, [self._meant(step) for step in text.steps])
        if broken is not None:
            return Ruling(Verdict.REFUSE, broken)
        for step in text.steps:
            self._goes_on([step], text.digest)
        if not text.steps:
            self._due.append(_Due())
        return _PASS

    def bound(self, text: Text) -> None:
        """A portal is made of it: its statement is planned, for which code may run, that may set something."""
        self._has_run |= text.steps is None or any(step.does not in _ENDS for step in text.steps)

    def run(self, texts: Collection[Text]) -> Ruling:
        """A statement that is executed now: one of these texts, of one statement each (or none)."""
        steps = []
        for text in texts:
            if text.steps is None or len(text.steps) > 1:
                return Ruling(Verdict.REFUSE, _UNREAD)
            steps.append(self._meant(text.steps[0], text.era) if text.steps else Step(Does.READ))
        for step in steps:
            broken = _broken_one(self._now, step)
            if broken is not None:
                return Ruling(Verdict.REFUSE, broken)
        if any(_needs_yes(self._now, step.does) for step in steps):
            is_clear = not self._has_run and not self._now.is_untold and len(set(steps)) == 1
            return Ruling(Verdict.ASK if is_clear else Verdict.HOLD)
        self._goes_on(steps, "|".join(sorted(text.digest for text in texts)))
        return _PASS

    def agreed(self, texts: Collection[Text]) -> None:
        """The COMMIT that `run` (or `query`) wanted a yes for goes on, now."""
        self._goes_on([text.steps[0] for text in texts if text.steps], "")
        self._agreed = self._due[-1]

    def answered(self, tag: str) -> None:
        """The server has executed the next statement of this round."""
        if self._due:
            due = self._due.popleft()
            self.has_committed |= due is self._agreed and tag == "COMMIT"
            if due.written is not None:
                due.written.add(Write(due.sql, due.digest, tag))

    def ready(self, status: bytes, *, has_failed: bool) -> None:
        """ReadyForQuery: the round is over. `has_failed`: it had an error, and what came behind was skipped."""
        while self._due:
            self.answered("failed")
        is_sure = not has_failed and self._now.is_open
        is_open = status != b"I"
        if not is_open:
            self._hides = False
            self._parts = [Written()]
        elif not is_sure:
            self._parts = [_joined(self._parts)]
        del self._parts[:-1]
        is_written = is_open and (self._now.is_written if is_sure else self._worst)
        self._points.end_round(is_open=is_open, has_failed=has_failed)
        self._now = State(is_open, is_written, status == b"E", is_untold=is_written)
        self._worst = is_written
        self._has_run = False
        self._agreed = None
        if self._has_set and (has_failed or not is_open):
            self.era += 1
        self._has_set &= is_open

    @property
    def is_untold(self) -> bool:
        """True when the server is to be asked for the settings, before anything else goes on: `told`. After `ready`."""
        return self._now.is_untold and not self._now.is_failed

    def told(self, settings: Settings) -> bool:
        """Under which the transaction is now; whether they are others than before."""
        self._now = self._now._replace(is_untold=False)
        self.era += self._told not in (None, settings)
        self._told = settings
        return self.written.tell(settings)

    @property
    def is_committing(self) -> bool:
        """True from `agreed` to the end of the round."""
        return self._agreed is not None

    @property
    def is_written(self) -> bool:
        """True when COMMIT would be held. To be asked between two rounds."""
        return self._now.is_written

    def _goes_on(self, steps: Collection[Step], digest: str) -> None:
        steps = [self._meant(step) for step in steps]
        self._has_run = True  # whatever was agreed to is behind it, and under other settings maybe
        self._hides |= any(step.hides for step in steps)
        self._now = _merged([after(self._now, each.does) for each in steps])
        self._worst |= self._now.is_written
        does = {each.does for each in steps}
        due = _Due()
        if does <= _ENDS:
            self._parts.append(Written())
        elif Does.WRITE in does or does & _ENDS or (Does.ROLLBACK_TO in does and self._worst):
            steps = [each._replace(sql=self._undoes(each) + each.sql) for each in steps]
            told = b"  -- or: ".join(sorted({step.sql for step in steps})[:_MOST_TOLD])
            due = _Due(self._parts[-1], told.decode(errors="backslashreplace"), digest)
        if does & _ENDS:
            self._points.clear()
        self._points.go_on(steps, self._count())
        self._due.append(due)
        self._has_set |= any(step.sets or step.hides for step in steps)
        if self._has_set and any(step.sets or step.hides or step.does in _UNDOES for step in steps):
            self.era += 1

    def _count(self) -> int:
        """Of what is written in this part, when all that is due has been answered."""
        return self._parts[-1].count + sum(due.written is self._parts[-1] for due in self._due)

    def _undoes(self, step: Step) -> bytes:
        return self._points.undone(step.point, self._count()) if step.does is Does.ROLLBACK_TO else b""

    def _meant(self, step: Step, era: int | None = None) -> Step:
        """As it is now: what runs something that was handed over earlier writes, too."""
        if (step.reads and self._hides) or (step.defers and (self._worst or self._now.is_written)):
            step = step._replace(does=Does.WRITE)
        return step._replace(sql=_EARLIER + step.sql) if era not in (None, self.era) else step


def _joined(parts: Collection[Written]) -> Written:
    filled = [part for part in parts if part.count]
    if len(filled) == 1:
        return filled[0]
    whole = Written()
    for part in filled:
        whole.join(part)
    return whole


def _broken_one(state: State, step: Step) -> Broken | None:
    if step.does is Does.TWO_PHASE:
        return _TWO_PHASE
    if step.is_alone:
        return _ALONE_HERE
    if step.sets and (state.is_untold or step.does is Does.WRITE or step.prepares):
        return _SETS
    return _OUTSIDE if step.does is Does.WRITE and not state.is_open else None


def _broken(state: State, steps: Collection[Step]) -> Broken | None:
    """Of several statements in one text, which the server executes one after another up to the first that fails."""
    does = {step.does for step in steps}
    for step in steps:
        broken = _broken_one(state, step)
        if broken is not None:
            return broken
        if _needs_yes(state, step.does) or (Does.WRITE in does and step.does in _ENDS):
            return _MIXED
        state = after(state, step.does)
    return None
