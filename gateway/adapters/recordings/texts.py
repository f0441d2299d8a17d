"""What texts do, read once for all that differ in their constants alone: the grammar takes 50 µs for the shortest."""

import re
from collections import OrderedDict

from gateway.app.statement_ports import StatementReader
from gateway.core.statement_facts import StatementKind

MOST_KEPT = 4_096
LONGEST_SHAPE = 2_048  # characters
# Numbers of 31 bits that are a word of their own, and strings without anything that escapes or ends a quote.
_CONSTANT = re.compile(r"(?<![\w$.'])[0-9]{1,9}(?![\w$.'])|(?<![\w$&'])'[^'\\]*'(?!')")
_PLAIN = re.compile(r"\s*(?:select|insert|update|delete)\b", re.IGNORECASE)
_STRING = "\0"  # stands for one; no text with a shape holds it
# Names and texts in which a number is more than a constant, comments, several statements, and any quote that is left
# (E'!', 'it''s'): then what lies between two strings, which may be anything, has been taken for one.
_NOT_PLAIN = re.compile(r"[\"\\$']|[^\0-\x7f]|--|/\*|;(?!\s*\Z)")


class Facts:
    """Kind and fingerprint of texts. For one thread."""

    def __init__(self, reader: StatementReader) -> None:
        self._reader = reader
        self._known: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def of(self, sql: str) -> tuple[str, str]:
        """Kind and fingerprint."""
        shape = shape_of(sql)
        if not shape:
            return self._read(sql)
        known = self._known.get(shape)
        if known is None:
            known = self._read(sql)
            if known[0] == StatementKind.UNKNOWN:  # a constant may be why (float(99)), and the next one another
                return known
            self._known[shape] = known
            if len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)
        return known

    def _read(self, sql: str) -> tuple[str, str]:
        told = self._reader.read(sql.encode(errors="surrogatepass"))
        return told.facts.kind.value, told.fingerprint


def shape_of(sql: str) -> str:
    """The same for texts of one query or change that differ in constants alone; "" where that cannot be said at a
    glance.
    """
    if len(sql) > LONGEST_SHAPE or not _PLAIN.match(sql) or "\0" in sql:
        return ""
    shape = _CONSTANT.sub(lambda found: "0" if found[0][0] != "'" else _STRING, sql)
    return "" if _NOT_PLAIN.search(shape) else shape
