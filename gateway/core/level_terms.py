"""What a level lets somebody do, as one short digest: a yes is given to that, and not to a name."""

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from datetime import timedelta
from enum import Enum
from hashlib import sha256

from gateway.core.target import Level

LEVEL_TERMS = "level_terms"  # under which the facts of a request keep it
_SAYS_NOTHING = frozenset({"name", "rank", "description", "terms"})  # policy is asked with the rank each time


def terms_of(level: Level) -> str:
    """Another for each change of what the level allows, in either direction.

    What has its default does not count, so that a setting which a new version brings changes no digest.
    """
    followed = replace(level, ssh=replace(level.ssh, idle_timeout=None))  # a new one counts in live sessions as well
    told = {name: value for name, value in _fields(followed).items() if name not in _SAYS_NOTHING}
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _fields(value: object) -> dict[str, object]:
    assert is_dataclass(value)
    told = {field.name: (getattr(value, field.name), field) for field in fields(value)}
    return {name: _plain(each) for name, (each, field) in told.items() if each != _default(field)}


def _default(field: Field[object]) -> object:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, int | str):
        return value
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return _sorted([[_plain(key), _plain(each)] for key, each in value.items()])
    if isinstance(value, AbstractSet):
        return _sorted([_plain(each) for each in value])
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if is_dataclass(value):
        return [type(value).__name__, _fields(value)]
    raise TypeError(f"a level holds a {type(value).__name__}, of which no digest is known")


def _sorted(values: list[object]) -> list[object]:
    return sorted(values, key=lambda each: json.dumps(each, sort_keys=True))
