"""One database session: bytes both ways with back-pressure, every statement recorded, ended at once when told to."""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from gateway.app.recording_ports import Recording, RecordingFailed
from gateway.app.statement_ports import Statement
from gateway.core.bind_parameters import BindParameters
from gateway.core.errors import Conflict, Refusal
from gateway.core.session import EndReason
from gateway.edges.proxy.postgres_books import Backlog, Books, Unaccountable, telling, violation
from gateway.edges.proxy.postgres_leg import Leg, Pause
from gateway.edges.proxy.postgres_refusals import of_end, of_long_statement
from gateway.edges.proxy.postgres_room import Room
from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_account import Entry
from gateway.wire.postgres_messages import Report, error_response, notice_response
from gateway.wire.postgres_walk import StatementTooLong

_HELD_HIGH = 1 << 16  # bytes that may wait for their record before the client is paused
_LATER = 1 << 14  # bytes of a chunk that may go on before it is accounted for
_LATER_ALL = 1 << 15  # of all such chunks of a session
_BOUNDARY_S = 0.3  # how long a cut session may wait for the end of a message under way
_LAST_WORDS_S = 0.5  # for a client that does not read; with what comes before, a cut takes less than a second
_DRAIN_S = 10.0
_CANCEL_AGAIN_S = 0.05  # while the statement waits for its record
_WARNING = "01000"


class PostgresSession:
    """A `LiveSession`. Everything but `terminate` and `warn` runs on the event loop.

    `over` resolves once, to why the session ended, when both legs are closing.

    Small chunks go on at once and are accounted for within milliseconds, many together (`Backlog.soon`); those from the
    client only where a statement need not be on disk first. Whatever depends on the account settles it first.
    """

    def __init__(
        self,
        client: Leg,
        recording: Recording,
        now: Callable[[], datetime],
        backlog: Backlog,
        *,
        is_strict: bool,
        bind_parameters: BindParameters = BindParameters.FULL,
        replicates: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[tuple[EndReason, str]] = self._loop.create_future()
        self._client = client
        self._target: Leg | None = None
        self._recording = recording
        self._is_strict = is_strict
        self._is_crowded = False
        self._backlog = backlog
        self._room = Room(recording, backlog, self._pause_for_room, self._kept)
        self._stalled = b""  # from the client, recorded in part: goes on when the recorder has taken the rest
        # What went on and cannot be read is recorded as it is, so where that may not be nothing goes on unread.
        self._reads_first = is_strict or bind_parameters.hides()
        self._books = Books(now, telling(bind_parameters), replicates=replicates)
        self._account = self._books.account
        self._come: list[bytes] = []  # from the client, not looked at yet
        self._held: deque[tuple[bytes, int]] = deque()  # chunks, each with the record it waits for
        self._held_bytes = 0  # of these and what has come
        self._warnings: list[str] = []
        self._ending: tuple[EndReason, str] | None = None
        self._client_is_gone = False
        self.left_work = False  # it ended while the target worked for it
        self._last_words = b""
        self.cancel_request: Callable[[], Coroutine[Any, Any, None]] | None = None  # once the target is known
        self._cancel_asked: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ LiveSession: from any thread

    def terminate(self, reason: EndReason, detail: str = "") -> None:
        """Tell the person, close both legs. Idempotent."""
        with suppress(RuntimeError):  # the loop is closed: so is the session
            self._loop.call_soon_threadsafe(self.end, reason, detail)

    def warn(self, sentence: str) -> None:
        """A NoticeResponse between two messages."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._warn, sentence)

    def lock(self, *, locked: bool) -> None:  # noqa: ARG002 - the interface
        """A statement that is held back would hold its transaction's locks: core refuses before this is reached."""
        raise Conflict(Refusal("lock-not-supported", "A database session cannot be locked, only ended."))

    def idle_for(self) -> timedelta:
        """Databases limit idle transactions themselves; an idle connection holds nothing."""
        return timedelta(0)

    def statement(self) -> Statement | None:
        """See `LiveSession`."""
        running = self._account.running()
        return running and Statement(running[0], running[1], timedelta(seconds=monotonic() - running[2]))

    def cancel(self, by: str, n: int) -> None:
        """See `LiveSession`."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cancel_statement_of, by, n)

    # ------------------------------------------------------------ on the loop

    async def wait_over(self) -> tuple[EndReason, str]:
        """Why the session ended, once it has."""
        return await asyncio.shield(self.over)

    def note(self, kind: str, data: bytes) -> None:
        """Record something about the session itself."""
        self._books.note(Entry(kind, data))
        self._record()

    def start(self, target: Leg, greeting: bytes, early: bytes, late: bytes) -> None:
        """Begin the relay. `greeting` goes to the client first; `early` came behind its password, `late` behind the
        target's ReadyForQuery.
        """
        if self._ending is not None:
            target.abort()
            return
        self._target = target
        self._client.peer, target.peer = target, self._client
        self._client.write(greeting)
        if early:
            self._from_client(early)
        if late:
            self._from_target(late)
        self._client.relay(self._arrived if self._is_strict else self._from_client, self._client_lost)
        target.relay(self._from_target, self._target_lost)

    def end(self, reason: EndReason, detail: str = "", *, report: Report | None = None) -> None:
        """Stop relaying; say why at the next message boundary; close. The first reason stands."""
        if self._ending is not None:
            return
        self._ending = (reason, detail)
        self._books.catch_up()
        self.left_work = self._account.owes_answers
        self._client.pause(Pause.ENDING)
        words = error_response(report or of_end(reason, detail))
        if self._target is None or self._target.is_lost or self._books.answers.is_at_boundary():
            self._finish(words)
        else:
            self._last_words = words
            self._loop.call_later(_BOUNDARY_S, self._finish, b"")

    def _is_over(self) -> bool:
        return self._ending is not None

    def _finish(self, words: bytes) -> None:
        if self.over.done() or self._ending is None:
            return
        self._client.write(words)
        self._client.close(_LAST_WORDS_S)
        if self._target is not None:
            self._target.abort()
        self.close_account()
        self.over.set_result(self._ending)

    def close_account(self) -> None:
        """Nothing is answered any more. Idempotent; the last records are `record_rest`'s."""
        self._books.close()
        self._room.clear()

    def record_rest(self) -> None:
        """The last records. To be called once, off the loop, when the session is over: this may block."""
        with suppress(RecordingFailed):
            self._recording.append_all(self._books.records)

    def _may_go_on(self, chunk: bytes) -> bool:
        is_waiting = self._is_crowded or self._books.records or self._stalled
        return len(chunk) <= _LATER and not is_waiting

    def _go_on(self, leg: Leg, chunk: bytes, *, is_asking: bool) -> None:
        leg.write(chunk)
        if self._books.later(chunk, is_asking=is_asking):
            self._backlog.soon(self.settle)
        if self._books.passed_bytes > _LATER_ALL:
            self.settle()

    def settle(self) -> None:
        """Account for what has gone on, and record it."""
        self._settle(self._books.catch_up())

    def _settle(self, why: ProtocolViolation | None) -> None:
        if self._ending is not None:
            return
        if self._books.records:
            self._record()
        self._mind_the_crowd()
        if why is not None:
            self._break(why)

    def _break(self, why: ProtocolViolation) -> None:
        reason = EndReason.PROTOCOL_VIOLATION if self._books.is_unreadable else EndReason.TARGET_CLOSED
        if isinstance(why, Unaccountable):
            reason = EndReason.GATEWAY_FAULT
        self.end(reason, str(why), report=of_long_statement() if isinstance(why, StatementTooLong) else None)

    def _mind_the_crowd(self) -> None:
        if self._account.is_crowded and not self._is_crowded:
            self._is_crowded = True
            self._client.pause(Pause.CROWDED)
        elif self._is_crowded and not self._account.is_crowded:
            self._is_crowded = False
            self._client.resume(Pause.CROWDED)

    def _arrived(self, chunk: bytes) -> None:
        """Under `require`: it waits for others, with which its record is written."""
        if not self._come:
            self._backlog.ahead(self._take_in)
        self._come.append(chunk)
        self._held_bytes += len(chunk)
        if self._held_bytes > _HELD_HIGH:
            self._client.pause(Pause.NOT_DURABLE)

    def _take_in(self) -> None:
        come, self._come = self._come, []
        for chunk in come:
            self._held_bytes -= len(chunk)
            try:
                self._from_client(chunk)
            except Exception as fault:  # noqa: BLE001 - see `violation`; the client may be gone, so nobody else ends it
                self._books.is_unreadable = True
                self._break(violation(fault))
        if self._held_bytes <= _HELD_HIGH:
            self._client.resume(Pause.NOT_DURABLE)

    def _from_client(self, chunk: bytes) -> None:
        if self._ending is not None or self._target is None:
            return
        if not self._reads_first and self._may_go_on(chunk):
            self._go_on(self._target, chunk, is_asking=True)
            return
        wrong = self._books.catch_up()  # its records go with those of this chunk
        if wrong is not None:
            self._settle(wrong)
            return
        try:
            self._books.ask(chunk)
        except ProtocolViolation as why:
            self._books.is_unreadable = True
            self._break(why)
            return
        waits_for = self._record() if self._books.records else None
        if self._is_over():
            return
        self._mind_the_crowd()
        if self._books.records or self._stalled:
            self._stalled += chunk
        else:
            self._send_on(chunk, waits_for)

    def _send_on(self, chunk: bytes, waits_for: int | None) -> None:
        if self._target is None:
            return
        if self._is_strict and (self._held or waits_for is not None):
            self._hold(chunk, waits_for)
        else:
            self._target.write(chunk)

    def _hold(self, chunk: bytes, waits_for: int | None) -> None:
        """No statement goes on before its record is on disk."""
        self._held.append((chunk, self._held[-1][1] if waits_for is None else waits_for))
        self._held_bytes += len(chunk)
        if self._held_bytes > _HELD_HIGH:
            self._client.pause(Pause.NOT_DURABLE)
        if waits_for is not None:
            self._backlog.await_durable(self._recording, waits_for, self._release)

    def _release(self, seq: int, ok: bool) -> None:
        if self._ending is not None or self._target is None:
            return
        if not ok:
            self.end(EndReason.RECORDING_FAILED)
            return
        while self._held and self._held[0][1] <= seq:
            chunk, _ = self._held.popleft()
            self._held_bytes -= len(chunk)
            self._target.write(chunk)
        if self._held_bytes <= _HELD_HIGH:
            self._client.resume(Pause.NOT_DURABLE)
        if self._client_is_gone and not self._held:
            self._leave()

    def _from_target(self, chunk: bytes, *, is_shown: bool = True) -> None:
        if self.over.done():
            return
        if not self._warnings and self._ending is None and self._may_go_on(chunk):
            self._go_on(self._client, chunk, is_asking=False)
            return
        self.settle()
        if self.over.done():
            return
        try:
            if self._warnings or self._ending is not None:
                chunk = self._cut_in(chunk, is_shown=is_shown)
            self._books.answer(chunk)
        except ProtocolViolation as why:
            self._break(why)
            return
        if self._books.records:
            self._record()
        self._mind_the_crowd()
        if is_shown and not self.over.done():
            self._client.write(chunk)

    def _cut_in(self, chunk: bytes, *, is_shown: bool = True) -> bytes:
        """Put our own messages in at the boundary inside `chunk`; what of it is still to be relayed."""
        boundary = self._books.answers.boundary_in(chunk)
        if boundary is None:
            return chunk
        self._books.answer(chunk[:boundary])
        if is_shown:
            self._client.write(chunk[:boundary])
        if self._ending is not None:
            self._finish(self._last_words)
            return b""
        self._flush_warnings()
        return chunk[boundary:]

    def _warn(self, sentence: str) -> None:
        self.settle()
        if self._ending is None:
            self._warnings.append(sentence)
            if self._target is not None and self._books.answers.is_at_boundary():
                self._flush_warnings()

    def _cancel_statement_of(self, by: str, n: int) -> None:
        """The client's next statement waits until the cancel request is through: it must not hit that one."""
        self._take_in()
        self.settle()
        running = self._account.running()
        if running is None or n not in (0, running[0]) or self.cancel_request is None or self._ending is not None:
            return
        is_waiting = self._held or self._stalled  # for its record: it is not at the target yet
        if is_waiting or self._cancel_asked is not None:  # or another cancel is under way
            self._loop.call_later(_CANCEL_AGAIN_S, self._cancel_statement_of, by, running[0])
            return
        self.note("cancel", json.dumps({"n": running[0], "by": by}).encode())
        self._client.pause(Pause.CANCELLING)
        self._cancel_asked = self._loop.create_task(self.cancel_request())
        self._cancel_asked.add_done_callback(self._cancel_is_through)
        self._warn(f"gateway: {by} cancels your statement.")

    def _cancel_is_through(self, _: "asyncio.Task[None]") -> None:
        self._cancel_asked = None
        self._client.resume(Pause.CANCELLING)

    def _flush_warnings(self) -> None:
        for sentence in self._warnings:
            self._client.write(notice_response(Report("WARNING", _WARNING, sentence)))
        self._warnings.clear()

    def _client_lost(self) -> None:
        self._take_in()
        self._client_is_gone = True
        self.settle()
        if self._account.said_goodbye and self._target is not None and not self._target.is_lost:
            # The target closes when it has done what it was sent; its answers still belong into the record.
            self._loop.call_later(_DRAIN_S, self._leave)
        elif not self._held and not self._stalled:
            self._leave()

    def _leave(self) -> None:
        """The client is gone: let the target read what it was sent, then close."""
        self.settle()
        if self._ending is not None:
            return
        self.left_work = self._account.owes_answers
        self._ending = (EndReason.CLIENT_CLOSED, "a statement was under way" if self.left_work else "")
        if self._target is not None:
            self._target.close()
        self.close_account()
        if not self.over.done():
            self.over.set_result(self._ending)

    def _target_lost(self) -> None:
        self.settle()
        if self._ending is not None:
            self._finish(b"")
            return
        if self._account.said_goodbye:
            self._ending = (EndReason.CLIENT_CLOSED, "")
            words = b""
        else:
            self._ending = (EndReason.TARGET_CLOSED, "")
            is_clean = self._books.answers.is_at_boundary() and not self._account.heard_fatal
            words = error_response(of_end(*self._ending)) if is_clean else b""
        self._client.write(words)
        self._client.close(_DRAIN_S)
        self.close_account()
        self.over.set_result(self._ending)

    def _record(self) -> int | None:
        """Give the recorder what there is to record; the last one's number. Never waits: it would for a slow disk,
        and with it every session of this loop, so both legs are paused instead and the rest is kept here.
        """
        try:
            return self._room.give(self._books.records)
        except RecordingFailed:
            self.end(EndReason.RECORDING_FAILED)
            return None

    def _pause_for_room(self) -> None:
        self._client.pause(Pause.SPOOL)
        if self._target is not None:
            self._target.pause(Pause.SPOOL)

    def _kept(self, ok: bool) -> None:
        """The recorder has room again: go on where the session stopped."""
        if self.over.done():  # `record_rest` does the rest
            return
        if not ok:
            self.end(EndReason.RECORDING_FAILED)
            return
        waits_for = self._record()
        if self._books.records or self._ending is not None:
            return
        stalled, self._stalled = self._stalled, b""
        if stalled:
            self._send_on(stalled, waits_for)
        if not self._room.is_asking:
            self._client.resume(Pause.SPOOL)
            if self._target is not None:
                self._target.resume(Pause.SPOOL)
        if self._client_is_gone and not self._held:
            self._leave()
