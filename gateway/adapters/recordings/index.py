"""Search over the statements of all sessions: an index beside the recordings, rebuilt from them at will.

It proves nothing, the recordings do. While a session is busier than the index, its statements are left out and
added when it is over (`left_out`).
"""

import itertools
import json
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from threading import Lock
from time import thread_time

import msgspec

from gateway.adapters.recordings import index_tables
from gateway.adapters.recordings.index_file import IndexFile
from gateway.adapters.recordings.texts import Facts
from gateway.app.search_statements import FoundStatement, IndexUnreadable, StatementQuery
from gateway.app.statement_ports import ReadsNothing, StatementReader
from gateway.audit.recording import BATCH, Frame, frame_of, is_piece, joined, unix_ns, unpacked

log = logging.getLogger(__name__)
# What a database and its directory say, and what it cannot hold: lone surrogates, numbers beyond 64 bits.
NOT_INDEXED = (sqlite3.Error, OSError, ValueError, OverflowError)
PASSING = (sqlite3.Error, OSError)  # of these, what may be over by itself
FEED_BYTES = 16 * 1024 * 1024  # waiting for the next second
FEED_SECONDS = 0.05  # of processor time per second, so that a busy session does not starve the proxy of this processor
FEED_CHUNK = 128 * 1024  # of one transaction, and at most a batch more
REBUILT_AT_ONCE = 400  # records of one transaction
_KEPT_TEXTS = 4096  # whose number is remembered
_SHORT_TEXT = 1024  # characters of such a one
_READ_AT_ONCE = 200  # texts of an older index whose facts are added per second
_QUICK = msgspec.json.Decoder()
LONGEST_TEXT = 64 * 1024  # characters of a statement that are searchable
_KINDS = frozenset({"session", "statement", "result", "transaction"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEW = (  # told again when the text turned out to be another (docs/formats/statements.md)
    "INSERT INTO statements (session, n, at_ns, text, tag, rows, bytes, ms, sqlstate, tx) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (session, n) DO UPDATE SET text = excluded.text, "
    "tag = coalesce(excluded.tag, tag), rows = coalesce(excluded.rows, rows), bytes = coalesce(excluded.bytes, bytes), "
    "ms = coalesce(excluded.ms, ms), sqlstate = coalesce(excluded.sqlstate, sqlstate), tx = coalesce(excluded.tx, tx)"
)
_TOLD = ("tag", "rows", "bytes", "ms", "sqlstate", "tx")
_NOTHING = (None,) * len(_TOLD)
_RESULT = "UPDATE statements SET tag = ?, rows = ?, bytes = ?, ms = ?, sqlstate = ?, tx = ? WHERE session = ? AND n = ?"
_OUTCOME = "INSERT OR REPLACE INTO transactions (session, tx, outcome) VALUES (?, ?, ?)"
_FOUND = """
SELECT st.session, st.n, st.at_ns, t.sql, st.tag, st.rows, st.bytes, st.ms, st.sqlstate,
       coalesce(se.target, ''), coalesce(se.principal, ''), coalesce(t.kind, ''), coalesce(t.fingerprint, ''),
       coalesce(st.tx, 0), coalesce(tr.outcome, '')
FROM statements st JOIN texts t ON t.id = st.text LEFT JOIN sessions se ON se.session = st.session
LEFT JOIN transactions tr ON tr.session = st.session AND tr.tx = st.tx
"""


class StatementIndex:
    """One SQLite file. Thread-safe; opened (and made) at the first use, 0600."""

    def __init__(self, path: Path, reader: StatementReader | None = None) -> None:
        """`reader` tells what a text does; each text is read once."""
        self._file = IndexFile(path)
        self._facts = Facts(reader or ReadsNothing())
        self._text_ids: dict[str, int] = {}  # of short ones
        self._lock = Lock()  # around the database
        self._fed_lock = Lock()  # around the feed, which the recorder's writer must never wait for
        self._database: sqlite3.Connection | None = None
        self._shreds = 0  # seen so far
        self._has_words = False
        self._has_facts = False  # every text
        self._fed: deque[tuple[str, bytes]] = deque()
        self._fed_bytes = 0
        self._behind: set[str] = set()
        self._storing = Lock()  # what was fed first is stored first
        self._taken = self._stored = 0  # records of the feed, so far
        self._ending: dict[str, int] = {}  # noted until so many are stored

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._text_ids.clear()
            if self._database is not None:
                self._database.close()
                self._database = None
                self._file.close()

    # ------------------------------------------------------------ taking in

    def feed(self, records: Iterable[tuple[str, str, bytes]]) -> None:
        """Take (session id, kind, encoded frame) of durable records; cheap. Past the limits one is left behind."""
        with self._fed_lock:
            for session_id, kind, frame in records:
                if (kind not in _KINDS and kind != BATCH) or session_id in self._behind:
                    continue
                if self._fed_bytes + len(frame) > FEED_BYTES or is_piece(frame):
                    self._behind.add(session_id)
                    continue
                self._fed.append((session_id, frame))
                self._fed_bytes += len(frame)

    def store_fed(self) -> None:
        """Write down some of what was fed; called about once a second."""
        with self._storing:
            until = thread_time() + FEED_SECONDS
            while self._store_some() and thread_time() < until:
                pass
            self._forget_ending()

    def _store_some(self) -> bool:
        """False when there was nothing."""
        taken = self._take_fed()
        if not taken:
            self._read_older()
            return False
        by_session: dict[str, list[Frame]] = {}
        for session_id, frame in taken:
            by_session.setdefault(session_id, []).extend(unpacked((frame_of(frame),)))
        try:
            with self._transaction() as database:
                for session_id, frames in by_session.items():
                    self._store(database, session_id, frames)
        except NOT_INDEXED:
            log.exception("statements could not be indexed; their sessions are once they are over")
            with self._fed_lock:
                self._behind.update(by_session)
        with self._fed_lock:
            self._stored += len(taken)
        return True

    def _take_fed(self) -> list[tuple[str, bytes]]:
        taken, size = [], 0
        with self._fed_lock:
            while self._fed and size < FEED_CHUNK:
                taken.append(self._fed.popleft())
                size += len(taken[-1][1])
            self._fed_bytes -= size
            self._taken += len(taken)
        return taken

    def leave_out(self, session_id: str) -> None:
        """Whoever searches is told that this session holds more."""
        with self._fed_lock:
            self._behind.add(session_id)

    def left_out(self) -> frozenset[str]:
        """Sessions of which something was left out, or could not be written."""
        with self._fed_lock:
            return frozenset(self._behind)

    def note_behind(self, session_ids: Iterable[str]) -> None:
        """So that it is known after a restart, too: whoever searches is told which sessions hold more."""
        with self._transaction() as database:
            index_tables.note_behind(database, session_ids)

    def note_if_blank(self, sealed: Callable[[], Iterable[str]]) -> int:
        """The same of all that are sealed when the index is new, so that it is made up; how many there are, else 0."""
        with self._transaction() as database:
            if not index_tables.is_blank(database):
                return 0
            every = list(sealed())
            index_tables.note_behind(database, every, are_all=True)
        with self._fed_lock:
            self._behind.update(every)
        return len(every)

    def note_ending(self, session_ids: Iterable[str]) -> None:
        """The same until what was fed is stored: a process that is killed before has sealed what it did not index."""
        with self._fed_lock:
            until = self._taken + len(self._fed)
            if until == self._stored:
                return
        noted = dict.fromkeys(session_ids, until)
        with self._transaction() as database:
            index_tables.note_behind(database, noted)
        with self._fed_lock:
            self._ending |= noted

    def _forget_ending(self) -> None:
        with self._fed_lock:
            over = [session_id for session_id, until in self._ending.items() if until <= self._stored]
            for session_id in over:
                del self._ending[session_id]
            whole = [(session_id,) for session_id in over if session_id not in self._behind]
        if whole:
            try:
                with self._transaction() as database:
                    database.executemany("DELETE FROM behind WHERE session = ?", whole)
            except NOT_INDEXED:
                log.exception("sessions that are indexed could not be noted as such; they are once more after a start")

    def left_behind(self) -> list[str]:
        """Those that were noted and not indexed since. To be asked at the start, before anything is fed."""
        with self._transaction() as database:
            left = [str(row[0]) for row in database.execute("SELECT session FROM behind ORDER BY session")]
        with self._fed_lock:
            self._behind.intersection_update(left)  # another process may have indexed some meanwhile
        return left

    def is_noted(self, session_id: str) -> bool:
        """False when it was indexed meanwhile, by whichever process. sqlite3.Error."""
        with self._transaction() as database:
            if database.execute("SELECT 1 FROM behind WHERE session = ?", (session_id,)).fetchone() is not None:
                return True
        with self._fed_lock:
            self._behind.discard(session_id)
        return False

    def rebuild_session(self, session_id: str, frames: Iterable[Frame]) -> None:
        """Index one session anew from its recording; sqlite3.Error when that fails."""
        with self._transaction() as database:
            database.execute("DELETE FROM statements WHERE session = ?", (session_id,))
            database.execute("DELETE FROM transactions WHERE session = ?", (session_id,))
        records = joined(frames)
        while some := list(itertools.islice(records, REBUILT_AT_ONCE)):
            with self._transaction() as database:  # short ones: the live sessions are indexed too
                self._store(database, session_id, some)
        with self._transaction() as database:
            database.execute("DELETE FROM behind WHERE session = ?", (session_id,))
        with self._fed_lock:
            self._behind.discard(session_id)

    def forget(self, session_id: str) -> None:
        """Destroy what is held of a session, and take nothing in of it any more; one of NOT_INDEXED when that fails."""
        with self._transaction() as database:
            index_tables.shred(database, session_id, has_words=self._has_words)
        with self._transaction() as database:
            index_tables.settle(database)
        with self._fed_lock:
            self._behind.discard(session_id)

    def _store(self, database: sqlite3.Connection, session_id: str, frames: Iterable[Frame]) -> None:
        """Most statements are told with their result right behind, and so are one row at once."""
        shreds, is_shredded = index_tables.begin(database, session_id)
        if shreds != self._shreds:  # another process may have taken texts away
            self._text_ids.clear()
            self._shreds = shreds
        if is_shredded:
            return
        new: dict[int, tuple[int, int]] = {}  # number: when, text
        results: dict[int, tuple[str | int | float | None, ...]] = {}
        for frame in frames:
            if frame.kind not in _KINDS:
                continue
            told = _json_of(frame)
            number = told.get("n")
            if frame.kind == "session":
                about = (session_id, str(told.get("target", "")), str(told.get("holder_name", "")))
                database.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)", about)
            elif not isinstance(number, int):
                continue
            elif frame.kind == "transaction":
                if isinstance(tx := told.get("tx"), int):
                    database.execute(_OUTCOME, (session_id, tx, str(told.get("outcome", ""))))
            elif frame.kind == "statement":
                at_ns, _ = new.get(number, (frame.at_ns, 0))
                new[number] = at_ns, self._text_id(database, str(told.get("sql", ""))[:LONGEST_TEXT])
            else:
                results[number] = tuple([_plain(told.get(key)) for key in _TOLD])
        rows = [(session_id, n, at_ns, text, *results.get(n, _NOTHING)) for n, (at_ns, text) in new.items()]
        database.executemany(_NEW, rows)
        late = [(*values, session_id, n) for n, values in results.items() if n not in new]
        database.executemany(_RESULT, late)

    def _text_id(self, database: sqlite3.Connection, sql: str) -> int:
        if (kept := self._text_ids.get(sql)) is not None:
            return kept
        digest = sha256(sql.encode(errors="surrogatepass")).digest()
        known = database.execute("SELECT id FROM texts WHERE hash = ?", (digest,)).fetchone()
        number = int(known[0]) if known is not None else self._add_text(database, digest, sql)
        if len(sql) <= _SHORT_TEXT:
            if len(self._text_ids) >= _KEPT_TEXTS:
                self._text_ids.clear()
            self._text_ids[sql] = number
        return number

    def _add_text(self, database: sqlite3.Connection, digest: bytes, sql: str) -> int:
        values = (digest, sql, *self._facts.of(sql))
        number = database.execute(
            "INSERT INTO texts (hash, sql, kind, fingerprint) VALUES (?, ?, ?, ?)", values
        ).lastrowid
        assert number is not None
        if self._has_words:
            database.execute("INSERT INTO words (rowid, sql) VALUES (?, ?)", (number, sql))
        return number

    def _read_older(self) -> None:
        """Add to an index that was made without them what its texts do, a few at a time."""
        if self._database is None or self._has_facts:
            return
        try:
            with self._transaction() as database:
                query = "SELECT id, sql FROM texts WHERE kind IS NULL LIMIT ?"
                rows = database.execute(query, (_READ_AT_ONCE,)).fetchall()
                changed = [(*self._facts.of(sql), number) for number, sql in rows]
                database.executemany("UPDATE texts SET kind = ?, fingerprint = ? WHERE id = ?", changed)
                self._has_facts = len(rows) < _READ_AT_ONCE
        except NOT_INDEXED:
            log.exception("what older statements do could not be added to their index")
            self._has_facts = True

    # ------------------------------------------------------------ asking

    def search(self, query: StatementQuery) -> list[FoundStatement]:
        """Newest first. The text is looked for as it stands, in upper and lower case alike."""
        try:
            return self._search(query)
        except NOT_INDEXED as error:
            raise IndexUnreadable(str(error)) from error

    def _search(self, query: StatementQuery) -> list[FoundStatement]:
        self.store_fed()
        where: list[str] = ["1"]
        values: list[str | int] = []
        if query.text and self._can_look_up(query.text):
            where.append("t.id IN (SELECT rowid FROM words WHERE words MATCH ?)")
            values.append('"' + query.text.replace('"', '""') + '"')
        elif query.text:
            where.append("instr(lower(t.sql), lower(?)) > 0")
            values.append(query.text)
        for column, value in (
            ("se.target", query.target),
            ("se.principal", query.principal),
            ("st.session", query.session),
            ("t.kind", query.kind),
            ("t.fingerprint", query.fingerprint),
        ):
            if value:
                where.append(f"{column} = ?")
                values.append(value)
        if query.since is not None:
            where.append("st.at_ns >= ?")
            values.append(unix_ns(query.since))
        order = " ORDER BY st.at_ns DESC, st.n DESC LIMIT ?"
        with self._transaction() as database:
            rows = database.execute(_FOUND + " WHERE " + " AND ".join(where) + order, (*values, query.limit)).fetchall()
        return [_found(row) for row in rows]

    def behind(self) -> frozenset[str]:
        """Sessions whose statements are not all there yet."""
        waiting = self.waiting()
        with self._fed_lock:
            return waiting | self._behind

    def waiting(self) -> frozenset[str]:
        """Sessions of which something was fed and is not stored."""
        with self._fed_lock:
            return frozenset(session_id for session_id, _ in self._fed)

    def _can_look_up(self, text: str) -> bool:
        with self._transaction():
            return (
                self._has_words and len(text) >= 3
            )  # the trigram tokenizer knows nothing shorter (sqlite fts5 §4.3.5)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._database is None:
                self._database = self._file.open()
                self._learn(self._database)
            try:
                with self._database:
                    yield self._database
            except BaseException as error:
                self._text_ids.clear()  # some may be of texts that are not there
                self._file.note(error)
                raise

    def _learn(self, database: sqlite3.Connection) -> None:
        self._has_words = index_tables.has_words(database)
        with self._fed_lock:
            self._behind.update(str(row[0]) for row in database.execute("SELECT session FROM behind"))


def _json_of(frame: Frame) -> dict[str, object]:
    try:
        told = _decoded(frame.payload)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _decoded(payload: bytes) -> object:
    try:
        return _QUICK.decode(payload)
    except ValueError:  # it may be one that takes more
        return json.loads(payload)


def _plain(value: object) -> str | int | float | None:
    """As SQLite can hold it. A target counts as it likes."""
    if isinstance(value, int):
        return value if abs(value) < 2**63 else None
    return value if isinstance(value, str | float) else None


def _found(row: tuple[object, ...]) -> FoundStatement:
    session, n, at_ns, sql, tag, rows, size, ms, sqlstate, target, principal, kind, fingerprint, tx, outcome = row
    return FoundStatement(
        session=str(session),
        n=int(str(n)),
        at=_EPOCH + timedelta(microseconds=int(str(at_ns)) // 1000),
        sql=str(sql),
        tag=None if tag is None else str(tag),
        rows=rows if isinstance(rows, int) else None,
        bytes=size if isinstance(size, int) else None,
        ms=float(ms) if isinstance(ms, int | float) else None,
        sqlstate=None if sqlstate is None else str(sqlstate),
        target=str(target),
        principal=str(principal),
        kind=str(kind),
        fingerprint=str(fingerprint),
        tx=int(str(tx)),
        outcome=str(outcome),
    )
