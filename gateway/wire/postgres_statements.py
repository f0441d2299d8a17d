"""What a session does, statement by statement, kept in step with the server through any pipelining.

An attempt is told when a statement's last byte arrives from the client, before that chunk goes on; its result once
the server has answered. Rules that keep the account honest:

- The wire, not the SQL, says what a statement is: a Query inside COPY data is data.
- A prepared statement's text counts once the server has accepted its Parse. Attempts that were told with the text
  of a Parse that failed are told again, corrected.
- After an error in the extended protocol the server skips to the next Sync, and so does the account.
- Sync and Flush are ignored by a server that reads COPY data ("COPY Operations" in the protocol's documentation).
"""

from contextlib import suppress

from gateway.wire.buffer import ProtocolViolation
from gateway.wire.postgres_account import (
    KEEP,
    KEEP_REPEATED,
    SHOWN,
    Entry,
    Names,
    Run,
    Step,
    Text,
    attempt,
    continued,
    outcome,
    tag_of,
    transaction,
)
from gateway.wire.postgres_copies import NewDigest
from gateway.wire.postgres_copy_account import CopyAccount
from gateway.wire.postgres_messages import parse_fields
from gateway.wire.postgres_transactions import TURNS, Transactions, Turn, turn_of

MAX_NAMES = 10_000  # prepared statements of one session whose text is remembered
MAX_TEXT = 4 << 20  # bytes of text remembered; beyond that a text is told at once and remembered in part
CROWDED = 20_000  # answers owed; the edge stops reading from the client beyond
NAME_BYTES = 63  # the server tells names apart by so many bytes (NAMEDATALEN - 1)
_MAX_TAGS = 20
_LOOK = 8
UNNAMING = frozenset(("DEALLOCATE", "DEALLOCATE ALL", "DISCARD ALL", "PREPARE"))  # command tags
_SYNC, _QUERY, _PARSE, _BIND, _EXECUTE, _CLOSE, _CALL, _DESCRIBE = b"SQPBECFD"
_COPY_DONE, _COPY_FAIL, _TERMINATE = b"cfX"


class StatementAccount(CopyAccount):
    """Told of every message that matters; `entries` fills with records, in order, for the caller to take.

    `new_digest` is BLAKE3's, for COPY data: its name is in the records.
    """

    def __init__(self, new_digest: NewDigest) -> None:
        super().__init__(new_digest)
        self.entries: list[Entry] = []
        self.said_goodbye = False  # the client's Terminate
        self.heard_fatal = False  # the server has said itself why it leaves
        self._transactions = Transactions()
        self._number = 0
        self._newest = 0  # number of the statement that was answered last
        self._statements: Names[Text] = Names()
        self._portals: Names[Run] = Names()
        self._remembered = 0
        self._has_deallocated = False  # by SQL, some name that the tag does not tell

    @property
    def is_crowded(self) -> bool:
        """True while the server owes so many answers that the client must wait."""
        return len(self._owed) > CROWDED

    @property
    def owes_answers(self) -> bool:
        """True while the server has not answered everything."""
        return bool(self._owed)

    @property
    def transaction(self) -> int:
        """The number of the explicit transaction that is open, 0 for none."""
        return self._transactions.current

    def running(self) -> tuple[int, bytes, float] | None:
        """What the server works on: number, head of the text, when it was asked. From any thread: a guess at worst."""
        with suppress(IndexError):
            for place in range(_LOOK):  # Parse and Bind come before what they are for
                step = self._owed[place]
                run = step.run
                if run is not None and step.kind != _BIND:
                    return run.number, run.shown, step.at
        return None

    # ------------------------------------------------------------ from the client

    def asked(self, kind: int, head: bytes, at: float) -> None:
        """A whole message without SQL or values. `head` is at least the part of the body that holds its names."""
        if kind == _EXECUTE:
            self._execute(_name(head), at)
        elif kind in (_COPY_DONE, _COPY_FAIL):
            self._copy_ends(kind, at)
        elif kind == _TERMINATE:
            self.said_goodbye = True
        elif kind == _CLOSE:
            step = Step(kind, at)
            step.name = head[:1] + _name(head[1:])
            self._owe(step)
        elif kind in (_SYNC, _DESCRIBE):
            self._owe(Step(kind, at))

    def query(self, text: Text, at: float) -> None:
        """A simple Query, which may hold several statements."""
        run = self._new()
        run.shown = text.sql[:SHOWN]
        turn = turn_of(text.sql)
        if turn:
            run.turn = turn
        self._tell(run, "simple", text)
        self._owe(Step(_QUERY, at, run))

    def parse(self, name: bytes, text: Text, at: float) -> None:
        """A Parse. It runs nothing, so it is told with its first Bind."""
        name = name[:NAME_BYTES]
        text.name = name.decode(errors="backslashreplace")
        text.turn = turn_of(text.sql)
        if self._remembered + len(text.sql) > MAX_TEXT:
            self._tell_only(text)
        self._remembered += len(text.sql)
        self._statements.propose(name, text)
        step = Step(_PARSE, at)
        step.text, step.name = text, name
        self._owe(step)

    def call(self, oid: int, values: bytes, at: float) -> None:
        """A FunctionCall; `values` as in `bind`."""
        run = self._new()
        self.entries.append(attempt(run, "function", None, values, oid=oid))
        self._owe(Step(_CALL, at, run))

    def bind(self, portal: bytes, source: bytes, values: bytes, at: float) -> None:
        """A Bind: the statement `source` is about to run, with these parameters (`Values.told`)."""
        portal, source = portal[:NAME_BYTES], source[:NAME_BYTES]
        self._owe(self._bound(portal, source, values, at))

    def _bound(self, portal: bytes, source: bytes, values: bytes, at: float) -> Step:
        text = self._statements.look(source)
        run = self._new()
        if text is not None:
            self._tell(run, "extended", text, values)
            run.shown = text.sql[:SHOWN]
            if text.turn:
                run.turn = text.turn
        else:
            self.entries.append(attempt(run, "extended", None, values, name=source.decode(errors="backslashreplace")))
        self._portals.propose(portal, run)
        step = Step(_BIND, at, run)
        step.text, step.name, step.source = text, portal, source
        return step

    def _execute(self, portal: bytes, at: float) -> None:
        run = self._portals.look(portal)
        if run is None and not self._skipping:  # a cursor that SQL declared
            run = self._new()
            self.entries.append(attempt(run, "extended", None, portal=portal.decode(errors="backslashreplace")))
        step = Step(_EXECUTE, at, run)
        step.name = portal
        self._owe(step)

    def _owe(self, step: Step) -> None:
        if step.kind != _SYNC:
            self._seal_ahead()
        if self._copying is not None:
            if step.kind != _SYNC:
                raise ProtocolViolation("only COPY data may be sent while the target reads it")
        elif not self._skipping:
            self._owed.append(step)
        elif step.kind == _SYNC:
            self._skipping = False
            self._owed.append(step)
        else:
            self._skip([step], step.at)

    def _new(self) -> Run:
        self._number += 1
        return Run(self._number)

    def _tell(self, run: Run, protocol: str, text: Text | None, values: bytes = b"", **more: object) -> None:
        is_long = text is not None and not text.told and len(text.sql) > KEEP
        self.entries.append(attempt(run, protocol, text, values, **more))
        if is_long and text is not None:
            self.entries.extend(continued(run, text))

    def _tell_only(self, text: Text) -> None:
        if not text.told:
            self._tell(self._new(), "extended", text, step="parse")
        text.sql = text.sql[:KEEP_REPEATED]

    # ------------------------------------------------------------ from the server

    def rows(self, count: int, size: int) -> None:
        """`count` DataRow messages of `size` bytes in all."""
        step = self._due()
        run = step.run if step else None
        if run is not None:
            run.returned += count
            run.bytes_out += size

    def answered(self, kind: int, head: bytes, at: float) -> None:
        """Any other message, with (at least the head of) its body where it is an error, a tag or a ready."""
        if kind == 0x5A:
            self._ready(head, at)
        elif kind == 0x45:
            fields = parse_fields(head)
            self.heard_fatal |= fields.get("V", fields.get("S")) in ("FATAL", "PANIC")
            self._error(fields.get("C", "XX000")[:5], at)  # a server may leave out even the SQLSTATE: CVE-2026-6666
        elif kind == 0x4E:
            self._transactions.warned(head)
        elif (step := self._due()) is not None:
            if kind in (0x43, 0x49):
                self._completed(step, head, at)
            elif kind == 0x73 and step.kind == _EXECUTE:
                self._finish(self._owed.popleft(), at, "suspended")
            elif kind in b"GHW":
                self._copies(step, kind)
            elif _ANSWERS.get(kind) == step.kind or (kind in b"Tn" and step.kind == _DESCRIBE):
                self._accepted(self._owed.popleft())

    def close(self, at: float) -> None:
        """The session is over: what was never answered has an unknown outcome."""
        while self._owed:
            step = self._owed.popleft()
            if step.run is not None and not step.run.is_reported:
                self._finish(step, at, "unknown")
        self._transactions.lose()
        self._tell_transactions()

    def _tell_transactions(self) -> None:
        """Behind the result of the statement that ended them."""
        ended = self._transactions.ended
        if ended:
            self.entries.extend(transaction(each) for each in ended)
            ended.clear()

    def _accepted(self, step: Step) -> None:
        if step.kind == _PARSE and step.text is not None:
            old = self._statements.accepted.get(step.name)
            self._remembered -= len(old.sql) if old else 0
            self._statements.accept(step.name, step.text)
            self._forget_oldest()
        elif step.kind == _BIND and step.run is not None:
            self._portals.accept(step.name, step.run)
        elif step.kind == _CLOSE:
            self._closed(step.name[:1], step.name[1:])

    def _closed(self, kind: bytes, name: bytes) -> None:
        if kind == b"S":
            text = self._statements.accepted.pop(name, None)
            self._remembered -= len(text.sql) if text else 0
        else:
            self._portals.accepted.pop(name, None)

    def _forget_oldest(self) -> None:
        while len(self._statements.accepted) > MAX_NAMES:
            text = self._statements.accepted.pop(next(iter(self._statements.accepted)))
            self._remembered -= len(text.sql)
            self._tell_only(text)

    def _completed(self, step: Step, body: bytes, at: float) -> None:
        run = step.run
        if run is None or step.kind not in (_QUERY, _EXECUTE):
            return
        tag, number = tag_of(body)
        if tag in UNNAMING:
            self._renamed_by_sql(tag)
        self._take_part(run, tag)
        if tag and len(run.tags) < _MAX_TAGS:
            run.tags += (tag,)
        run.affected += run.returned - run.returned_before if number is None else number
        run.returned_before = run.returned
        if step.kind == _EXECUTE:
            self._finish(self._owed.popleft(), at, "done")
            self._tell_transactions()

    def _take_part(self, run: Run, tag: str) -> None:
        transactions = self._transactions
        before = transactions.current
        if tag in TURNS:
            transactions.tagged(tag, run.turn, run.number)
        elif transactions.warning:
            transactions.warning = ""
        if before or transactions.current:
            run.tx = before or transactions.current

    def _renamed_by_sql(self, tag: str) -> None:
        """Names that SQL has freed may mean another text by now, which was told with its PREPARE: none is believed."""
        if tag == "DEALLOCATE":
            self._has_deallocated = True
        elif tag != "PREPARE" or self._has_deallocated:
            self._has_deallocated = False
            self._forget_all()

    def _forget_all(self) -> None:
        gone = {id(text) for text in self._statements.accepted.values()}
        self._remembered -= sum(len(text.sql) for text in self._statements.accepted.values())
        self._statements.accepted.clear()
        for step in self._owed:  # told already, with a text that may be false
            if step.kind == _BIND and step.run is not None and id(step.text) in gone:
                step.text = None
                step.run.turn = Turn.UNKNOWN
                name = step.source.decode(errors="backslashreplace")
                self._tell(step.run, "extended", None, name=name, corrected=True)

    def _finish(self, step: Step, at: float, state: str) -> None:
        run = step.run
        if run is None:
            return
        if self._transactions.current and not run.tx and state != "skipped":
            run.tx = self._transactions.current
        self._newest = run.number
        self.entries.append(outcome(run, (at - step.at) * 1000, state))
        run.reset()

    def _ready(self, body: bytes, at: float) -> None:
        self._copying = None
        while self._owed:
            step = self._owed.popleft()
            if step.kind in (_QUERY, _CALL):
                self._finish(step, at, "done")
            if step.kind in (_QUERY, _CALL, _SYNC):
                break
        self._due()  # COPY data behind a COPY that has failed is owed no answer
        self._transactions.ready(body[:1], self._newest)
        self._tell_transactions()
        if body[:1] == b"I":  # outside a transaction no portal lives on
            self._portals.accepted.clear()

    def _error(self, sqlstate: str, at: float) -> None:
        self._copying = None
        step = self._due()
        if step is None or step.kind == _SYNC:  # of the connection, or of the commit: no statement's own
            run = Run(0)
            run.sqlstate = sqlstate
            self.entries.append(outcome(run, 0, "failed"))
        elif step.kind in (_QUERY, _CALL):
            if step.run is not None:
                step.run.sqlstate = sqlstate
        else:
            self._fail(sqlstate, at)

    def _fail(self, sqlstate: str, at: float) -> None:
        group = [self._owed.popleft()]
        while self._owed and self._owed[0].kind != _SYNC:
            group.append(self._owed.popleft())
        self._skipping = not self._owed
        blamed = next((s for s in group if s.run is not None), None)
        if blamed is None or blamed.run is None:
            blamed = self._blame_parse(group[0])
        if blamed.run is not None:
            blamed.run.sqlstate = sqlstate
            self._finish(blamed, at, "failed")
        self._skip(group, at)

    def _blame_parse(self, step: Step) -> Step:
        run = self._new()
        if step.text is not None:
            self._tell(run, "extended", step.text, step="parse")
        else:
            run.number = 0
        return Step(step.kind, step.at, run)

    def _skip(self, group: list[Step], at: float) -> None:
        for step in group:
            if step.run is not None and not step.run.is_reported:
                self._finish(Step(step.kind, at, step.run), at, "skipped")
            if step.kind == _PARSE and step.text is not None:
                self._remembered -= len(step.text.sql)
                self._statements.refuse(step.name, step.text)
                self._correct_text(step.text)
            elif step.kind == _BIND and step.run is not None:
                self._portals.refuse(step.name, step.run)
                self._correct_portal(step.run)

    def _correct_text(self, refused: Text) -> None:
        for step in self._owed:
            if step.kind == _BIND and step.text is refused and step.run is not None:
                step.text = self._statements.look(step.source)
                step.run.turn = step.text.turn if step.text else Turn.UNKNOWN
                self._tell(step.run, "extended", step.text, corrected=True)

    def _correct_portal(self, refused: Run) -> None:
        for step in self._owed:
            if step.kind == _EXECUTE and step.run is refused:
                step.run = self._portals.look(step.name) or step.run


_ANSWERS = {0x31: _PARSE, 0x32: _BIND, 0x33: _CLOSE}


def _name(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0][:NAME_BYTES]
