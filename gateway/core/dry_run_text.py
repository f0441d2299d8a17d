"""Dry-run: what the statements of a text do, off its parse tree."""

from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import NamedTuple

from gateway.core.session_settings import custom_names
from gateway.core.statement_facts import StatementFacts, StatementKind, facts_of

SHOWN = 1_000  # bytes of a write's text that are shown
# What PostgreSQL itself refuses in a read-only transaction, and what acts on other connections, files or statistics.
WRITING_FUNCTIONS = (
    "nextval", "setval", "lo_creat", "lo_create", "lo_from_bytea", "lo_import", "lo_put", "lo_truncate*", "lo_unlink",
    "lowrite", "dblink*", "pg_notify", "pg_logical_emit_message", "pg_terminate_backend", "pg_cancel_backend",
    "lo_export", "pg_import_system_collations", "pg_restore_*", "pg_clear_*", "pg_stat_reset*", "pg_create_*slot",
    "pg_drop_replication_slot", "pg_copy_*_replication_slot", "pg_replication_*", "pg_logical_slot_get_*", "pg_file_*",
    # These run the SQL, or fetch from the cursor, that a string of theirs names.
    "ts_stat", "ts_rewrite", "query_to_xml*", "cursor_to_xml*", "crosstab*", "connectby", "xpath_table",
)  # fmt: skip

# What no ROLLBACK takes back. (Not nextval, which serial columns call anyway, nor signals, which change no data.)
LASTING_FUNCTIONS = (
    "setval", "dblink*", "pg_logical_emit_message", "lo_export", "pg_file_*", "pg_stat_reset*", "pg_create_*slot",
    "pg_drop_replication_slot", "pg_copy_*_replication_slot", "pg_replication_*", "pg_logical_slot_get_*",
)  # fmt: skip


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
    """One statement of a text. `prepares` is the name that PREPARE gives; `is_alone`: it runs in no transaction, or
    no ROLLBACK takes it back;
    `reads_client`: COPY … FROM STDIN. `hides`: code that nobody reads here, or a cursor that writes when it is read.
    `reads`: a query or a cursor, which may run what was hidden before. `defers`: it may run what is deferred, or take
    away what a name meant.
    """

    does: Does
    sql: bytes = b""  # the head of it
    prepares: str = ""
    is_alone: bool = False
    reads_client: bool = False
    hides: bool = False
    reads: bool = False
    sets: bool = False  # a setting of the session
    defers: bool = False
    point: str = ""  # the savepoint that it names: makes, goes back to, or
    releases: bool = False


class Text(NamedTuple):
    """What was read of a text; `steps` None when nothing could be. Texts that tell the same are the same."""

    digest: str
    steps: tuple[Step, ...] | None
    settings: frozenset[str] = frozenset()  # that it may set and the server shows by name alone
    era: int = 0  # `Ledger.era` when it was parsed: constants and names may have got their meaning then


# A name that SQL has given with PREPARE: it is not looked up what it stands for, but COMMIT cannot be prepared so.
PREPARED = Text("", (Step(Does.WRITE, b"(prepared by SQL)"),))
CURSOR = Text("", (Step(Does.READ, b"(a cursor)", reads=True),))
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

# SET CONSTRAINTS runs triggers; DISCARD TEMP takes a temporary table away, so that its name means another one.
_DEFERS = frozenset({"ConstraintsSetStmt", "DiscardStmt"})
# What these run may give a prepared statement's name, or a cursor's, to anything, and no ROLLBACK takes that back.
_CODE = frozenset({"DoStmt", "CallStmt", "CreateFunctionStmt", "CreateExtensionStmt"})


def text_of(sql: bytes, tree: object, functions: tuple[str, ...]) -> Text:
    """Off the parse tree of a text (libpg_query's JSON, decoded)."""
    digest = sha256(sql).hexdigest()
    found = tree.get("stmts") if isinstance(tree, dict) and "version" in tree else None
    if not isinstance(found, list):
        return Text(digest, None)
    names = custom_names(facts_of(tree).settings, sql) if b"set" in sql.lower() else frozenset()
    return Text(digest, tuple(_step(sql, each, functions) for each in found), names)


def _step(sql: bytes, raw: Mapping[str, object], functions: tuple[str, ...]) -> Step:
    start, length = _number(raw, "stmt_location"), _number(raw, "stmt_len")
    told = _head(sql[start : start + length if length else len(sql)].strip())
    stmt = raw.get("stmt")
    name, body = next(iter(stmt.items())) if isinstance(stmt, dict) and stmt else ("", None)
    if not isinstance(body, dict):
        return Step(Does.WRITE, told)
    if name == "TransactionStmt":
        turn = _TURNS.get(str(body.get("kind")), Does.TWO_PHASE)
        turn = _CHAINED.get(turn, turn) if body.get("chain") else turn
        point, releases = str(body.get("savepoint_name", "")), body.get("kind") == "TRANS_STMT_RELEASE"
        return Step(turn, told, point=point, releases=releases)
    facts = facts_of({"version": 0, "stmts": [raw]})
    if name == "PrepareStmt":
        # Judged here, as EXECUTE says no more than the name.
        lasts, sets = _calls(facts, LASTING_FUNCTIONS), "set_config" in facts.functions
        return Step(Does.READ, told, str(body.get("name", "")), is_alone=lasts, sets=sets)
    # A COPY of a file that only reads it is the other kind.
    lasts = _calls(facts, LASTING_FUNCTIONS) or (
        bool(facts.copies) and bool(body.get("is_program") or not body.get("is_from"))
    )
    is_alone = name in _ALONE or body.get("concurrent") is True or lasts
    reads_client = name == "CopyStmt" and bool(body.get("is_from")) and not facts.copies
    writes = _writes(name, facts, functions)
    hides = name in _CODE or (name == "DeclareCursorStmt" and writes)
    does = Does.WRITE if writes else Does.READ
    # SET TRANSACTION and SET SESSION CHARACTERISTICS (VAR_SET_MULTI) change no meaning.
    sets = (name == "VariableSetStmt" and body.get("kind") != "VAR_SET_MULTI") or "set_config" in facts.functions
    reads = facts.kind is StatementKind.READ
    return Step(does, told, "", is_alone, reads_client, hides, reads, sets, name in _DEFERS)


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
    return _calls(facts, (*WRITING_FUNCTIONS, *functions))


def _calls(facts: StatementFacts, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(each, pattern) for each in facts.functions for pattern in patterns)
