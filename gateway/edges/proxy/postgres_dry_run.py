"""A database session at a level with a dry-run: in step with its server, and asking before it commits what it wrote."""

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256

from gateway.app.commit_ports import Asking, Told
from gateway.app.recording_ports import Recording
from gateway.app.statement_ports import StatementReader
from gateway.core.dry_run import DryRun, Ledger, Ruling, Verdict
from gateway.core.dry_run_text import ANYTHING, CURSOR, PREPARED, SHOWN, Does, Text, text_of
from gateway.core.session import EndReason
from gateway.core.session_settings import Asked, Settings
from gateway.core.statement_rules import Broken
from gateway.core.target import Level
from gateway.core.written import mark_of
from gateway.edges.proxy.postgres_books import Backlog
from gateway.edges.proxy.postgres_guarded import GuardedSession, Tell
from gateway.edges.proxy.postgres_leg import Leg, Pause
from gateway.edges.proxy.postgres_mistakes import end_for_mistake, mistakes_end_it
from gateway.edges.proxy.postgres_refusals import of_held, of_unasked
from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_dry_run import DryRunGate
from gateway.wire.postgres_judge import Said, Word
from gateway.wire.postgres_messages import Report, error_response
from gateway.wire.postgres_question import question
from gateway.wire.postgres_values import Telling, values_told

ASK_S = 5.0  # how long a COMMIT waits to hear whether somebody has said yes
ANSWER_S = 10.0  # how long a session waits for its target to say which settings it has
_CANCELS = Pause.CUT | Pause.CANCELLING  # a cancel request is on its way, which must not hit what comes next
LOG = logging.getLogger(__name__)
_COPIES = Broken(
    "dry-run",
    "COPY … FROM STDIN comes in a simple query at this level.",
    "Without parameters, as psql and drivers send it.",
)


@dataclass(frozen=True, slots=True)
class Commits:
    """How session `session` hears about its COMMITs. `ended` (transaction, outcome) returns at once."""

    session: str
    ask: Callable[[Asking], Awaitable[Told]]
    ended: Callable[[int, str], None]


class DryRunSession(GuardedSession):
    """See `GuardedSession`. What the client sends waits in front of it until the round before is over."""

    def __init__(
        self,
        client: Leg,
        recording: Recording,
        now: Callable[[], datetime],
        backlog: Backlog,
        level: Level,
        reader: StatementReader,
        tell: Tell,
        commits: Commits,
        *,
        is_strict: bool,
    ) -> None:
        super().__init__(client, recording, now, backlog, level, reader, tell, is_strict=is_strict)
        assert level.dry_run is not None, "a level with a dry-run"
        self._commits = commits
        self._confirm = level.dry_run.confirm
        self._ledger = Ledger()
        self._settings = Asked()
        self._new_settings: list[bytes] = []  # that are still to be recorded
        self._answer_timer: asyncio.TimerHandle | None = None
        judge = _Judge(
            self._ledger, reader, level.dry_run, self._books.telling, self._refuse, self._settings, self._note_settings
        )
        self._turns: DryRunGate[Text] = DryRunGate(judge, PREPARED, CURSOR, ANYTHING)
        self._asking: asyncio.Task[None] | None = None
        self._held_tx = 0  # the transaction that was asked about last, while it is open
        self._report: Report | None = None  # for the COMMIT that is held
        self._late: list[bytes] = []  # of the target, while the client has to be told something first
        self._is_late = False

    def know(self, settings: Collection[str]) -> None:
        """The client has set these at the start of its session."""
        self._settings.add([name for name in settings if "." in name])

    # ------------------------------------------------------------ from the client

    @mistakes_end_it
    def _from_client(self, chunk: bytes) -> None:
        if not self._is_over():
            self._turns.feed(chunk)
            self._go_on_with_client()

    def _go_on_with_client(self) -> None:
        if self._is_over() or self._is_late or self._client.is_paused(_CANCELS):
            return
        try:
            told = self._turns.take()
        except ProtocolViolation as why:
            self._books.is_unreadable = True
            self._break(why)
            return
        if told:
            super()._from_client(told)
        if self._turns.is_asking and self._asking is None:
            self._ask(self._answer_commit)
        if self._turns.is_blocked:
            self._client.pause(Pause.TURN)
        else:
            self._client.resume(Pause.TURN)

    @mistakes_end_it
    def _cancelled(self, of: "asyncio.Task[None]") -> None:
        super()._cancelled(of)
        self._put_question()
        self._go_on_with_client()

    @mistakes_end_it
    def _cancel_is_through(self, of: "asyncio.Task[None]") -> None:
        super()._cancel_is_through(of)
        self._put_question()
        self._go_on_with_client()

    @mistakes_end_it
    def _send_on(self, chunk: bytes, waits_for: int | None) -> None:
        super()._send_on(self._turns.edited(chunk), waits_for)
        self._put_question()

    def _release(self, seq: int, ok: bool) -> None:
        super()._release(seq, ok)
        self._put_question()

    def _refuse(self, broken: Broken) -> bytes:
        hint = broken.hint.replace("gw session commit", f"gw session commit {self._commits.session}")
        return self._refusals.stand_in(self._refused(replace(broken, hint=hint)))

    # ------------------------------------------------------------ from the target

    def _from_target(self, chunk: bytes, *, is_shown: bool = True) -> None:
        del is_shown  # the gates decide
        if self._is_late:
            self._late.append(chunk)
            return
        if self._is_broken:
            return
        try:
            self._take_turn(chunk)
        except Exception as fault:  # noqa: BLE001 - as in `GuardedSession`
            self._is_broken = True
            end_for_mistake(self, fault)

    def _take_turn(self, chunk: bytes) -> None:
        try:
            pieces = self._turns.answers(chunk) if not self.over.done() else []
        except ProtocolViolation as why:
            self.end(EndReason.TARGET_CLOSED, str(why))
            return
        self._mind_answer()
        self._hand_on(pieces)
        self._put_question()
        if not self._is_late:
            self._go_on_with_client()

    def _put_question(self) -> None:
        """No cancel request that is on its way may hit it: the transaction would fail. Nor does it go into the middle
        of a message (COPY data that nobody asked for): the target would take it for that one's body, and what is left
        of that body for messages, which nobody has judged.
        """
        is_cancelling = self._cancelling is not None or self._cancel_asked is not None
        is_within = self._turns.is_within or self._stalled or self._held
        if self._turns.question and not (is_cancelling or is_within or self._target is None or self._is_over()):
            self._target.write(self._turns.take_question())
            self._answer_timer = self._loop.call_later(ANSWER_S, self._unanswered)

    def _unanswered(self) -> None:
        self.end(EndReason.TARGET_CLOSED, "it does not say which settings the session has")

    def _note_settings(self, settings: Settings) -> None:
        about = {"tx": self._account.transaction, "settings": dict(settings)}
        self._new_settings.append(json.dumps(about, ensure_ascii=False).encode())

    def _hand_on(self, pieces: "list[bytes | None]") -> None:
        """None in them: first the client hears that its COMMIT is held, and that is written down before."""
        for place, piece in enumerate(pieces):
            words = piece
            if words is None:
                if self._report is None:
                    self._late = [each for each in pieces[place + 1 :] if each is not None]
                    self._be_late()
                    self._ask(self._report_held)
                    return
                words, self._report = error_response(self._report), None
            if words:
                super()._from_target(words)
        self._mind_held()

    def _mind_answer(self) -> None:
        if self._answer_timer is not None and not self._turns.is_asked:
            self._answer_timer.cancel()
            self._answer_timer = None
        told, self._new_settings = self._new_settings, []
        for each in told:
            self.note("settings", each)

    def _be_late(self) -> None:
        """Nothing is read meanwhile, from neither side."""
        self._is_late = True
        self._client.pause(Pause.TURN)
        if self._target is not None:
            self._target.pause(Pause.TURN)

    @mistakes_end_it
    def _report_held(self, told: Told | None) -> None:
        self._report = self._report_of(told)
        late, self._late, self._is_late = self._late, [], False
        if self._target is not None:
            self._target.resume(Pause.TURN)
        rest, behind = late[:1], late[1:]
        self._hand_on([None, *rest])
        for chunk in behind:
            self._from_target(chunk)
        self._go_on_with_client()

    def _mind_held(self) -> None:
        if self._held_tx and self._account.transaction != self._held_tx:
            self._commits.ended(self._held_tx, "committed" if self._ledger.has_committed else "rolled-back")
            self._held_tx = 0
        if not self._held_tx:
            self._ledger.has_committed = False

    def close_account(self) -> None:
        """See `PostgresSession`."""
        if self._held_tx:
            self._commits.ended(self._held_tx, "unknown" if self._ledger.is_committing else "lost")
            self._held_tx = 0
        if self._asking is not None:
            self._asking.cancel()
        if self._answer_timer is not None:
            self._answer_timer.cancel()
        super().close_account()

    # ------------------------------------------------------------ asking

    def _ask(self, then: Callable[[Told | None], None]) -> None:
        self._held_tx = self._account.transaction
        self._asking = self._loop.create_task(self._asked(self._what(), then))

    async def _asked(self, what: Asking, then: Callable[[Told | None], None]) -> None:
        told = None
        try:
            async with asyncio.timeout(ASK_S):
                told = await self._commits.ask(what)
        except Exception as why:  # noqa: BLE001 - whatever it is, it is no yes
            LOG.warning("a COMMIT of %s stays held: %s", self._commits.session, type(why).__name__)
        finally:
            self._asking = None
        if not self.over.done():
            then(told)

    def _what(self) -> Asking:
        written, tx = self._ledger.written, self._account.transaction
        mark = mark_of(self._commits.session, tx, written)
        writes, under = tuple(written.shown), tuple(written.under)
        return Asking(tx, mark, self._confirm, written.count, written.rows, writes, under, written.changes)

    @mistakes_end_it
    def _answer_commit(self, told: Told | None) -> None:
        may_pass = told is not None and told.may_pass
        if not may_pass:
            self._report = self._report_of(told)
        self._turns.answer(may_pass=may_pass)
        self._go_on_with_client()

    def _report_of(self, told: Told | None) -> Report:
        if told is None:
            return of_unasked(self._level)
        return of_held(self._level, self._commits.session, self._what(), told)


class _Judge:
    """What the rules of `core.dry_run` say, for the gate. `refuse` makes what stands in for a refused statement."""

    def __init__(
        self,
        ledger: Ledger,
        reader: StatementReader,
        dry_run: DryRun,
        telling: Telling,
        refuse: Callable[[Broken], bytes],
        settings: Asked,
        changed: Callable[[Settings], None],
    ) -> None:
        self._ledger = ledger
        self._reader = reader
        self._functions = dry_run.functions
        self._telling = telling
        self._refuse = refuse
        self._settings = settings
        self._changed = changed
        self._name = f"gw_{secrets.token_hex(8)}".encode()
        self.answered = ledger.answered
        self.ready = ledger.ready
        self.agreed = ledger.agreed

    def read(self, sql: bytes) -> Text:
        text = text_of(sql, self._reader.tree(sql), self._functions)._replace(era=self._ledger.era)
        self._settings.add(text.settings)
        return text

    def question(self) -> bytes:
        return question(self._name, self._settings.question()) if self._ledger.is_untold else b""

    def told(self, answer: bytes) -> None:
        try:
            settings = self._settings.answer(answer)
        except ValueError:
            raise ProtocolViolation("the target does not say which settings the session has") from None
        if self._ledger.told(settings):
            self._changed(settings)

    def may_parse(self, text: Text) -> Said:
        is_copy = any(step.does is Does.WRITE and step.reads_client for step in text.steps or ())
        return Said(Word.REFUSE, self._refuse(_COPIES)) if is_copy else Said(Word.PASS)

    def bound(self, text: Text, values: bytes | None) -> Text:
        """With the values behind it, as far as recordings may hold them: who says yes should see them."""
        self._ledger.bound(text)
        told = _LONG_VALUES if values is None else shown_values(values_told(values, 0, self._telling))
        if not told:
            return text
        steps = tuple(step._replace(sql=step.sql + f"  -- {told}".encode()) for step in text.steps or ())
        digest = sha256(f"{text.digest}\n{told}".encode()).hexdigest()
        return text._replace(digest=digest, steps=steps if text.steps is not None else None)

    def query(self, text: Text) -> Said:
        return self._said(self._ledger.query(text), (text,))

    def run(self, texts: frozenset[Text]) -> Said:
        return self._said(self._ledger.run(texts), texts)

    def _said(self, ruling: Ruling, texts: "frozenset[Text] | tuple[Text, ...]") -> Said:
        if ruling.broken is not None:
            return Said(Word.REFUSE, self._refuse(ruling.broken))
        names = [step.prepares.encode() for text in texts for step in text.steps or () if step.prepares]
        hides = any(step.hides for text in texts for step in text.steps or ())
        return Said(_WORDS[ruling.verdict], names=tuple(names), hides=hides)


_LONG_VALUES = "its values are too long to be shown"


def shown_values(told: bytes) -> str:
    """What a record says of values (`ValueList.listed`), for people."""
    found = json.loads(b"{%b}" % told[1:])
    shown = [f"${n} = {_shown(each)}" for n, each in enumerate(found.get("params", ()), 1)]
    left = found.get("params_left_out", 0)
    text = ", ".join([*shown, *([f"{left:,} values that are not shown"] if left else [])])
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} …"


def _shown(value: object) -> str:
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    length, octets = value["length"], value.get("hex", "")
    if len(octets) == 2 * length:
        return f"\\x{octets}"
    return f"{length:,} bytes ({'keyed' if 'keyed' in value else 'sha256'} {value.get('keyed') or value['sha256']})"


_WORDS = {Verdict.PASS: Word.PASS, Verdict.HOLD: Word.HOLD, Verdict.ASK: Word.ASK}
