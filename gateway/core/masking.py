"""Which columns of a database a level shows masked, and what a session knows of the database to hold to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Mask(StrEnum):
    """What is shown in place of a value. NULL stays NULL. All but texts become NULL under any of them."""

    FULL = "full"  # the same word for every value
    LAST4 = "last4"  # the last four characters, of values that have at least eight
    HASH = "hash"  # the same word for the same value: an HMAC with a key of the gateway's
    NULL = "null"


class ColumnName(NamedTuple):
    """As the database's catalogue spells it."""

    schema: str
    table: str
    column: str


Masks = Mapping[ColumnName, Mask]


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, view or the like. `masks` by the name of a column; `is_blocked`: it may show what is masked elsewhere,
    or nobody can say what it shows.
    """

    oid: int
    schema: str
    name: str
    columns: Mapping[str, int]  # the number of the attribute by name
    masks: Mapping[str, Mask] = field(default_factory=dict)
    is_blocked: bool = False

    def mask_of(self, number: int) -> Mask | None:
        """How the attribute of that number is masked; None when it is not, KeyError when it is not known."""
        if number < 0:  # a system column (ctid, tableoid…)
            return None
        for name, each in self.columns.items():
            if each == number:
                return self.masks.get(name)
        raise KeyError(number)


@dataclass(frozen=True, slots=True)
class Known:
    """A database as it was when a session began. What is not in here is not known, and refused.

    `functions`: names that may be called; `builtins`: those that may be called as pg_catalog's only. `odd_functions`:
    others, which take a row or any type, so that `row.name` calls them. `odd_operators`: not PostgreSQL's own.
    """

    relations: tuple[Relation, ...]
    functions: frozenset[str]
    builtins: frozenset[str] = frozenset()
    odd_functions: frozenset[str] = frozenset()
    odd_operators: frozenset[str] = frozenset()
    by_name: Mapping[str, tuple[Relation, ...]] = field(init=False)
    by_oid: Mapping[int, Relation] = field(init=False)

    def __post_init__(self) -> None:
        named: dict[str, tuple[Relation, ...]] = {}
        for each in self.relations:
            named[each.name] = (*named.get(each.name, ()), each)
        object.__setattr__(self, "by_name", named)
        object.__setattr__(self, "by_oid", {each.oid: each for each in self.relations})
