"""What a level of a database says of statements: its budget, rules and masks, and how much of values is recorded."""

import re
from collections.abc import Mapping
from datetime import timedelta

from gateway.adapters.yaml_source import Place
from gateway.core.bind_parameters import BindParameters
from gateway.core.budget import Budget, Room
from gateway.core.dry_run import Confirm, DryRun
from gateway.core.masking import ColumnName, Mask, Masks
from gateway.core.obligation import BadObligationError, parse_duration
from gateway.core.statement_rules import StatementRules

_MOST = 1 << 50
_PATTERN = 63
_CONFIRMS = {each.value: each for each in Confirm}
_MASKS = {mask.value: mask for mask in Mask}
_NAME = re.compile(r"[^\W\d][\w$]*")


def budget(place: Place) -> Budget:
    """`{statement: {rows, bytes, time}, session: {…}}`."""
    keys = place.keys(set(), {"statement", "session"})
    if not keys:
        raise place.wrong("must say what is limited: statement, session")
    return Budget(**{name: _room(item) for name, item in keys.items()})


def bind_parameters(place: Place) -> BindParameters:
    """`full`, `masked` or `none`."""
    return place.one_of({each.value: each for each in BindParameters})


def _room(place: Place) -> Room:
    keys = place.keys(set(), {"rows", "bytes", "time"})
    if not keys:
        raise place.wrong("must limit something: rows, bytes, time")
    return Room(
        rows=keys["rows"].number(0, _MOST) if "rows" in keys else None,
        bytes=keys["bytes"].number(0, _MOST) if "bytes" in keys else None,
        time=_time(keys["time"]) if "time" in keys else None,
    )


def _time(place: Place) -> timedelta:
    try:
        return parse_duration(place.text())
    except BadObligationError as error:
        raise place.wrong(str(error)) from None


def statement_rules(place: Place) -> StatementRules:
    """`{require_where, deny_ddl, deny_copy_files, deny_functions, unparsed}`."""
    keys = place.keys(set(), {"require_where", "deny_ddl", "deny_copy_files", "deny_functions", "unparsed"})
    rules = StatementRules(
        require_where=keys["require_where"].truth() if "require_where" in keys else False,
        deny_ddl=keys["deny_ddl"].truth() if "deny_ddl" in keys else False,
        deny_copy_files=keys["deny_copy_files"].truth() if "deny_copy_files" in keys else False,
        deny_functions=tuple(_function(i) for i in keys["deny_functions"].items()) if "deny_functions" in keys else (),
        forward_unparsed=keys["unparsed"].one_of({"deny": False, "forward": True}) if "unparsed" in keys else False,
    )
    if not rules.is_set():
        raise place.wrong("has no rule: require_where, deny_ddl, deny_copy_files, deny_functions")
    return rules


def _function(place: Place) -> str:
    name = place.text()
    if not name or "." in name or len(name) > _PATTERN:
        raise place.wrong("a function is named without its schema; * stands for any letters")
    return name


def dry_run(place: Place) -> DryRun:
    """`self` or `approver`, or `{confirm: self | approver, functions: […]}`."""
    if not place.is_mapping():
        return DryRun(place.one_of(_CONFIRMS))
    keys = place.keys({"confirm"}, {"functions"})
    functions = tuple(_function(i) for i in keys["functions"].items()) if "functions" in keys else ()
    return DryRun(keys["confirm"].one_of(_CONFIRMS), functions)


def replication(keys: Mapping[str, Place]) -> bool:
    """`true` lets replication connections pass, in which nothing is judged, counted against a budget or masked."""
    asked = keys["replication"].truth()
    others = [key for key in ("budget", "rules", "masks", "dry_run") if key in keys]
    if asked and others:
        raise keys["replication"].wrong(
            f"a level with {others[0]} cannot let replication pass, where it would not hold"
        )
    return asked


def masks(place: Place, rules: StatementRules) -> Masks:
    """`{schema.table.column: full | last4 | hash | null}`; at a level with these rules."""
    found = {_column(name, item): _mask(item) for name, item in place.mapping().items()}
    if not found:
        raise place.wrong("must mask a column: {schema.table.column: full}")
    if rules.forward_unparsed:
        raise place.wrong("masks need every statement judged: leave out unparsed: forward")
    return found


def _mask(place: Place) -> Mask:
    return Mask.NULL if place.is_empty() else place.one_of(_MASKS)  # null is YAML's own word


def _column(name: str, place: Place) -> ColumnName:
    parts = name.split(".")
    if len(parts) != 3 or not all(_NAME.fullmatch(part) and len(part.encode()) <= _PATTERN for part in parts):
        raise place.wrong("a column is named schema.table.column, as the database spells it (letters, digits, _ and $)")
    if parts[0].startswith("pg_") or parts[0] == "information_schema":
        raise place.wrong("PostgreSQL's own tables have no masks")
    return ColumnName(*parts)
