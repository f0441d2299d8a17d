"""A session's account kept beside its bytes: at once where somebody waits for it, else many chunks together."""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from time import monotonic
from traceback import extract_tb

from blake3 import blake3

from gateway.app.recording_ports import Recording
from gateway.audit.recording import unix_ns
from gateway.core.bind_parameters import BindParameters
from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_account import Entry, unread
from gateway.wire.postgres_machine import REPLICATION_MESSAGES, SERVER_MESSAGES
from gateway.wire.postgres_quick import asked_of, reply_of
from gateway.wire.postgres_rounds import RoundAccount
from gateway.wire.postgres_values import TELL_ALL, Telling
from gateway.wire.postgres_walk import ClientWalk, ServerWalk

LOG = logging.getLogger(__name__)
_SOON_S = 0.005
_ORIGIN_S = 0.05  # how long the wall clock is taken to go as the steady one does
_AT_ONCE_S = 0.002  # how long the loop's other work waits for accounts


class Backlog:
    """What the sessions of one door have not accounted for yet, and what the recorder has not said to be on disk."""

    def __init__(self) -> None:
        self.bytes = 0
        self.owing: set[Callable[[], None]] = set()  # of each session with such bytes: has the recorder kept them?
        self._due: deque[Callable[[], None]] = deque()
        self._is_set = False
        self._ahead: deque[Callable[[], None]] = deque()
        self._is_gathering = False
        self._news: deque[tuple[Callable[[int, bool], None], int, bool]] = deque()
        self._is_telling = False

    def soon(self, settle: Callable[[], None]) -> None:
        """Call `settle` within milliseconds, together with others: warm, this code takes a third of the time."""
        self._due.append(settle)
        if not self._is_set:
            self._is_set = True
            asyncio.get_running_loop().call_later(_SOON_S, self._settle)

    def _settle(self) -> None:
        until = monotonic() + _AT_ONCE_S
        self._is_set = False
        try:
            while self._due and monotonic() < until:
                self._due.popleft()()
        finally:
            if self._due and not self._is_set:
                self._is_set = True
                asyncio.get_running_loop().call_soon(self._settle)

    # ------------------------------------------------------------ where records come first

    def ahead(self, take_in: Callable[[], None]) -> None:
        """Call `take_in`, for a session whose statements must be on disk before they go on, together with all that this
        turn of the loop has brought. The recorder gathers by itself what comes while its disk writes.
        """
        self._ahead.append(take_in)
        if not self._is_gathering:
            self._is_gathering = True
            asyncio.get_running_loop().call_soon(self._gather)

    def _gather(self) -> None:
        until = monotonic() + _AT_ONCE_S
        self._is_gathering = False
        try:
            while self._ahead and monotonic() < until:
                self._ahead.popleft()()
        finally:
            if self._ahead:
                self._is_gathering = True
                asyncio.get_running_loop().call_soon(self._gather)

    def await_durable(self, recording: Recording, seq: int, release: Callable[[int, bool], None]) -> None:
        """Call `release` with `seq`, and whether it is on disk, when that is decided."""
        loop = asyncio.get_running_loop()
        recording.on_durable(seq, lambda ok: self._told(loop, (release, seq, ok)))

    def _told(self, loop: asyncio.AbstractEventLoop, news: tuple[Callable[[int, bool], None], int, bool]) -> None:
        """From the recorder's thread: one wake for all that a sync has brought."""
        self._news.append(news)
        if not self._is_telling:
            self._is_telling = True
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        try:
            while self._news:
                release, seq, ok = self._news.popleft()
                release(seq, ok)
        finally:
            if self._news:  # one session's fault is not the others'
                asyncio.get_running_loop().call_soon(self._tell)


class Books:
    """Walks and account of one session, and the records that come of them: kind, unix ns and content.

    INVARIANT: what went on to the target is in the records, as statements or, where it breaks the protocol, unread.
    """

    def __init__(self, now: Callable[[], datetime], telling: Telling = TELL_ALL, *, replicates: bool = False) -> None:
        self.telling = telling
        self.account = RoundAccount(blake3)
        self.asks = ClientWalk(self.account, telling)
        self.answers = ServerWalk(self.account, REPLICATION_MESSAGES if replicates else SERVER_MESSAGES)
        self.records: list[tuple[str, int, bytes]] = []  # for the caller to take
        self.is_unreadable = False  # what the client sent breaks the protocol
        self.passed_bytes = 0
        self._passed: list[tuple[bool, bytes, float]] = []  # from the client?, the chunk, when it came
        self._now = now
        self._origin_ns = 0
        self._origin_at = -_ORIGIN_S - 1.0

    def note(self, entry: Entry) -> None:
        """Put in a record of our own."""
        self.account.entries.append(entry)
        self._tell_all(monotonic())

    def ask(self, chunk: bytes) -> None:
        """Account at once for what the client sent; ProtocolViolation."""
        at = monotonic()
        try:
            if self._open(chunk, at):
                return
        except Exception as fault:
            raise violation(fault) from fault
        self._feed(self.asks, chunk, at)

    def answer(self, chunk: bytes) -> None:
        """Account at once for what the target sent; ProtocolViolation."""
        self._feed(self.answers, chunk, monotonic())

    def later(self, chunk: bytes, *, is_asking: bool) -> bool:
        """Account for this chunk, which has gone on, at the next `catch_up`; True when it is the first such."""
        self._passed.append((is_asking, chunk, monotonic()))
        self.passed_bytes += len(chunk)
        return len(self._passed) == 1

    def catch_up(self) -> ProtocolViolation | None:
        """Account for what has gone on; the first thing that was wrong with it."""
        if not self._passed:
            return None
        passed, self._passed, self.passed_bytes = self._passed, [], 0
        origin, first = self._origin(monotonic()), None
        is_idle, place = self._is_idle(), 0
        while place < len(passed):
            is_asking, chunk, at = passed[place]
            try:
                if is_idle and self._trip(passed, place, origin):
                    place += 2
                    continue
                place += 1
                if not is_asking:
                    self.answers.feed(chunk, at)
                elif self.is_unreadable:
                    self.account.entries.append(unread(chunk))
                else:
                    self.asks.feed(chunk, at)
            except Exception as fault:  # noqa: BLE001 - see `violation`
                first = first or violation(fault)
                if is_asking:
                    self.is_unreadable = True
                    self.account.entries.append(unread(chunk))
            self._collect(at, origin)
            is_idle = first is None and self._is_idle()
        return first

    def _is_idle(self) -> bool:
        is_between = self.asks.is_at_boundary() and self.answers.is_at_boundary()
        return is_between and self.account.is_idle() and not self.is_unreadable

    def _trip(self, passed: list[tuple[bool, bytes, float]], place: int, origin: int) -> bool:
        """True when a question and its answer, both whole, come next and were accounted for in one."""
        if place + 1 == len(passed):
            return False
        is_asking, question, asked_at = passed[place]
        is_asking_again, answer, at = passed[place + 1]
        if not is_asking or is_asking_again:
            return False
        asked = asked_of(question, self.telling)
        reply = asked and reply_of(answer, is_bound=not asked.is_query, is_described=asked.is_described)
        told = asked and reply and self.account.trip(asked, reply, (at - asked_at) * 1000)
        if not told:
            return False
        (attempt, tried), (result, done) = told
        self.records += (attempt, origin + int(asked_at * 1e9), tried), (result, origin + int(at * 1e9), done)
        return True

    def close(self) -> None:
        """Nothing is answered any more. Idempotent."""
        self.catch_up()
        self.account.close(monotonic())
        self._tell_all(monotonic())

    def _tell_all(self, at: float) -> None:
        self._collect(at, self._origin(at))

    def _feed(self, walk: ClientWalk | ServerWalk, chunk: bytes, at: float) -> None:
        try:
            walk.feed(chunk, at)
        except Exception as fault:
            raise violation(fault) from fault
        finally:
            if self.account.entries:
                self._collect(at, self._origin(at))

    def _open(self, chunk: bytes, at: float) -> bool:
        """True when this is one whole question, nothing else is under way, and it was accounted for in one."""
        if not self._is_idle():
            return False
        asked = asked_of(chunk, self.telling)
        told = asked and self.account.opens(asked, at)
        if not told:
            return False
        self.records.append((told.kind, self._origin(at) + int(at * 1e9), told.data))
        return True

    def _origin(self, at: float) -> int:
        """The instant at which `monotonic` was 0, in unix ns; `at` is now."""
        if at - self._origin_at > _ORIGIN_S:
            self._origin_ns, self._origin_at = unix_ns(self._now()) - int(monotonic() * 1e9), at
        return self._origin_ns

    def _collect(self, at: float, origin: int) -> None:
        entries = self.account.entries
        if entries:
            at_ns = origin + int(at * 1e9)
            self.records += [(kind, at_ns, data) for kind, data in entries]
            entries.clear()


class Unaccountable(ProtocolViolation):
    """A mistake of ours, which stops what passes as one of a peer's does."""


def violation(fault: Exception) -> ProtocolViolation:
    """A mistake of ours ends the session as one of the peer's does: nothing passes that is not accounted for."""
    if isinstance(fault, ProtocolViolation):
        return fault
    log_where("a message could not be accounted for", fault)
    return Unaccountable("the gateway could not account for it")


def log_where(what: str, fault: Exception) -> None:
    """A mistake of ours, told by its place: its text may hold what somebody sent."""
    where = extract_tb(fault.__traceback__)[-1]
    LOG.error("%s: %s in %s, line %s", what, type(fault).__name__, where.name, where.lineno)


def telling(policy: BindParameters) -> Telling:
    """What the policy means for one session's records."""
    match policy:
        case BindParameters.FULL:
            return TELL_ALL
        case BindParameters.MASKED:
            return Telling(key=secrets.token_bytes(32))
        case BindParameters.NONE:
            return Telling(is_silent=True)
