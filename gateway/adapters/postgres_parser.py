"""PostgreSQL's own grammar: libpg_query, out of the postgast package, called in place.

Only that package's shared library is used: its Python side would make objects of what is needed as plain values.
ctypes lets go of the interpreter while C parses. What goes wrong in any way is unknown, and never an exception.
"""

import ctypes
from collections import OrderedDict
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

import msgspec

from gateway.app.statement_ports import Told
from gateway.core.statement_facts import UNKNOWN, facts_of

LONGEST = 65_536  # bytes; a tree takes a hundred times as many, and a millisecond for a few hundred
MOST_KEPT = 10_000
_UNREAD = Told(UNKNOWN, "")
_WRONG = (ValueError, RecursionError, MemoryError, ctypes.ArgumentError)  # msgspec's errors are ValueErrors


class _ParseResult(ctypes.Structure):
    """PgQueryParseResult in pg_query.h of libpg_query 18."""

    _fields_ = (
        ("parse_tree", ctypes.c_char_p),
        ("stderr_buffer", ctypes.c_char_p),
        ("error", ctypes.c_void_p),
    )


class _FingerprintResult(ctypes.Structure):
    """PgQueryFingerprintResult."""

    _fields_ = (
        ("fingerprint", ctypes.c_uint64),
        ("fingerprint_str", ctypes.c_char_p),
        ("stderr_buffer", ctypes.c_char_p),
        ("error", ctypes.c_void_p),
    )


class PostgresParser:
    """Implements `StatementReader`. Thread-safe; remembers what it read last, by digest."""

    def __init__(self) -> None:
        """OSError or ImportError when the library is not there."""
        self._library = _load()
        self._lock = Lock()
        self._known: OrderedDict[bytes, Told] = OrderedDict()

    def read(self, sql: bytes) -> Told:
        """See `StatementReader`."""
        if len(sql) > LONGEST or b"\0" in sql:
            return _UNREAD
        key = sha256(sql).digest()
        with self._lock:
            told = self._known.get(key)
            if told is not None:
                self._known.move_to_end(key)
                return told
        told = self._read(sql)
        with self._lock:
            self._known[key] = told
            while len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)
        return told

    def tree(self, sql: bytes) -> object:
        """See `StatementReader`."""
        if len(sql) > LONGEST or b"\0" in sql:
            return None
        try:
            return self._parse(sql)
        except _WRONG:
            return None

    def _read(self, sql: bytes) -> Told:
        try:
            tree = self._parse(sql)
            return _UNREAD if tree is None else Told(facts_of(tree), self._fingerprint(sql))
        except _WRONG:
            return _UNREAD

    def _parse(self, sql: bytes) -> object | None:
        result = self._library.pg_query_parse(sql)
        try:
            return None if result.error or not result.parse_tree else msgspec.json.decode(result.parse_tree)
        finally:
            self._library.pg_query_free_parse_result(result)

    def _fingerprint(self, sql: bytes) -> str:
        result = self._library.pg_query_fingerprint(sql)
        try:
            return "" if result.error or not result.fingerprint_str else result.fingerprint_str.decode("ascii")
        finally:
            self._library.pg_query_free_fingerprint_result(result)


def _load() -> ctypes.CDLL:
    package = find_spec("postgast")
    if package is None or package.origin is None:
        raise ImportError("postgast is not installed")
    library = ctypes.CDLL(str(Path(package.origin).with_name("libpg_query.so")))
    for name, result in (("parse", _ParseResult), ("fingerprint", _FingerprintResult)):
        call, free = getattr(library, f"pg_query_{name}"), getattr(library, f"pg_query_free_{name}_result")
        call.argtypes, call.restype = (ctypes.c_char_p,), result
        free.argtypes, free.restype = (result,), None
    return library
