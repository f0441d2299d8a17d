"""What PostgreSQL statements do, read off their parse tree (libpg_query's JSON, decoded), never off their text.

One walk over every node, so that nothing hides in a CTE, a PREPARE, a cursor, a COPY or an EXPLAIN. It says what the
text shows: what a function, a trigger or a view does inside is not in the tree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

Node = Mapping[str, object]


class StatementKind(StrEnum):
    """From the least to the most that a text may do; of several the most is told."""

    UNKNOWN = "unknown"  # it does not parse, or runs what the text does not show (DO, CALL, EXECUTE)
    SESSION = "session"
    READ = "read"
    WRITE = "write"
    DDL = "ddl"
    PRIVILEGE = "privilege"


_ORDER = (
    StatementKind.SESSION,
    StatementKind.READ,
    StatementKind.UNKNOWN,
    StatementKind.WRITE,
    StatementKind.DDL,
    StatementKind.PRIVILEGE,
)
_RANK = {kind: rank for rank, kind in enumerate(_ORDER)}
_SESSION = {
    "TransactionStmt", "VariableSetStmt", "VariableShowStmt", "DiscardStmt", "DeallocateStmt", "ListenStmt",
    "UnlistenStmt", "NotifyStmt", "ClosePortalStmt", "ConstraintsSetStmt", "LockStmt", "PrepareStmt",
}  # fmt: skip
_READ = {"SelectStmt", "FetchStmt", "DeclareCursorStmt", "ExplainStmt"}
_WRITE = {"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "TruncateStmt"}
_OPAQUE = {"DoStmt": "DO", "CallStmt": "CALL", "ExecuteStmt": "EXECUTE"}
_PRIVILEGE = {
    "GrantStmt", "GrantRoleStmt", "CreateRoleStmt", "AlterRoleStmt", "AlterRoleSetStmt", "DropRoleStmt",
    "AlterOwnerStmt", "AlterDefaultPrivilegesStmt", "ReassignOwnedStmt", "DropOwnedStmt", "CreatePolicyStmt",
    "AlterPolicyStmt", "SecLabelStmt", "AlterSystemStmt", "CreateUserMappingStmt", "AlterUserMappingStmt",
    "DropUserMappingStmt",
}  # fmt: skip
_KINDS = {  # all other commands are DDL
    **dict.fromkeys(_SESSION, StatementKind.SESSION),
    **dict.fromkeys(_READ, StatementKind.READ),
    **dict.fromkeys(_WRITE, StatementKind.WRITE),
    **dict.fromkeys(_OPAQUE, StatementKind.UNKNOWN),
    **dict.fromkeys(_PRIVILEGE, StatementKind.PRIVILEGE),
}
_ACTING_AS = frozenset({"role", "session_authorization"})
_CONDITIONS = {  # what a change is called, and where its condition stands
    "UpdateStmt": ("UPDATE", "whereClause"),
    "DeleteStmt": ("DELETE", "whereClause"),
    "MergeStmt": ("MERGE", "joinCondition"),
}
_TELLING = frozenset({"funcname", "intoClause"})
_PARTS = frozenset({"RawStmt", "PLAssignStmt", "ReturnStmt"})


@dataclass(frozen=True, slots=True)
class StatementFacts:
    """Of a whole text, which may hold several statements.

    `unbounded`: UPDATE, DELETE, MERGE or TRUNCATE that name no row. `copies`: COPY with PROGRAM or a file of the
    server.
    `functions`: last names of those called. `opaque`: DO, CALL, EXECUTE. `settings`: what SET and RESET name.
    """

    kind: StatementKind
    count: int = 1
    unbounded: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    functions: frozenset[str] = frozenset()
    opaque: tuple[str, ...] = ()
    settings: frozenset[str] = frozenset()


UNKNOWN = StatementFacts(StatementKind.UNKNOWN, 0)


def facts_of(tree: object) -> StatementFacts:
    """What the tree (JSON values) shows; `UNKNOWN` when it is not one."""
    if not isinstance(tree, dict) or "version" not in tree:
        return UNKNOWN
    statements = tree.get("stmts")
    found = _Found()
    found.look(statements)
    return StatementFacts(
        found.kind,
        len(statements) if isinstance(statements, list) else 0,  # none in a text of comments and blanks
        tuple(found.unbounded),
        tuple(found.copies),
        frozenset(found.functions),
        tuple(found.opaque),
        frozenset(found.settings),
    )


class _Found:
    def __init__(self) -> None:
        self.kind = StatementKind.SESSION
        self.unbounded: list[str] = []
        self.copies: list[str] = []
        self.functions: set[str] = set()
        self.opaque: list[str] = []
        self.settings: set[str] = set()

    def look(self, top: object) -> None:
        """Every mapping below. By a stack of our own: a tree may be deeper than Python's."""
        waiting: list[object] = [top]
        while waiting:
            item = waiting.pop()
            if type(item) is list:
                waiting.extend(item)
            elif type(item) is dict:
                for key, value in item.items():
                    if type(value) is dict or type(value) is list:
                        if (key[-4:] == "Stmt" or key in _TELLING) and not self._goes_in(key, value):
                            continue
                        waiting.append(value)

    def _goes_in(self, key: str, value: object) -> bool:
        """Take note of a node that tells something; whether what is inside it counts as well."""
        if key == "funcname":
            self.functions.add(_last_name(value))
        elif key == "intoClause":
            self._is(StatementKind.DDL)
        elif key[0].isupper() and key not in _PARTS and isinstance(value, dict):  # in lower case: a field's name
            self._statement(key, value)
            return key != "ExplainStmt" or _is_run(value)
        return True

    def _is(self, kind: StatementKind) -> None:
        self.kind = max(self.kind, kind, key=_RANK.__getitem__)

    def _statement(self, key: str, body: Node) -> None:
        self._is(_kind(key, body))
        if key in _CONDITIONS:
            name, condition = _CONDITIONS[key]
            if not _names_rows(body.get(condition)):
                self.unbounded.append(name)
        elif key == "TruncateStmt":
            self.unbounded.append("TRUNCATE")
        elif key == "CopyStmt" and (body.get("is_program") or body.get("filename")):
            self.copies.append("COPY PROGRAM" if body.get("is_program") else "COPY of a file")
        elif key in _OPAQUE:
            self.opaque.append(_OPAQUE[key])
        elif key == "VariableSetStmt":
            self.settings.add(str(body.get("name", "")).lower())


def _kind(key: str, body: Node) -> StatementKind:
    if key == "CopyStmt":
        return StatementKind.WRITE if body.get("is_from") else StatementKind.READ
    if key == "VariableSetStmt" and str(body.get("name", "")) in _ACTING_AS:
        return StatementKind.PRIVILEGE
    return _KINDS.get(key, StatementKind.DDL)


def _is_run(explain: Node) -> bool:
    """EXPLAIN runs nothing, EXPLAIN ANALYZE does; `ANALYZE false` is taken for it."""
    options = explain.get("options")
    return isinstance(options, list) and "'analyze'" in repr(options)


def _names_rows(where: object) -> bool:
    """A condition that looks at a column or is CURRENT OF a cursor; `WHERE true` names no row."""
    waiting: list[object] = [where]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "ColumnRef" in item or "CurrentOfExpr" in item:
                return True
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return False


def _last_name(parts: object) -> str:
    """Of a qualified name, as the parser folded it."""
    if not isinstance(parts, list) or not parts:
        return ""
    last = parts[-1]
    text = last.get("String") if isinstance(last, dict) else None
    return str(text.get("sval", "")) if isinstance(text, dict) else ""
