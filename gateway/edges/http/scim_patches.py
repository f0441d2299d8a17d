"""What a PATCH may cost: the library holds each value against all that an operation names, so many cost the square.

Identity providers send one operation for each member that comes or goes, thousands at a time. Those are applied here,
each in one step; of what is left to the library, that product is bounded.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from gateway.app.provision import UnusableValue
from gateway.core.errors import Refusal

MOST_WORK = 100_000  # comparisons times values; some seconds at worst
MOST_CONDITIONS = 50  # of a filter in a question, which every person or group is held against
_FEWEST_VALUES = 20  # a filter costs something also where there is nothing to compare
_CONDITIONS = re.compile("or|and|not", re.IGNORECASE)
_ONE = re.compile(r'members\[value eq "([^"\\]+)"\]', re.IGNORECASE)
_OF_A_MEMBER = {"value", "type", "display", "$ref"}
Operations = Sequence[Any]


def demand_bounded(operations: Operations, *values: object) -> None:
    """Refuse what would keep a processor busy. Each value that has a name for its parts has a brace in JSON."""
    compared = sum(map(_compared, operations))
    many = max(_FEWEST_VALUES, sum(map(_braces, values)))
    if compared * many > MOST_WORK:
        said = f"{len(operations)} operations, which compare {compared} things with {many} values, are too many."
        raise UnusableValue(Refusal("patch-too-large", said, (), ("Send several PATCHes, of fewer each.",)))


def demand_short(asked: Mapping[str, str]) -> None:
    """Refuse a question whose filter has more conditions than anybody needs to find somebody."""
    if sum(len(_CONDITIONS.findall(said)) for said in asked.values()) > MOST_CONDITIONS:
        said = f"A filter has at most {MOST_CONDITIONS} conditions."
        raise UnusableValue(Refusal("filter-too-long", said, (), ("Ask in several questions.",)))


def _compared(operation: Any) -> int:
    """What each value is held against: all conditions of a filter, and everything that is to be removed."""
    if not isinstance(operation, Mapping):
        return 1
    said = {str(key).lower(): each for key, each in operation.items()}  # names in any case (RFC 7643 §2.1)
    is_removal = str(said.get("op")).lower() not in ("add", "replace")
    return 1 + len(_CONDITIONS.findall(str(said.get("path", "")))) + (_braces(said.get("value")) if is_removal else 0)


def _braces(value: object) -> int:
    return json.dumps(value, default=str).count("{")


def runs(operations: Operations) -> Iterator[tuple[bool, list[Any]]]:
    """The operations in their order, cut into runs: those that only add or remove named members, and the others."""
    for is_simple, run in groupby(operations, lambda each: named_members(each) is not None):
        yield is_simple, list(run)


def with_members(members: frozenset[str], operations: Operations) -> frozenset[str]:
    """The members after a run of operations that only add or remove named ones."""
    after = set(members)
    for each in operations:
        change = named_members(each)
        if change is not None:
            (after.update if change[0] else after.difference_update)(change[1])
    return frozenset(after)


def named_members(operation: Any) -> tuple[bool, list[str]] | None:
    """Whether it adds, and whom; None for every operation that says anything else, or says it in another way."""
    if not isinstance(operation, Mapping) or not operation.keys() <= {"op", "path", "value"}:
        return None
    op, path = operation.get("op"), operation.get("path")
    if not isinstance(op, str) or not isinstance(path, str) or op.lower() not in ("add", "remove"):
        return None
    is_add = op.lower() == "add"
    one = _ONE.fullmatch(path)
    if one is not None and not is_add and "value" not in operation:
        return False, [one[1]]
    values = operation.get("value")
    if path.lower() != "members" or not isinstance(values, list) or not values:
        return None
    known = _OF_A_MEMBER if is_add else {"value"}  # to remove, all that is said of a member has to match
    found = [each["value"] for each in values if _is_member(each, known)]
    return (is_add, found) if len(found) == len(values) else None


def _is_member(value: Any, known: set[str]) -> bool:
    is_known = isinstance(value, Mapping) and value.keys() <= known and value.get("type", "User") == "User"
    return is_known and all(isinstance(each, str) and each for each in value.values()) and "value" in value
