"""The tables of the statement index, and what makes an index forget."""

import logging
import sqlite3
from collections.abc import Iterable

log = logging.getLogger(__name__)
_TABLES = """
CREATE TABLE IF NOT EXISTS sessions (session TEXT PRIMARY KEY, target TEXT NOT NULL, principal TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS texts (
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, sql TEXT NOT NULL, kind TEXT, fingerprint TEXT
);
CREATE TABLE IF NOT EXISTS statements (
    session TEXT NOT NULL, n INTEGER NOT NULL, at_ns INTEGER NOT NULL, text INTEGER NOT NULL REFERENCES texts (id),
    tag TEXT, rows INTEGER, bytes INTEGER, ms REAL, sqlstate TEXT, tx INTEGER, PRIMARY KEY (session, n)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS transactions (
    session TEXT NOT NULL, tx INTEGER NOT NULL, outcome TEXT NOT NULL, PRIMARY KEY (session, tx)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS behind (session TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shredded (n INTEGER PRIMARY KEY AUTOINCREMENT, session TEXT NOT NULL UNIQUE);
CREATE INDEX IF NOT EXISTS statements_at ON statements (at_ns);
CREATE INDEX IF NOT EXISTS statements_text ON statements (text);
"""
_ADDED = (  # columns that an older index lacks
    ("texts", "kind", "TEXT"),
    ("texts", "fingerprint", "TEXT"),
    ("statements", "tx", "INTEGER"),
)
_BY_FACTS = """
CREATE INDEX IF NOT EXISTS texts_unread ON texts (id) WHERE kind IS NULL;
CREATE INDEX IF NOT EXISTS texts_fingerprint ON texts (fingerprint);
"""
_SEARCHABLE = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (sql, content='texts', content_rowid='id', tokenize='trigram')"
)
_OF_A_SESSION = (
    "DELETE FROM statements WHERE session = ?",
    "DELETE FROM transactions WHERE session = ?",
    "DELETE FROM sessions WHERE session = ?",
    "DELETE FROM behind WHERE session = ?",
)
_BLANK = 2  # user_version of a new file; 0 of others, also from before there was this
_ORPHANS = "SELECT id, sql FROM texts WHERE NOT EXISTS (SELECT 1 FROM statements WHERE text = texts.id)"
_DELETES_SECURELY = (3, 42)  # SQLite from which a search index leaves nothing of what is deleted (fts5 §6.14)


def prepare(database: sqlite3.Connection) -> None:
    """Make or complete the tables."""
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = OFF")  # it can be rebuilt
    database.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'statements'").fetchone() is None:
        database.execute(
            f"PRAGMA user_version = {_BLANK}"
        )  # before there are tables: whoever dies in between has said it
    database.executescript(_TABLES)
    for table, column, type_ in _ADDED:
        if column not in {row[1] for row in database.execute(f"PRAGMA table_info({table})")}:
            database.execute(f"ALTER TABLE {table} ADD COLUMN {column} {type_}")
    database.executescript(_BY_FACTS)
    try:
        database.execute(_SEARCHABLE)
    except sqlite3.OperationalError as error:  # a SQLite without FTS5 or its trigram tokenizer searches row by row
        log.info("statements are searched row by row: %s", error)


def has_words(database: sqlite3.Connection) -> bool:
    """True when texts can be looked up by their words."""
    return database.execute("SELECT 1 FROM sqlite_master WHERE name = 'words'").fetchone() is not None


def is_blank(database: sqlite3.Connection) -> bool:
    """True of a new file, until `note_all`: it does not even know what it lacks."""
    return bool(database.execute("PRAGMA user_version").fetchone()[0] == _BLANK)


def note_behind(database: sqlite3.Connection, session_ids: Iterable[str], *, are_all: bool = False) -> None:
    """The index lacks something of these, and, with `are_all`, of no others. To be committed by the caller."""
    if not database.in_transaction:
        database.execute("BEGIN IMMEDIATE")
    database.executemany("INSERT OR IGNORE INTO behind VALUES (?)", [(session_id,) for session_id in session_ids])
    if are_all:
        database.execute("PRAGMA user_version = 0")


def begin(database: sqlite3.Connection, session_id: str) -> tuple[int, bool]:
    """Begin to write about a session: how often something was shredded, and whether that session was.

    At once, so that another process cannot shred between this look and the first row.
    """
    if not database.in_transaction:
        database.execute("BEGIN IMMEDIATE")
    query = "SELECT (SELECT coalesce(max(n), 0) FROM shredded), EXISTS (SELECT 1 FROM shredded WHERE session = ?)"
    shreds, is_shredded = database.execute(query, (session_id,)).fetchone()
    return int(shreds), bool(is_shredded)


def shred(database: sqlite3.Connection, session_id: str, *, has_words: bool) -> None:
    """Delete a session's rows, and every text that no statement has any more. To be committed by the caller."""
    if has_words and sqlite3.sqlite_version_info >= _DELETES_SECURELY:
        database.execute("INSERT INTO words (words, rank) VALUES ('secure-delete', 1)")
    database.execute("INSERT OR REPLACE INTO shredded (session) VALUES (?)", (session_id,))
    for delete in _OF_A_SESSION:
        database.execute(delete, (session_id,))
    orphans = database.execute(_ORPHANS).fetchall()
    if has_words:
        database.executemany("INSERT INTO words (words, rowid, sql) VALUES ('delete', ?, ?)", orphans)
    database.executemany("DELETE FROM texts WHERE id = ?", [(number,) for number, _ in orphans])
    if has_words and sqlite3.sqlite_version_info < _DELETES_SECURELY:
        database.execute("INSERT INTO words (words) VALUES ('optimize')")


def settle(database: sqlite3.Connection) -> None:
    """Put what was committed, and so what was overwritten, on disk for sure; sqlite3.Error when somebody reads."""
    database.execute("PRAGMA synchronous = FULL")
    try:
        is_busy, _, _ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        database.execute("PRAGMA synchronous = OFF")
    if is_busy:
        raise sqlite3.OperationalError("the statement index is being read")
