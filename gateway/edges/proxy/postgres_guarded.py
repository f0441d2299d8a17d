"""A database session at a level with statement rules or a budget: the relay, with a gate on either side of it."""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from time import monotonic

from gateway.app.recording_ports import Recording
from gateway.app.statement_ports import StatementReader
from gateway.core.budget import Budget, Room
from gateway.core.client_encoding import keeps_ascii
from gateway.core.masking import Known
from gateway.core.session import EndReason
from gateway.core.statement_rules import Broken, judge
from gateway.core.target import Level
from gateway.edges.proxy.postgres_books import Backlog
from gateway.edges.proxy.postgres_leg import Leg, Pause
from gateway.edges.proxy.postgres_masked import Masking
from gateway.edges.proxy.postgres_mistakes import end_for_mistake, mistakes_end_it
from gateway.edges.proxy.postgres_refusals import (
    of_broken_rule,
    of_budget,
    of_call,
    of_encoding,
    of_session_budget,
    of_unheeded,
    of_unsure_masks,
)
from gateway.edges.proxy.postgres_relay import PostgresSession
from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_gate import Allowance, ClientGate, PortalRule, Refusals, TargetGate
from gateway.wire.postgres_messages import Report
from gateway.wire.postgres_portals import Portals

CANCEL_AGAIN_S = 5.0
UNHEEDED_S = 8.0  # a statement that is cancelled, and goes on for longer, ends its session
TELL_EVERY_S = 1.0  # of what is refused one event, which counts the others
INDIRECT = Broken(
    "masked",
    "FETCH and EXECUTE give their whole result at once, in the unnamed portal.",
    "Without a fetch size; or as a simple query, as psql sends it.",
)
UNJUDGED = Broken("masked", "What is masked is not known yet.", "Connect again.")
Tell = Callable[[str, Mapping[str, object]], None]


def is_guarded(level: Level) -> bool:
    """True for levels whose sessions need what is here."""
    return level.budget.is_set() or is_judged(level)


def is_judged(level: Level) -> bool:
    """True for levels at which statements are judged before they go on."""
    return level.rules.is_set() or bool(level.masks) or level.dry_run is not None


class GuardedSession(PostgresSession):
    """`tell` stores an event (type, data) without blocking; `cancel_request` is set once the target is known."""

    def __init__(
        self,
        client: Leg,
        recording: Recording,
        now: Callable[[], datetime],
        backlog: Backlog,
        level: Level,
        reader: StatementReader,
        tell: Tell,
        *,
        is_strict: bool,
    ) -> None:
        super().__init__(client, recording, now, backlog, is_strict=is_strict, bind_parameters=level.bind_parameters)
        self._level = level
        self._reader = reader
        self._tell = tell
        self._told_at = -TELL_EVERY_S
        self._untold = 0
        self._refusals = refusals = Refusals(secrets.token_hex(16))
        no_calls = None if level.rules.forward_unparsed and level.dry_run is None else of_call(level)
        portals = PortalRule(Portals(), self._is_indirect, of_broken_rule(INDIRECT, level)) if level.masks else None
        self._client_gate = ClientGate(self._refusal, no_calls, refusals, portals) if is_judged(level) else None
        self._masking: Masking | None = None
        self._target_gate = TargetGate(
            refusals, _allowance(level.budget.statement), _allowance(level.budget.session), self._over
        )
        self._clock = _WorkClock(level.budget)
        self._timer: asyncio.TimerHandle | None = None
        self._cancelling: asyncio.Task[None] | None = None
        self._cut = ("", 0.0)  # why a statement was cancelled, and when
        self._readies = 0
        self._is_broken = False  # what the target says cannot be read any more

    def mask(self, known: Known, key: bytes) -> None:
        """To be called before `start` at a level with masks."""
        self._masking = Masking(known, key, self._reader)

    def start(self, target: Leg, greeting: bytes, early: bytes, late: bytes) -> None:
        """See `PostgresSession`. A role, a database or a server may have an encoding of its own as default."""
        greeted = TargetGate(self._refusals, Allowance(), Allowance(), self._over)  # none of it is a result
        greeted.feed(greeting)
        self._target_gate.encoding = greeted.encoding
        self._mind_encoding()
        super().start(target, greeting, early, late)

    def _may_go_on(self, chunk: bytes) -> bool:
        """Nothing goes on unjudged or uncounted."""
        del chunk
        return False

    # ------------------------------------------------------------ from the client

    @mistakes_end_it
    def _send_on(self, chunk: bytes, waits_for: int | None) -> None:
        if self._client_gate is not None:
            chunk = self._client_gate.feed(chunk)
        if self._masking is not None:
            chunk = self._masking.asks.feed(chunk)
        super()._send_on(chunk, waits_for)
        self._mind_time()

    def _refusal(self, sql: bytes) -> Report | None:
        if self._refusals.is_one(sql):
            return None  # refused already
        is_masked, is_dry_run = bool(self._level.masks), self._level.dry_run is not None
        is_behind = self._client_gate is not None and self._client_gate.has_run
        facts = self._reader.read(sql).facts
        broken = judge(self._level.rules, facts, sql, is_masked=is_masked, is_dry_run=is_dry_run, is_behind=is_behind)
        if broken is None and is_masked:
            broken = self._masking.judge(sql) if self._masking else UNJUDGED
        return None if broken is None else self._refused(broken)

    def _refused(self, broken: Broken) -> Report:
        self._tell_refused({"rule": broken.rule, "level": self._level.name, "message": broken.sentence})
        return of_broken_rule(broken, self._level)

    def _is_indirect(self, sql: bytes) -> bool:
        return self._masking is None or self._masking.is_indirect(sql)

    def _tell_refused(self, data: dict[str, object]) -> None:
        at = monotonic()
        if at - self._told_at < TELL_EVERY_S:
            self._untold += 1
            return
        self._told_at = at
        self._tell("statement:refused", {**data, "untold": self._untold})
        self._untold = 0

    # ------------------------------------------------------------ from the target

    def _from_target(self, chunk: bytes, *, is_shown: bool = True) -> None:
        del is_shown  # the gate decides
        if self.over.done() or self._is_broken:
            return
        try:
            self._pass_on(chunk)
        except Exception as fault:  # noqa: BLE001 - nothing is shown that was not masked and counted
            self._is_broken = True
            end_for_mistake(self, fault)

    def _pass_on(self, chunk: bytes) -> None:
        within = self._target_gate.is_within_shown
        try:
            if self._level.masks:
                chunk = self._masked(chunk)
            told, shown = self._target_gate.feed(chunk)
        except ProtocolViolation as why:
            self.end(EndReason.TARGET_CLOSED, str(why))
            return
        if told is shown:
            super()._from_target(told)
        else:
            self._relay_in_part(told, shown, is_within=within)
        self._mind_masks()
        self._mind_encoding()
        self._act_on_budget()
        self._mind_time()

    def _masked(self, chunk: bytes) -> bytes:
        return self._masking.answers.feed(chunk) if self._masking is not None else b""

    def _mind_masks(self) -> None:
        trouble = self._masking.answers.trouble if self._masking is not None else ""
        if trouble and self._ending is None:
            self.end(EndReason.MASKS_UNSURE, trouble, report=of_unsure_masks(trouble, self._level))

    def _mind_encoding(self) -> None:
        """Whatever has changed it (a function, a view of settings, a default): nothing more goes on that the target
        would read otherwise than it was judged. What came in the meantime was judged as it is in any (`has_run`).
        """
        if self._client_gate is not None and self._target_gate.is_ready and not self._account.owes_answers:
            self._client_gate.has_run = False
        encoding = self._target_gate.encoding
        if encoding and is_judged(self._level) and not keeps_ascii(encoding) and self._ending is None:
            self.end(EndReason.PROTOCOL_VIOLATION, "client_encoding", report=of_encoding(encoding, self._level))

    def _relay_in_part(self, told: bytes, shown: bytes, *, is_within: bool) -> None:
        """Not all that the account hears of is for the client, nor the other way round. Nothing of our own is put in
        but where both are between two messages.
        """
        if self._ending is None:
            self._client.write(shown)
        elif is_within:
            self._last_words = b""
        warnings, self._warnings = self._warnings, []
        super()._from_target(told, is_shown=False)
        self._warnings += warnings
        if self._ending is None and self._books.answers.is_at_boundary():
            self._flush_warnings()

    def _act_on_budget(self) -> None:
        gate = self._target_gate
        if gate.over_session and self._ending is None:
            self._end_for(gate.over_session)
        elif gate.over_statement:
            what, gate.over_statement = gate.over_statement, ""
            if gate.is_cutting and not self._account.owes_answers:  # notices that no statement has asked for
                self._end_for(what)
            else:
                self._cancel_statement(what)
        elif not gate.is_cutting and self._cancelling is None:
            self._client.resume(Pause.CUT)

    def _over(self, what: str) -> Report:
        return of_budget(what, self._level)

    def _end_for(self, what: str, report: Report | None = None) -> None:
        report = report or of_session_budget(what, self._level)
        self._tell("session:budget-exceeded", {"what": what, "level": self._level.name})
        self.end(EndReason.BUDGET_EXCEEDED, what, report=report)

    def _cancel_statement(self, what: str) -> None:
        """The client's next statement waits until the cancel request is through: it must not hit that one. (A server
        that waits for COPY data hears of a cancel request with the next piece of it, so that must come.)
        """
        self._tell("statement:cut", {"what": what, "level": self._level.name})
        self._cut = (what, monotonic())
        if what != "time":
            self._client.pause(Pause.CUT)
        self._send_cancel()

    def _send_cancel(self) -> None:
        if self.cancel_request is not None and self._cancelling is None and not self.over.done():
            self._cancelling = asyncio.get_running_loop().create_task(self.cancel_request())
            self._cancelling.add_done_callback(self._cancelled)

    @mistakes_end_it
    def _cancelled(self, _: "asyncio.Task[None]") -> None:
        self._cancelling = None
        if self._target_gate.is_cutting:  # it may have got lost, or have come before there was anything to cancel
            self._loop.call_later(CANCEL_AGAIN_S, self._cancel_again)
        else:
            self._client.resume(Pause.CUT)

    def _cancel_again(self) -> None:
        what, since = self._cut
        if self._target_gate.is_cutting and self._ending is None and monotonic() - since > UNHEEDED_S:
            self._end_for(what, of_unheeded(what, self._level))  # its code catches the cancel
        elif self._target_gate.is_cutting:
            self._send_cancel()

    # ------------------------------------------------------------ time

    def _mind_time(self) -> None:
        """A timer runs while the target works; each ReadyForQuery ends a statement and begins the next one's time."""
        if not self._clock.is_limited:
            return
        is_working = self._account.owes_answers and not self.over.done() and self._ending is None
        is_next = self._readies != self._target_gate.readies
        if self._timer is not None and (is_next or not is_working):
            self._timer.cancel()
            self._timer = None
            self._clock.stop(monotonic())
        self._readies = self._target_gate.readies
        if is_working and self._timer is None and not self._target_gate.is_cutting:
            self._timer = self._loop.call_later(self._clock.start(monotonic()), self._too_late)

    @mistakes_end_it
    def _too_late(self) -> None:
        self._timer = None
        self._clock.stop(monotonic())
        if self._ending is not None or not self._account.owes_answers:
            return
        if self._clock.is_spent:
            self._end_for("time")
            return
        words = self._target_gate.cut("time")
        self._client.write(words)
        self._cancel_statement("time")


_GRAIN_S = 0.002  # the loop's timers count milliseconds and may come within the one before


class _WorkClock:
    """How long the target has worked for a session, and may work on."""

    def __init__(self, budget: Budget) -> None:
        self._statement = _seconds(budget.statement.time)
        self._session = _seconds(budget.session.time)
        self._spent = 0.0
        self._since = 0.0
        self.is_limited = self._statement is not None or self._session is not None

    @property
    def is_spent(self) -> bool:
        """True when the session has no time left."""
        return self._session is not None and self._spent + _GRAIN_S >= self._session

    def start(self, at: float) -> float:
        """Seconds for the statement that begins now."""
        self._since = at
        rooms = [self._statement, None if self._session is None else max(0.0, self._session - self._spent)]
        return min(room for room in rooms if room is not None)

    def stop(self, at: float) -> None:
        """It is over."""
        self._spent += at - self._since


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()


def _allowance(room: Room) -> Allowance:
    return Allowance(room.rows, room.bytes)
