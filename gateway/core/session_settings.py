"""Under which settings a session writes: the server is asked, for the wire does not show them.

`search_path`, the role or a setting that a policy or a trigger reads decide what a statement means. They come from SET,
set_config(), a function, the startup packet, ALTER ROLE or the server's configuration, so only the server knows.
"""

import json
import re
from collections.abc import Collection

Settings = tuple[tuple[str, str], ...]  # name and value, in order of names

MOST_NAMES = 30  # of settings that nobody has defined, as `app.tenant`: the server shows those by name alone
OTHERS = "(others)"
_SHOWN = 200  # characters of a value; of longer ones the digest as well
_NAME = re.compile(r"[a-z_][a-z0-9_$]*(?:\.[a-z_][a-z0-9_$]*)+", re.ASCII)
_SET_CONFIG = re.compile(rb"set_config\s*\(\s*'([a-z_.]+)'", re.IGNORECASE)
# None of these changes what a statement does; clients change some of them all the time.
_ASIDE = (
    "application_name", "client_encoding", "client_min_messages", "idle_in_transaction_session_timeout",
    "idle_session_timeout", "lock_timeout", "statement_timeout", "transaction_timeout",
)  # fmt: skip
_SOURCES = ("client", "database", "database user", "global", "session", "user")
# search_path is the person's, so every name says its schema: functions, operators and types, too.
_QUESTION = """
SELECT pg_catalog.json_object_agg(n, CASE WHEN pg_catalog.length(v) OPERATOR(pg_catalog.>) {shown}
    THEN pg_catalog.concat(pg_catalog.left(v, {shown}), ' ... sha256 ',
        pg_catalog.encode(pg_catalog.sha256(pg_catalog.textsend(v)), 'hex'))
    ELSE v END)
FROM (
    SELECT 'current_user', current_user::pg_catalog.text
    UNION ALL SELECT 'session_user', session_user::pg_catalog.text
    UNION ALL SELECT 'schemas', pg_catalog.array_to_string(pg_catalog.current_schemas(true), ', ')
    UNION ALL SELECT name, setting FROM pg_catalog.pg_settings
    WHERE name OPERATOR(pg_catalog.=) 'search_path' OR source OPERATOR(pg_catalog.=) ANY (ARRAY[{sources}])
        AND name OPERATOR(pg_catalog.<>) ALL (ARRAY[{aside}])
    UNION ALL SELECT asked, pg_catalog.current_setting(asked, true) FROM (
        SELECT pg_catalog.unnest(ARRAY[{names}]::pg_catalog.text[])
        UNION SELECT pg_catalog.split_part(pg_catalog.unnest(setconfig), '=', 1) FROM pg_catalog.pg_db_role_setting
    ) AS a(asked) WHERE pg_catalog.strpos(asked, '.') OPERATOR(pg_catalog.>) 0
) AS s(n, v) WHERE v IS NOT NULL
"""


def custom_names(settings: Collection[str], sql: bytes) -> frozenset[str]:
    """Those that SET and RESET name, and that a text's set_config does, as far as they have a dot."""
    called = {name.decode().lower() for name in _SET_CONFIG.findall(sql)}
    return frozenset(name for name in {*settings, *called} if "." in name)


class Asked:
    """What a session's server is asked for by name, and what it answers."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._has_others = False

    def add(self, names: Collection[str]) -> None:
        """They may have been set."""
        for name in sorted(names):
            if name in self._names:
                continue
            if len(self._names) < MOST_NAMES and len(name) < 64 and _NAME.fullmatch(name):
                self._names[name] = None
            else:
                self._has_others = True

    def question(self) -> bytes:
        """SQL; its only value goes to `answer`."""
        names, sources, aside = (_listed(each) for each in (self._names, _SOURCES, _ASIDE))
        return _QUESTION.format(shown=_SHOWN, names=names, sources=sources, aside=aside).encode()

    def answer(self, told: bytes) -> Settings:
        """ValueError when it is none."""
        found = json.loads(told.decode(errors="backslashreplace"))
        if not isinstance(found, dict) or "search_path" not in found:
            raise ValueError("these are no settings")
        if self._has_others:
            found[OTHERS] = "were set, and are not known here"
        return tuple(sorted((str(name), str(value)) for name, value in found.items()))


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
