"""Which client encodings a session with statement rules may have.

The rules read a text as UTF-8. In SJIS, BIG5, GBK, GB18030, UHC and JOHAB the second byte of a character may be a quote
or a backslash of ASCII, so that the server would find other statements in the same bytes (CVE-2006-2313, -2314).
"""

import re

_SAFE = frozenset({"utf8", "unicode", "sqlascii", "default"})
_SET = re.compile(
    rb"\s*set\s+(?:(?:session|local)\s+)?(?:client_encoding\s*(?:=|\bto\b)|names\b)\s*(?:'([\w-]+)'|([\w-]+))\s*;?\s*",
    re.IGNORECASE,
)
_RESET = re.compile(rb"\s*reset\s+client_encoding\s*;?\s*", re.IGNORECASE)
_CALLS = re.compile(rb"set_config", re.IGNORECASE)
_CONSTANT = re.compile(rb"set_config\s*\(\s*'(?!client_encoding)[a-z_.]+'\s*,", re.IGNORECASE)
_ESCAPED_NAME = re.compile(rb"u&\"", re.IGNORECASE)
# As a server spells those that a database may have; the others (SJIS, BIG5, GBK …) are for clients alone.
_OF_DATABASES = re.compile(
    r"SQL_ASCII|UTF8|MULE_INTERNAL|EUC_\w+|LATIN\d+|WIN(?:125\d|866|874)|KOI8[RU]|ISO_8859_\d", re.ASCII
)

# Where the second byte may be ASCII it is 0x30 or more: letters, digits and _ stay within a name or a string anyway.
_TAKEN_IN = re.compile(rb"[\x80-\xff][:-@\[-^`{-~]")


def is_safe_encoding(name: str) -> bool:
    """True for those in which a byte of ASCII is always that character; names are compared as PostgreSQL does."""
    return "".join(c for c in name.lower() if c.isalnum()) in _SAFE


def keeps_ascii(reported: str) -> bool:
    """The same of the name that a server says a session's encoding has. Whatever has set it: a function, a default."""
    return _OF_DATABASES.fullmatch(reported) is not None


def depends_on_encoding(sql: bytes) -> bool:
    """True when in another encoding a character could take in one of ASCII that ends a name, a string, a statement."""
    return _TAKEN_IN.search(sql) is not None


def may_change_encoding(sql: bytes, settings: frozenset[str], functions: frozenset[str]) -> bool:
    """True when a text, which sets `settings` and calls `functions`, could make the encoding an unsafe one."""
    if "client_encoding" in settings and not _RESET.fullmatch(sql):
        found = _SET.fullmatch(sql)
        if found is None or not is_safe_encoding((found[1] or found[2]).decode("ascii", "replace")):
            return True
    if "set_config" in functions:
        named = len(_CONSTANT.findall(sql))
        if not named or named != len(_CALLS.findall(sql)) or _ESCAPED_NAME.search(sql):
            return True
    lower = sql.lower()  # an UPDATE of pg_settings sets; its name may be escaped, as any quoted one
    return b"update" in lower and (b"pg_settings" in lower or _ESCAPED_NAME.search(sql) is not None)
