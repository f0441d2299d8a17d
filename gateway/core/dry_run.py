"""Dry-run: at a level with it nothing that was written is committed before somebody's yes to exactly what was written.

Judged on what can commit. A write outside an explicit transaction would commit by itself, so it is refused; a COMMIT
of a transaction in which something was written is held. `Ledger` is told of each text before it goes on, and of what
the server answers; between two ReadyForQuery messages it takes nothing for done.

A seat belt, like all rules on texts: what a function, a trigger or a view does inside is not in the parse tree.
"""

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import NamedTuple

from gateway.core.statement_facts import StatementFacts, StatementKind, facts_of
from gateway.core.statement_rules import Broken

SHOWN = 1_000  # bytes of a write's text that are shown
MOST_SHOWN = 100  # writes of a transaction
_MOST_TOLD = 5  # of those that one may be
# What PostgreSQL itself refuses in a read-only transaction, and what acts on other connections, files or statistics.
WRITING_FUNCTIONS = (
    "nextval", "setval", "lo_creat", "lo_create", "lo_from_bytea", "lo_import", "lo_put", "lo_truncate*", "lo_unlink",
    "lowrite", "dblink*", "pg_notify", "pg_logical_emit_message", "pg_terminate_backend", "pg_cancel_backend",
    "lo_export", "pg_import_system_collations", "pg_restore_*", "pg_clear_*", "pg_stat_reset*", "pg_create_*slot",
    "pg_drop_replication_slot", "pg_copy_*_replication_slot", "pg_replication_*", "pg_logical_slot_get_*", "pg_file_*",
)  # fmt: skip


class Confirm(StrEnum):
    """Whose yes a COMMIT needs."""

    SELF = "self"
    APPROVER = "approver"


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a level says. `functions` (last names, * for any letters) count as writes, besides `WRITING_FUNCTIONS`."""

    confirm: Confirm
    functions: tuple[str, ...] = ()


class Does(StrEnum):
    """What a statement does to the transaction that it runs in."""

    READ = "read"
    WRITE = "write"  # and whatever is not known to write nothing
    BEGIN = "begin"
    COMMIT = "commit"
    COMMIT_CHAIN = "commit and chain"
    ROLLBACK = "rollback"
    ROLLBACK_CHAIN = "rollback and chain"
    ROLLBACK_TO = "rollback to savepoint"
    TWO_PHASE = "prepare transaction"  # and what ends such a transaction


class Step(NamedTuple):
    """One statement of a text. `prepares` is the name that PREPARE gives; `is_alone`: it runs in no transaction;
    `reads_client`: COPY … FROM STDIN. `hides`: code that nobody reads here, or a cursor that writes when it is read.
    """

    does: Does
    sql: bytes = b""  # the head of it
    prepares: str = ""
    is_alone: bool = False
    reads_client: bool = False
    hides: bool = False
    fetches: bool = False  # from a cursor


class Text(NamedTuple):
    """What was read of a text; `steps` None when nothing could be. Texts that tell the same are the same."""

    digest: str
    steps: tuple[Step, ...] | None


# A name that SQL has given with PREPARE: it is not looked up what it stands for, but COMMIT cannot be prepared so.
PREPARED = Text("", (Step(Does.WRITE, b"(prepared by SQL)"),))
CURSOR = Text("", (Step(Does.READ, b"(a cursor)", fetches=True),))
ANYTHING = frozenset({PREPARED, Text("", (Step(Does.COMMIT),))})

_TURNS = {
    "TRANS_STMT_BEGIN": Does.BEGIN,
    "TRANS_STMT_START": Does.BEGIN,
    "TRANS_STMT_COMMIT": Does.COMMIT,
    "TRANS_STMT_ROLLBACK": Does.ROLLBACK,
    "TRANS_STMT_SAVEPOINT": Does.READ,
    "TRANS_STMT_RELEASE": Does.READ,
    "TRANS_STMT_ROLLBACK_TO": Does.ROLLBACK_TO,
}
_CHAINED = {Does.COMMIT: Does.COMMIT_CHAIN, Does.ROLLBACK: Does.ROLLBACK_CHAIN}
_READS = frozenset({StatementKind.READ, StatementKind.SESSION})
_ALONE = frozenset({
    "VacuumStmt", "CreatedbStmt", "DropdbStmt", "AlterSystemStmt", "CreateTableSpaceStmt", "DropTableSpaceStmt",
    "CreateSubscriptionStmt", "DropSubscriptionStmt",
})  # fmt: skip

# What these run may give a prepared statement's name, or a cursor's, to anything, and no ROLLBACK takes that back.
_CODE = frozenset({"DoStmt", "CallStmt", "CreateFunctionStmt", "CreateExtensionStmt"})


def text_of(sql: bytes, tree: object, functions: tuple[str, ...]) -> Text:
    """Off the parse tree of a text (libpg_query's JSON, decoded)."""
    digest = sha256(sql).hexdigest()
    found = tree.get("stmts") if isinstance(tree, dict) and "version" in tree else None
    if not isinstance(found, list):
        return Text(digest, None)
    return Text(digest, tuple(_step(sql, each, functions) for each in found))


def _step(sql: bytes, raw: Mapping[str, object], functions: tuple[str, ...]) -> Step:
    start, length = _number(raw, "stmt_location"), _number(raw, "stmt_len")
    told = _head(sql[start : start + length if length else len(sql)].strip())
    stmt = raw.get("stmt")
    name, body = next(iter(stmt.items())) if isinstance(stmt, dict) and stmt else ("", None)
    if not isinstance(body, dict):
        return Step(Does.WRITE, told)
    if name == "TransactionStmt":
        turn = _TURNS.get(str(body.get("kind")), Does.TWO_PHASE)
        return Step(_CHAINED.get(turn, turn) if body.get("chain") else turn, told)
    if name == "PrepareStmt":
        return Step(Does.READ, told, str(body.get("name", "")))
    facts = facts_of({"version": 0, "stmts": [raw]})
    is_alone = name in _ALONE or body.get("concurrent") is True
    reads_client = name == "CopyStmt" and bool(body.get("is_from")) and not facts.copies
    writes = _writes(name, facts, functions)
    hides = name in _CODE or (name == "DeclareCursorStmt" and writes)
    does = Does.WRITE if writes else Does.READ
    return Step(does, told, "", is_alone, reads_client, hides, name == "FetchStmt")


def _head(sql: bytes) -> bytes:
    """Nobody takes a part for the whole."""
    return sql if len(sql) <= SHOWN else sql[:SHOWN] + f" … ({len(sql):,} bytes)".encode()


def _number(raw: Mapping[str, object], key: str) -> int:
    found = raw.get(key, 0)
    return found if isinstance(found, int) else 0


def _writes(name: str, facts: StatementFacts, functions: tuple[str, ...]) -> bool:
    if name == "VariableSetStmt":  # of a role too: it changes the session alone
        return False
    if name == "NotifyStmt" or facts.kind not in _READS or facts.copies:
        return True
    return any(fnmatchcase(each, pattern) for each in facts.functions for pattern in (*WRITING_FUNCTIONS, *functions))


# ---------------------------------------------------------------- what may be committed


class State(NamedTuple):
    """Of the explicit transaction: one is open for certain, something may have been written in one that may be open, it
    can only be rolled back for certain.
    """

    is_open: bool = False
    is_written: bool = False
    is_failed: bool = False


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
    "What runs in no transaction cannot be held, so it does not run at this level.",
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
_UNREAD = Broken(
    "dry-run",
    "The statement cannot be judged: it does not parse, or is too long.",
    "Correct it; send data as parameters or with COPY … FROM STDIN.",
)
_ENDS = frozenset({Does.COMMIT, Does.COMMIT_CHAIN, Does.ROLLBACK, Does.ROLLBACK_CHAIN})
_COMMITS = frozenset({Does.COMMIT, Does.COMMIT_CHAIN})


def after(state: State, does: Does) -> State:
    """Where a statement leads that succeeds."""
    match does:
        case Does.BEGIN:
            return State(True, state.is_written, state.is_failed)
        case Does.COMMIT | Does.ROLLBACK:
            return State()
        case Does.COMMIT_CHAIN | Does.ROLLBACK_CHAIN:
            return State(state.is_open)
        case Does.ROLLBACK_TO:
            return state._replace(is_failed=False)
        case Does.WRITE:
            return state._replace(is_written=state.is_open)
        case _:
            return state


def _needs_yes(state: State, does: Does) -> bool:
    return does in _COMMITS and state.is_written and not state.is_failed


def _merged(states: Collection[State]) -> State:
    """Of several that it may be, the one in which the least is allowed."""
    return State(all(s.is_open for s in states), any(s.is_written for s in states), all(s.is_failed for s in states))


# ---------------------------------------------------------------- what was written


class Write(NamedTuple):
    """One statement that was, or may have been, executed: the head of its text, its digest, its command tag."""

    sql: str
    digest: str
    tag: str  # "failed" where it was not executed, "" where the server does not tell

    @property
    def rows(self) -> int:
        """As the tag tells them. What is behind SELECT or FETCH are the rows shown, which who writes may choose."""
        verb, _, number = self.tag.rpartition(" ")
        if verb.partition(" ")[0] not in _COUNTS_WRITES:
            return 0
        return int(number) if number.isascii() and number.isdigit() and len(number) < 20 else 0


_COUNTS_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "COPY"})  # command tags


class Written:
    """What was written in one transaction: the first of it in words, all of it as a digest."""

    def __init__(self) -> None:
        self.shown: list[Write] = []
        self.count = 0
        self.rows = 0
        self._digest = sha256()

    def add(self, write: Write) -> None:
        """In the order of execution."""
        self.count += 1
        self.rows += write.rows
        self._digest.update(f"{len(write.tag)}:{write.tag}{write.digest}\n".encode())
        if len(self.shown) < MOST_SHOWN:
            self.shown.append(write)

    def join(self, other: "Written") -> None:
        """All of another's, behind it."""
        self.count += other.count
        self.rows += other.rows
        self._digest.update(f"+{other.count}:{other.digest()}\n".encode())
        self.shown += other.shown[: MOST_SHOWN - len(self.shown)]

    def digest(self) -> str:
        """Another for each other sequence of writes, tags and rows."""
        return self._digest.hexdigest()


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
        self._has_written = False  # in this round
        self._agreed: _Due | None = None
        self._hides = False  # something did in this transaction, so that FETCH may write
        self.has_committed = False  # the COMMIT that was agreed to; for the caller to take

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
        broken = _broken(self._now, text.steps)
        if broken is not None:
            return Ruling(Verdict.REFUSE, broken)
        for step in text.steps:
            self._goes_on([step], text.digest)
        if not text.steps:
            self._due.append(_Due())
        return _PASS

    def run(self, texts: Collection[Text]) -> Ruling:
        """A statement that is executed now: one of these texts, of one statement each (or none)."""
        steps = []
        for text in texts:
            if text.steps is None or len(text.steps) > 1:
                return Ruling(Verdict.REFUSE, _UNREAD)
            steps.append(text.steps[0] if text.steps else Step(Does.READ))
        for step in steps:
            broken = _broken_one(self._now, step)
            if broken is not None:
                return Ruling(Verdict.REFUSE, broken)
        if any(_needs_yes(self._now, step.does) for step in steps):
            is_clear = not self._has_written and len(set(steps)) == 1
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
        self._now = State(is_open, is_written, status == b"E")
        self._worst = is_written
        self._has_written = False
        self._agreed = None

    @property
    def is_committing(self) -> bool:
        """True from `agreed` to the end of the round."""
        return self._agreed is not None

    @property
    def is_written(self) -> bool:
        """True when COMMIT would be held. To be asked between two rounds."""
        return self._now.is_written

    def _goes_on(self, steps: Collection[Step], digest: str) -> None:
        if self._hides:
            steps = [step._replace(does=Does.WRITE) if step.fetches else step for step in steps]
        self._hides |= any(step.hides for step in steps)
        self._now = _merged([after(self._now, each.does) for each in steps])
        self._worst |= self._now.is_written
        does = {each.does for each in steps}
        due = _Due()
        if does <= _ENDS:
            self._parts.append(Written())
            self._has_written = True  # whatever was agreed to is behind it
        elif Does.WRITE in does or does & _ENDS or (Does.ROLLBACK_TO in does and self._worst):
            told = b"  -- or: ".join(sorted({step.sql for step in steps})[:_MOST_TOLD])
            due = _Due(self._parts[-1], told.decode(errors="backslashreplace"), digest)
            self._has_written = True
        self._due.append(due)


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
    if step.does is Does.WRITE and step.is_alone:
        return _ALONE_HERE
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


def mark_of(session: str, tx: int, written: Written) -> str:
    """What a yes is given to: this session's transaction, and all that was written in it so far."""
    return sha256(f"{session}\n{tx}\n{written.count}\n{written.digest()}".encode()).hexdigest()[:32]
