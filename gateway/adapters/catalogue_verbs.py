"""The part of the catalogue that is about deploys: verbs of targets, groups of targets, freezes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from gateway.adapters.yaml_source import Place
from gateway.core.freeze import Freeze
from gateway.core.obligation import parse_duration
from gateway.core.rollout import MOST_TARGETS
from gateway.core.target import Kind, Target
from gateway.core.verb import LONGEST_TEXT, BadVerbError, Parameter, Type, Verb, WhenGone
from gateway.core.window import Window

# The name of a login on the target. No comma or space: a certificate's principals are a list (CVE-2026-35414).
ACCOUNT = re.compile(r"[a-z_][a-z0-9_.-]{0,62}")
_TYPES = {each.value: each for each in Type}
_WHEN_GONE = {each.value: each for each in WhenGone}
_SIZES = {"k": 1024, "M": 1024 * 1024}
_VERB = {
    Kind.SSH: ({"argv", "account"}, {"parameters", "version", "rollback", "output_limit", "input_limit"}),
    Kind.POSTGRES: ({"account", "owner"}, {"output_limit", "input_limit", "in_transaction"}),
}
_ALWAYS = {"description", "timeout", "when_gone"}
_OF_TYPE = {Type.INTEGER: {"min", "max"}, Type.CHOICE: {"choices"}, Type.TEXT: {"max_length"}}
_INPUT = 256 * 1024


def verbs(place: Place, kind: Kind) -> dict[str, Verb]:
    """The verbs of a target or of a group; rollbacks are verbs beside them."""
    found = {name: _verb(name, item, kind) for name, item in place.mapping().items()}
    for name, verb in found.items():
        if verb.rollback and verb.rollback not in found:
            raise place.mapping()[name].wrong(f"rollback names {verb.rollback!r}, which is no verb here")
        if verb.rollback and not (verb.version and found[verb.rollback].version):
            raise place.mapping()[name].wrong("what can be rolled back needs `version`, here and in its rollback")
    return found


def _verb(name: str, place: Place, kind: Kind) -> Verb:
    needed, optional = _VERB[kind]
    keys = place.keys(needed, optional | _ALWAYS)
    readers: dict[str, Callable[[Place], object]] = {
        "account": _account,
        "owner": _account,
        "argv": lambda words: tuple(word.text() for word in words.items()),
        "parameters": lambda named: {key: _parameter(item) for key, item in named.mapping().items()},
        "timeout": _duration,
        "output_limit": lambda size: size.parsed(octets),
        "input_limit": lambda size: size.parsed(octets),
        "rollback": Place.name,
        "version": Place.name,
        "when_gone": lambda word: word.one_of(_WHEN_GONE),
        "in_transaction": Place.truth,
        "description": Place.text,
    }
    given: dict[str, Any] = {key: readers[key](item) for key, item in keys.items()}
    if kind is Kind.POSTGRES:
        given.setdefault("input_limit", _INPUT)
    try:
        return Verb(name=name, **given)
    except BadVerbError as error:
        raise place.wrong(str(error)) from None


def _account(place: Place) -> str:
    account = place.text()
    if not ACCOUNT.fullmatch(account):
        raise place.wrong(f"{account[:60]!r} is not the name of a login on the target")
    return account


def _parameter(place: Place) -> Parameter:
    type_ = place.mapping()["type"].one_of(_TYPES) if "type" in place.mapping() else None
    own = _OF_TYPE.get(type_, set[str]()) if type_ else set[str]()
    keys = place.keys({"type"} | (own - {"max_length"}), {"default", "description"} | own)
    return Parameter(
        type=keys["type"].one_of(_TYPES),
        least=keys["min"].number(0, 999_999_999) if "min" in keys else 0,
        most=keys["max"].number(0, 999_999_999) if "max" in keys else 0,
        choices=tuple(item.text() for item in keys["choices"].items()) if "choices" in keys else (),
        longest=keys["max_length"].number(1, LONGEST_TEXT) if "max_length" in keys else LONGEST_TEXT,
        default=keys["default"].text() if "default" in keys else None,
        description=keys["description"].text() if "description" in keys else "",
    )


def _duration(place: Place) -> timedelta:
    return place.parsed(parse_duration)


def octets(text: str) -> int:
    """A size as written, in octets."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})([kM])", text)
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 64k or 1M")
    return int(match[1]) * _SIZES[match[2]]


# ---------------------------------------------------------------- groups


def groups(place: Place, targets: Mapping[str, Target]) -> tuple[dict[str, tuple[str, ...]], dict[str, Target]]:
    """(group -> its targets in order, targets with the verbs that their groups give them)."""
    found: dict[str, tuple[str, ...]] = {}
    armed = dict(targets)
    for name, item in place.named().items():
        if name in targets:
            raise item.wrong("is the name of a target already")
        keys = item.keys({"targets"}, {"description", "verbs"})
        found[name] = _members(keys["targets"], armed)
        if "verbs" in keys:
            for member in found[name]:
                armed[member] = _armed(keys["verbs"], armed[member])
    return found, armed


def _members(place: Place, targets: Mapping[str, Target]) -> tuple[str, ...]:
    names = place.names()
    for name in names:
        if name not in targets:
            raise place.wrong(f"{name!r} is no target here")
    if not 0 < len(set(names)) == len(names) <= MOST_TARGETS:
        raise place.wrong(f"a group has 1 to {MOST_TARGETS} targets, each once")
    if len({targets[name].kind for name in names}) != 1:
        raise place.wrong("the targets of a group are of one kind")
    return names


def _armed(place: Place, target: Target) -> Target:
    given = verbs(place, target.kind)
    twice = sorted(set(given) & set(target.verbs))
    if twice:
        raise place.wrong(f"{target.name} has a verb {twice[0]} already")
    return replace(target, verbs={**target.verbs, **given})


# ---------------------------------------------------------------- freezes


def freezes(place: Place, services: frozenset[str], environments: frozenset[str]) -> tuple[Freeze, ...]:
    """Windows in UTC, half-open; what is not named is all."""
    return tuple(_freeze(name, item, services, environments) for name, item in place.mapping().items())


def _freeze(name: str, place: Place, services: frozenset[str], environments: frozenset[str]) -> Freeze:
    keys = place.keys({"from", "until", "by", "reason"}, {"services", "environments", "verbs"})
    start, end = keys["from"].instant(), keys["until"].instant()
    if end <= start:
        raise keys["until"].wrong("must be after from")
    return Freeze(
        name=name,
        window=Window(start, end),
        by=keys["by"].text(),
        reason=keys["reason"].text(),
        services=_known(keys, "services", services),
        environments=_known(keys, "environments", environments),
        verbs=frozenset(keys["verbs"].names()) if "verbs" in keys else frozenset(),
    )


def _known(keys: Mapping[str, Place], key: str, known: frozenset[str]) -> frozenset[str]:
    """A name that is nothing here would freeze nothing, and nobody would notice."""
    if key not in keys:
        return frozenset()
    named = frozenset(keys[key].names())
    if not named or named - known:
        raise keys[key].wrong(f"must name some of: {', '.join(sorted(known))}")
    return named
