"""Which portals may be run at a level with masks.

The result of FETCH and EXECUTE (indirect statements) is that of another statement, and a server describes it by looking
that one up by its name. Their rows are computed at once when a portal is first run, so whoever runs it in parts, or
FETCHes from it, and gives the name to another statement in between is told a wrong origin of the rest. So an indirect
statement runs in the unnamed portal, which SQL cannot name, and whole.

What a client sends may be skipped by the server, but then so is all that follows up to the next Sync. What was seen
since the last Sync is therefore exact, and what was seen before counts if it may.
"""

from struct import Struct

MOST_NAMES = 10_000  # of indirect statements; beyond, any may be one
_NAME_BYTES = 63  # the server tells names apart by so many bytes (NAMEDATALEN - 1)
_LIMIT = Struct(">i")


class Portals:
    """Told of what the client sends, in its order."""

    def __init__(self) -> None:
        self._named: set[bytes] = set()  # statements that are or were indirect
        self._unnamed = False  # the unnamed statement may be
        self._unnamed_now: bool | None = None  # since the last Sync
        self._portal = False  # what is in the unnamed portal may be
        self._portal_now: bool | None = None

    def parse(self, name: bytes, *, is_indirect: bool) -> None:
        """A Parse goes on."""
        if not name:
            self._unnamed_now = is_indirect
            self._unnamed |= is_indirect
        elif is_indirect:
            self._named.add(name[:_NAME_BYTES])

    def may_bind(self, portal: bytes, source: bytes) -> bool:
        """False for a Bind that must not go on."""
        is_indirect = self._is_indirect(source)
        if portal:
            return not is_indirect
        self._portal_now = is_indirect
        self._portal |= is_indirect
        return True

    def may_execute(self, portal: bytes, limit: bytes) -> bool:
        """False for an Execute that must not go on; `limit` as in the message."""
        is_indirect = self._portal if self._portal_now is None else self._portal_now
        return bool(portal) or limit == _LIMIT.pack(0) or not is_indirect

    def sync(self) -> None:
        """A Sync goes on."""
        self._unnamed_now = self._portal_now = None

    def _is_indirect(self, source: bytes) -> bool:
        if not source:
            return self._unnamed if self._unnamed_now is None else self._unnamed_now
        return source[:_NAME_BYTES] in self._named or len(self._named) > MOST_NAMES
