"""The statement account, quicker for round trips that come in one chunk either way (`postgres_quick`).

A round is one step while nothing else is owed; as soon as anything else happens it is unrolled into the steps that it
is made of, so that there is one set of rules only.
"""

from gateway.wire.postgres_account import SHOWN, Entry, Run, Step, attempt, outcome, plain_attempt, tag_of
from gateway.wire.postgres_copies import NewDigest
from gateway.wire.postgres_quick import Asked, Reply
from gateway.wire.postgres_statements import NAME_BYTES, UNNAMING, StatementAccount
from gateway.wire.postgres_transactions import TURNS, turn_of

_QUERY, _BIND, _EXECUTE, _DESCRIBE, _SYNC = b"QBEDS"
_SPECIAL = UNNAMING | TURNS  # tags that change more than their own statement's account
_ROUND = 1  # Bind, perhaps Describe, Execute and Sync in one: no message has this number


class RoundAccount(StatementAccount):
    """Told of every message that matters, or of several at once."""

    def __init__(self, new_digest: NewDigest) -> None:
        super().__init__(new_digest)
        self._rounds = 0  # of the steps owed

    def rows(self, count: int, size: int) -> None:
        """See `StatementAccount`."""
        if self._rounds:
            self._unroll()
        super().rows(count, size)

    def copied_out(self, size: int, data: bytes) -> None:
        """See `StatementAccount`."""
        if self._rounds:
            self._unroll()
        super().copied_out(size, data)

    def answered(self, kind: int, head: bytes, at: float) -> None:
        """See `StatementAccount`."""
        if self._rounds:
            self._unroll()
        super().answered(kind, head, at)

    def close(self, at: float) -> None:
        """See `StatementAccount`."""
        self._unroll()
        super().close(at)

    def may_round(self) -> bool:
        """True while a round (see `round`) is nothing special."""
        return not self._skipping and self._copying is None

    def round(self, source: bytes, values: bytes, at: float, *, is_described: bool) -> None:
        """Bind to the unnamed portal, (Describe,) Execute and Sync: the same as telling each."""
        if self._ahead is not None:
            self._seal_ahead()
        step = self._bound(b"", source[:NAME_BYTES], values, at)
        step.kind = _ROUND
        step.is_described = is_described
        self._owed.append(step)
        self._rounds += 1

    def is_idle(self) -> bool:
        """True when nothing is owed, and the next question is nothing special."""
        return not self._owed and self.may_round()

    def trip(self, asked: Asked, reply: Reply, ms: float) -> tuple[Entry, Entry] | None:
        """A question and its answer, both whole, while the account is idle: attempt and result. None when it has to be
        told message by message.
        """
        transactions = self._transactions
        tag, number = tag_of(reply.tag)
        if not tag or tag in _SPECIAL or reply.status != (b"T" if transactions.current else b"I"):
            return None
        run = Run(self._number + 1)
        told = self._attempted(run, asked)
        if told is None:
            return None
        if not asked.is_query:
            self._portals.accept(b"", run)
        self._newest = run.number
        transactions.warning = ""
        if not transactions.current:
            self._portals.accepted.clear()
        run.returned = run.returned_before = reply.rows
        run.affected = reply.rows if number is None else number
        run.bytes_out, run.tags, run.tx = reply.size, (tag,), transactions.current
        result = outcome(run, ms, "done")
        run.reset()
        return told, result

    def opens(self, asked: Asked, at: float) -> Entry | None:
        """A question, whole, while the account is idle: its attempt; the answer is owed. None when it has to be told
        message by message.
        """
        if self._ahead is not None:
            self._seal_ahead()
        run = Run(self._number + 1)
        told = self._attempted(run, asked)
        if told is None:
            return None
        if asked.is_query:
            run.shown = asked.source[:SHOWN]
            turn = turn_of(asked.source)
            if turn:
                run.turn = turn
            self._owed.append(Step(_QUERY, at, run))
            return told
        step = Step(_ROUND, at, run)
        step.source = asked.source[:NAME_BYTES]
        step.text = self._statements.look(step.source)
        step.is_described = asked.is_described
        self._owed.append(step)
        self._rounds += 1
        return told

    def _attempted(self, run: Run, asked: Asked) -> Entry | None:
        """The next run's attempt; None for a statement that was never told, or is not known."""
        if asked.is_query:
            told = plain_attempt(run, asked.source)
        else:
            text = self._statements.look(asked.source[:NAME_BYTES])
            if text is None or not text.told:
                return None
            told = attempt(run, "extended", text, asked.values)
            run.shown, run.turn = text.sql[:SHOWN], text.turn
            self._portals.propose(b"", run)
        self._number = run.number
        return told

    def lone(self) -> Step | None:
        """The query or round that is all that is owed, if nothing was answered of it yet."""
        if len(self._owed) != 1:
            return None
        step = self._owed[0]
        is_fresh = step.kind == _ROUND or (step.kind == _QUERY and step.run is not None and step.run.is_fresh())
        return step if is_fresh else None

    def replied(self, step: Step, reply: Reply, at: float) -> bool:
        """All that is owed for the lone step has come. False when it has to be told message by message."""
        tag, number = tag_of(reply.tag)
        run = step.run
        if run is None or not tag or tag in _SPECIAL:
            return False
        if reply.status != (b"T" if self._transactions.current else b"I"):
            return False
        run.returned, run.bytes_out, run.tags = reply.rows, reply.size, (tag,)
        run.returned_before = reply.rows
        run.affected = reply.rows if number is None else number
        self._owed.clear()
        self._copying = None
        self._transactions.warning = ""
        if step.kind == _ROUND:
            self._rounds = 0
            self._portals.accept(b"", run)
        self._finish(step, at, "done")
        if reply.status == b"I":
            self._portals.accepted.clear()
        return True

    def _unroll(self) -> None:
        """Every round becomes its steps."""
        self._rounds, rolled = 0, tuple(self._owed)
        self._owed.clear()
        for step in rolled:
            self._owed.append(step)
            if step.kind == _ROUND:
                step.kind = _BIND
                kinds = (_DESCRIBE, _EXECUTE, _SYNC) if step.is_described else (_EXECUTE, _SYNC)
                self._owed.extend(Step(k, step.at, step.run if k == _EXECUTE else None) for k in kinds)
