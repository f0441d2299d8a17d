"""A level that the catalogue says otherwise since it was asked for: the yes was given to something else."""

from collections.abc import Mapping

from gateway.core.errors import Refusal
from gateway.core.level_terms import LEVEL_TERMS
from gateway.core.target import Target


def is_changed(target: Target, level: str, facts: Mapping[str, object]) -> bool:
    """True unless the level allows just what it did when the request with these facts was made."""
    found = target.level(level)
    return found is None or found.terms != facts.get(LEVEL_TERMS, "")


def level_changed(level: str, target: str, facts: Mapping[str, object]) -> Refusal:
    """The "no" to what was asked for, or given, before."""
    said = f"What {level} on {target} allows was changed since it was asked for."
    if not facts.get(LEVEL_TERMS):
        said = f"{level} on {target} was asked for at an older gateway, which did not note what it allowed."
    return Refusal(
        "level-changed", said, ("a new request",), (f"gw request {target} --level {level}, for what it allows now.",)
    )
