"""What a level with masks lets a statement do: what is not on these lists is refused, for whatever it is.

A masked column may be shown as it is, for then the answer says where it comes from and the gateway can mask it. All
else that could be made of it (a comparison, a cast, a function, a sort, a copy) would give it away in part or whole.

- Statements: SELECT; writes to other tables that read nothing masked; cursors, PREPARE, EXPLAIN, COPY of those; what
  steers a session. Definitions, DO, CALL and the rest are refused.
- Relations: those known since the session began, which neither are nor are built on a masked one, and PostgreSQL's own
  definitions. Functions and operators: those that see nothing but their arguments, and a list.
- A statement with a masked table in it is a SELECT that names masked columns bare, or by *, in the target list of its
  outermost SELECT alone.

An unqualified name counts for the relations of that name in every schema, so that search_path does not matter.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gateway.core.mask_lists import CATALOGUES
from gateway.core.masking import Known, Relation
from gateway.core.statement_rules import Broken

Names = frozenset[str]
Node = Mapping[str, object]
_HINT = "Ask for another level, or the target's owners: gw targets."
_SHOW_IT = "Name it bare in the outermost SELECT: it is shown masked. Filter, join and sort by other columns."
_STEERING = {
    "TransactionStmt", "VariableSetStmt", "VariableShowStmt", "DiscardStmt", "DeallocateStmt", "ListenStmt",
    "UnlistenStmt", "NotifyStmt", "ClosePortalStmt", "ConstraintsSetStmt", "FetchStmt", "LockStmt",
}  # fmt: skip
_AROUND = {"ExplainStmt": "query", "PrepareStmt": "query", "DeclareCursorStmt": "query"}
_WRITES = {"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"}
_NODES = {
    "A_Star", "A_ArrayExpr", "A_Const",
    "A_Expr", "A_Indices", "A_Indirection", "BoolExpr", "BooleanTest", "CaseExpr", "CaseWhen",
    "CoalesceExpr", "CollateClause", "ColumnRef", "ColumnDef", "CurrentOfExpr", "DefElem", "FuncCall", "GroupingFunc",
    "GroupingSet", "IndexElem", "Integer", "JoinExpr", "List", "LockingClause", "MergeSupportFunc", "MergeWhenClause",
    "MinMaxExpr", "MultiAssignRef", "NamedArgExpr", "NullTest", "ParamRef", "RangeFunction", "RangeSubselect",
    "RangeTableSample", "RangeVar", "ResTarget", "ReturningOption", "RowExpr", "SQLValueFunction", "SetToDefault",
    "SortBy", "String", "SubLink", "TypeCast", "TypeName", "WindowDef",
}  # fmt: skip
_INNER = {"onConflictClause", "infer", "returningClause", "over"}  # nodes that stand there without their name
_CONSTANTS = {"ival", "fval", "sval", "boolval", "bsval", "typeName"}
_WORDS = {"BETWEEN", "NOT BETWEEN", "BETWEEN SYMMETRIC", "NOT BETWEEN SYMMETRIC"}
_BETWEEN = ("<", "<=", ">", ">=")
_EQUALS = {"SubLink": {"testexpr"}, "CaseExpr": {"arg"}, "JoinExpr": {"isNatural", "usingClause"}}  # calls = unnamed
_BY_PLACE = ("sortClause", "groupClause", "distinctClause")
_SYSTEM = frozenset({"ctid", "tableoid", "xmin", "xmax", "cmin", "cmax"})
_RESULTS = frozenset({"case", "coalesce", "array", "row", "exists", "greatest", "least", "nullif", "bool", "column1"})


class _Refused(Exception):
    def __init__(self, sentence: str, hint: str = _HINT) -> None:
        super().__init__(sentence)
        self.broken = Broken("masked", sentence, hint)


def judge_masked(tree: object, known: Known) -> Broken | None:
    """Why a text (its parse tree as JSON values) is refused at a level with masks; None lets it pass."""
    statements = tree.get("stmts") if isinstance(tree, dict) else None
    if statements is None and isinstance(tree, dict) and "version" in tree:
        return None  # comments and blanks
    if not isinstance(statements, list):
        return Broken("masked", "The statement cannot be judged.", _HINT)
    try:
        for each in statements:
            for name, body in _named(each["stmt"]):
                _Statement(known).judge(name, body)
    except _Refused as no:
        return no.broken
    except (RecursionError, KeyError, TypeError, AttributeError, ValueError):
        return Broken("masked", "The statement cannot be judged: it is nested too deep, or of an unknown shape.", _HINT)
    return None


def is_indirect(tree: object) -> bool:
    """True for a text whose result is that of another statement, found by its name when it runs (FETCH, EXECUTE)."""
    statements = tree.get("stmts", []) if isinstance(tree, dict) else []
    nodes = [_node(_node(each)["stmt"]) for each in _list(statements)]
    return any("ExecuteStmt" in each or ("FetchStmt" in each and not _moves(each["FetchStmt"])) for each in nodes)


def _moves(fetch: object) -> bool:
    return bool(_node(fetch).get("ismove"))


def _named(node: object) -> list[tuple[str, Node]]:
    if not isinstance(node, dict) or len(node) != 1:
        raise ValueError("not one node")
    (name, body), *_ = node.items()
    return [(name, _node(body))]


@dataclass(slots=True)
class _Statement:
    """One statement: a first walk sees that everything in it is known, a second one where masked columns stand."""

    known: Known
    read: list[Relation] = field(default_factory=list)
    others: set[str] = field(default_factory=set)  # names that the statement makes: aliases, outputs
    masked_as: dict[str, list[Relation]] = field(default_factory=dict)  # by what they may be called
    using: set[str] = field(default_factory=set)
    writes: bool = False
    hides_origin: str = ""
    sets: bool = False

    def judge(self, name: str, body: Node) -> None:
        if name in _STEERING:
            return
        if name in _AROUND:
            for inner, query in _named(body[_AROUND[name]]):
                self.judge(inner, query)
        elif name == "ExecuteStmt":
            self._walk(body.get("params", []), frozenset())
            self._demand_bare({}, body)
            self._demand_same_settings("A parameter of EXECUTE")
        elif name == "CopyStmt":
            self._copy(body)
        elif name == "SelectStmt" or name in _WRITES:
            self._query(name, body, frozenset())
            self._demand_bare(body if name == "SelectStmt" else {}, body)
        else:
            raise _Refused(f"A level with masks runs no {name.removesuffix('Stmt')}: what it shows cannot be judged.")

    def _copy(self, body: Node) -> None:
        if body.get("is_program") or body.get("filename"):
            raise _Refused("At a level with masks COPY goes to STDOUT and from STDIN only.", "\\copy in psql.")
        if "query" in body:
            for inner, query in _named(body["query"]):
                self._query(inner, query, frozenset())
                self._demand_bare({}, query)
        if "relation" in body:
            self._relation(_node(body["relation"]), frozenset())
            if self.masked_as:
                raise _Refused("COPY shows a masked table as it is.", "SELECT it: masked columns are masked then.")
        self._walk(body.get("whereClause", []), frozenset())

    # ------------------------------------------------------------ the first walk: everything is known

    def _query(self, name: str, body: Node, names: Names) -> None:
        """SELECT and writes. `names` are those of WITH that are seen here."""
        if name not in _WRITES and name != "SelectStmt":
            raise _Refused(f"{name.removesuffix('Stmt')} inside another statement is not run at a level with masks.")
        names = self._with(body, names)
        if name in _WRITES:
            self.writes = True
            self._relation(_node(body["relation"]), frozenset())
        for key, value in body.items():
            if key in ("larg", "rarg"):
                self._query("SelectStmt", _node(value), names)
            elif key not in ("withClause", "relation"):
                self._field(key, value, names)

    def _with(self, body: Node, names: Names) -> Names:
        if "withClause" not in body:
            return names
        clause = _node(body["withClause"])
        expressions = [_node(_node(each)["CommonTableExpr"]) for each in _list(clause["ctes"])]
        all_names = names | {str(each["ctename"]) for each in expressions}
        for each in expressions:
            if set(each) - _CTE:
                raise _Refused("SEARCH and CYCLE are not run at a level with masks.")
            self.others |= {str(each["ctename"]), *_strings(each.get("aliascolnames", []))}
            for inner, query in _named(each["ctequery"]):
                self._query(inner, query, all_names if clause.get("recursive") else names)
            names |= {str(each["ctename"])}
        return names

    def _walk(self, item: object, names: Names) -> None:
        if isinstance(item, list):
            for each in item:
                self._walk(each, names)
        elif isinstance(item, dict):
            for key, value in item.items():
                self._field(key, value, names)

    def _field(self, key: str, value: object, names: Names) -> None:
        if key[0].isupper():
            if isinstance(value, dict):
                self._node(key, value, names)
        elif key in ("alias", "join_using_alias"):
            self._alias(_node(value))
        elif isinstance(value, dict) and key not in _CONSTANTS and not (key in _INNER or _is_wrapped(value)):
            raise _Refused(f"{key.removesuffix('Clause').capitalize()} is not run at a level with masks.")
        elif key not in _CONSTANTS:
            self._walk(value, names)

    def _node(self, name: str, body: Node, names: Names) -> None:
        if name == "SelectStmt" or name in _WRITES:
            self._query(name, body, names)
        elif name not in _NODES:
            raise _Refused(f"{name} in a statement cannot be judged at a level with masks.")
        elif name == "RangeVar":
            self._relation(body, names)
        elif name != "LockingClause":  # it names what stands in FROM
            self._calls(name, body)
            self._makes(name, body)
            self._walk(body, names)

    def _calls(self, name: str, body: Node) -> None:
        """What is called by name, or may be."""
        if set(body) & _EQUALS.get(name, set()):
            self._operator(["="])
        if name == "FuncCall":
            self._function(_strings(body["funcname"]))
        elif name in ("A_Expr", "SubLink"):
            self._operator(_strings(body.get("name", body.get("operName", []))))
        elif name == "SortBy":
            self._operator(_strings(body.get("useOp", [])))
        elif name == "ColumnRef":
            self._row_function(body)
        elif name == "A_Indirection" and any("A_Indices" not in _node(each) for each in _list(body["indirection"])):
            raise _Refused("(value).field may call a function, so it is not run at a level with masks.")

    def _makes(self, name: str, body: Node) -> None:
        """Names that come of it."""
        if name == "ResTarget" and "name" in body:
            self.others.add(str(body["name"]))
        elif name == "ColumnDef":
            self.others.add(str(body["colname"]))
        elif name == "FuncCall":
            self.others.add(_strings(body["funcname"])[-1])
        elif name == "JoinExpr":
            self._join(body)

    def _alias(self, body: Node) -> None:
        self.others |= {str(body["aliasname"]), *_strings(body.get("colnames", []))}

    def _join(self, body: Node) -> None:
        if body.get("isNatural"):
            self.hides_origin = "NATURAL JOIN"
        elif "alias" in body or "join_using_alias" in body:
            self.hides_origin = "a join with a name of its own"
        self.using |= set(_strings(body.get("usingClause", [])))

    def _relation(self, body: Node, names: Names) -> None:
        name, schema = str(body["relname"]), str(body.get("schemaname", ""))
        alias = _node(body["alias"]) if "alias" in body else {}
        if alias:
            self._alias(alias)
        self.others.add(name)
        if not schema and name in names:
            return
        if schema == "information_schema" or (name in CATALOGUES and schema in ("", "pg_catalog")):
            found: tuple[Relation, ...] = ()
        else:
            found = tuple(r for r in self.known.by_name.get(name, ()) if schema in ("", r.schema))
            self._demand_known(name, schema, found)
        if not schema:
            found += tuple(r for r in self.known.by_name.get(name, ()) if r not in found)
        for each in found:
            if each.is_blocked:
                raise _Refused(
                    f"{each.schema}.{each.name} may show what is masked in the table it is built on.",
                    "Read the table itself. Owners open a view by giving a mask for one of its columns.",
                )
            self.read.append(each)
            if each.masks:
                for called in (str(alias.get("aliasname", name)), name):
                    self.masked_as.setdefault(called, []).append(each)
                if alias.get("colnames"):
                    self.hides_origin = "a list of new names for columns"

    def _demand_known(self, name: str, schema: str, found: tuple[Relation, ...]) -> None:
        if name.startswith("pg_"):
            raise _Refused(f"{name} may show data of masked columns.")
        if not found:
            raise _Refused(
                f"{schema + '.' if schema else ''}{name} is not known to this session.",
                "Check its name. What was made since the session began is known once you connect again.",
            )

    def _function(self, name: list[str]) -> None:
        last = name[-1]
        self.sets |= last == "set_config"
        if last in self.known.functions or (name[:-1] == ["pg_catalog"] and last in self.known.builtins):
            return
        raise _Refused(f"The function {last[:63]} is not called at a level with masks: it may read what is masked.")

    def _operator(self, name: list[str]) -> None:
        for each in _BETWEEN if name and name[-1] in _WORDS else name[-1:]:
            if each in self.known.odd_operators:
                raise _Refused(f"The operator {each[:63]} is not PostgreSQL's own: it may read what is masked.")

    def _row_function(self, column: Node) -> None:
        """`row.name` calls a function of that name when there is no such column."""
        parts = _strings(column["fields"])
        if len(_list(column["fields"])) == len(parts) > 1 and parts[-1] in self.known.odd_functions:
            raise _Refused(f"{parts[-1][:63]} names a function, too, which may read what is masked.")

    # ------------------------------------------------------------ the second walk: masked columns stand bare

    def _demand_bare(self, outermost: Node, whole: Node) -> None:
        if not self.masked_as:
            return
        self._demand_same_settings("A statement that reads a masked table")
        if self.writes:
            raise _Refused("A statement that writes reads no masked table here.", "Find the rows with a SELECT first.")
        if self.hides_origin:
            raise _Refused(f"With {self.hides_origin} the gateway cannot tell which columns are masked.", _SHOW_IT)
        masked = {name for relation in self._masked() for name in relation.masks}
        bare: list[Node] = []
        if outermost.get("op", "SETOP_NONE") == "SETOP_NONE":
            bare = list(self._bare(outermost, masked))
        if bare:
            _demand_named_order(outermost)
        if self.using & masked:
            raise _Refused("USING a masked column compares its values.", _SHOW_IT)
        called = {str(target["name"]) for target in bare if "name" in target}
        vals = [target["val"] for target in bare]
        for column in _columns(whole):
            if not any(column is _node(val).get("ColumnRef") for val in vals):
                self._demand_unmasked(column, masked, called)

    def _demand_same_settings(self, what: str) -> None:
        """With another search_path a server looks the columns' origin up in other tables than it reads the rows of."""
        if self.sets:
            raise _Refused(f"{what} changes no setting.", "SET it in a statement of its own.")

    def _masked(self) -> Iterator[Relation]:
        for relations in self.masked_as.values():
            yield from relations

    def _bare(self, select: Node, masked: set[str]) -> Iterator[Node]:
        """The targets of a SELECT that are a masked column, or a star with one in it."""
        for each in _list(select.get("targetList", [])):
            target = _node(_node(each)["ResTarget"])
            column = _node(target.get("val", {})).get("ColumnRef")
            if column is None:
                continue
            fields = _list(_node(column)["fields"])
            *before, last = [*_strings(fields), *(["*"] if "A_Star" in _node(fields[-1]) else [])]
            if before and before[-1] not in self.masked_as:
                continue
            if before and last != "*":
                self._demand_column(before[-1], last)
            if last == "*" or (last in masked and (before or last not in self.masked_as)):
                yield target

    def _demand_unmasked(self, column: Node, masked: set[str], called: set[str]) -> None:
        fields = _list(column["fields"])
        parts = _strings(fields)
        is_star = len(parts) < len(fields)
        qualifier = parts[-1] if is_star and parts else parts[-2] if len(parts) > 1 else ""
        if is_star:
            if not qualifier or qualifier in self.masked_as:
                raise _Refused("A * shows masked columns, too, so it stands in the outermost SELECT only.", _SHOW_IT)
            return
        name = parts[-1]
        if qualifier:
            if qualifier in self.masked_as:
                self._demand_column(qualifier, name)
                if name in masked:
                    raise _masked_used(name)
            elif qualifier not in self.others:
                raise _Refused(f"{qualifier[:63]} is not known as a table in this statement.", "Check its name.")
            return
        if name in masked or name in called:
            raise _masked_used(name)
        if name in self.masked_as:
            raise _Refused(f"{name[:63]} stands for a whole row with masked columns.", _SHOW_IT)
        if name not in self.others | _SYSTEM | _RESULTS and not any(name in r.columns for r in self.read):
            raise _Refused(f"{name[:63]} is not known as a column.", "Name its table: table.column. Or connect again.")

    def _demand_column(self, qualifier: str, name: str) -> None:
        if name not in _SYSTEM and not all(name in r.columns for r in self.masked_as[qualifier]):
            raise _Refused(f"{qualifier[:63]} has no column {name[:63]} that this session knows.", "Connect again.")


_CTE = {"ctename", "aliascolnames", "ctematerialized", "ctequery", "location"}


def _masked_used(name: str) -> _Refused:
    return _Refused(f"{name[:63]} is masked here, and this use of it would tell more than its mask.", _SHOW_IT)


def _demand_named_order(select: Node) -> None:
    """A number in ORDER BY or GROUP BY names a column of the target list; DISTINCT compares them all."""
    if any(each == {} for each in _list(select.get("distinctClause", []))):
        raise _Refused("DISTINCT compares the values of masked columns.", _SHOW_IT)
    for clause in _BY_PLACE:
        if any(True for _ in _numbers(select.get(clause, []))):
            raise _Refused("Sort and group by name, not by number: a number may be a masked column.", _SHOW_IT)


def _columns(top: object) -> Iterator[Node]:
    return (_node(each["ColumnRef"]) for each in _dicts(top) if "ColumnRef" in each)


def _numbers(top: object) -> Iterator[Node]:
    return (each for each in _dicts(top, but="typeName") if "ival" in each)


def _dicts(top: object, but: str = "") -> Iterator[Node]:
    """All that stand in a tree, except below that key."""
    waiting = [top]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            yield item
            waiting += [value for key, value in item.items() if key != but]


def _is_wrapped(value: Node) -> bool:
    return not value or (len(value) == 1 and next(iter(value))[0].isupper())


def _node(value: object) -> Node:
    if not isinstance(value, dict):
        raise TypeError("not a node")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _strings(value: object) -> list[str]:
    """The names in a list; what is no String is left out."""
    return [str(_node(_node(each)["String"]).get("sval", "")) for each in _list(value) if "String" in _node(each)]
