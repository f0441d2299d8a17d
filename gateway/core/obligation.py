"""Duties that come with a permit: Cedar annotations, parsed strictly, merged strictest-wins.

An annotation key that is not listed here is an error when policies load, so that a misspelt duty can never be
a silently forgotten one.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TypeVar

INFORMATIVE = frozenset({"id", "description"})
DUTIES = frozenset(
    {"max_duration", "approvals", "review", "record", "notify", "review_within", "step_up", "max_auth_age"}
)
USUAL_AGE = timedelta(minutes=10)  # how old a proof by passkey may be where the policy does not say
_DURATION = re.compile(r"([1-9][0-9]{0,4})([smhd])")
_T = TypeVar("_T")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Record(StrEnum):
    """How a session is recorded, strictest first.

    `require`: no recorder, no session, and each statement durable before it is sent. `spool`: the same, but what is
    sent may be a little younger than the disk. `best-effort`: the session goes on unrecorded, and the gap is an event.
    """

    REQUIRE = "require"
    SPOOL = "spool"
    BEST_EFFORT = "best-effort"


class StepUp(StrEnum):
    """Whether a passkey must say that the person is there, strictest first.

    `webauthn-each`: a proof of its own for every request. `webauthn`: one that is not older than `max_auth_age`.
    """

    EACH = "webauthn-each"
    WEBAUTHN = "webauthn"
    NONE = "none"


_STRICTEST_FIRST = tuple(Record)
_STRICTEST_PROOF_FIRST = tuple(StepUp)


class BadObligationError(ValueError):
    """An annotation that no enforcer could fulfil: unknown key or unreadable value."""


@dataclass(frozen=True, slots=True)
class Obligations:
    """Merged duties. `max_duration` None means that the policy set no limit (the gateway's own still holds).

    `max_auth_age` None: the age of a sign-in does not matter. A demand for a passkey always has one.
    """

    max_duration: timedelta | None = None
    approvals: int = 0
    review: bool = False
    review_within: timedelta = timedelta(hours=24)
    record: Record = Record.SPOOL
    notify: frozenset[str] = field(default_factory=frozenset)
    step_up: StepUp = StepUp.NONE
    max_auth_age: timedelta | None = None


def parse_duration(text: str) -> timedelta:
    """`90s`, `15m`, `4h`, `1d` as a timedelta; BadObligationError on anything else."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise BadObligationError(f"{text!r} is not a duration such as 15m, 4h or 1d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def parse_obligations(annotations: Mapping[str, str]) -> Obligations:
    """Read one policy's annotations; BadObligationError names the key that is unknown or unreadable."""
    unknown = sorted(set(annotations) - DUTIES - INFORMATIVE)
    if unknown:
        raise BadObligationError(f"unknown annotation @{unknown[0]}; known: {', '.join(sorted(DUTIES | INFORMATIVE))}")
    step_up = _one_of(annotations, "step_up", {s.value: s for s in StepUp}, default=StepUp.NONE)
    return Obligations(
        max_duration=_span(annotations, "max_duration"),
        approvals=_count(annotations.get("approvals", "0")),
        review=_one_of(annotations, "review", {"required": True, "none": False}, default=False),
        review_within=parse_duration(annotations.get("review_within", "24h")),
        record=_one_of(annotations, "record", {r.value: r for r in Record}, default=Record.SPOOL),
        notify=frozenset(filter(None, map(str.strip, annotations.get("notify", "").split(",")))),
        step_up=step_up,
        # Said here and not where it is judged, or a longer limit of another policy would stretch it.
        max_auth_age=_span(annotations, "max_auth_age") or (None if step_up is StepUp.NONE else USUAL_AGE),
    )


def merge(many: Iterable[Obligations]) -> Obligations:
    """Strictest wins: shortest limits, most approvals, any review, every notification."""
    items = tuple(many)
    return Obligations(
        max_duration=_shortest(o.max_duration for o in items),
        approvals=max((o.approvals for o in items), default=0),
        review=any(o.review for o in items),
        review_within=min((o.review_within for o in items), default=timedelta(hours=24)),
        record=min((o.record for o in items), key=_STRICTEST_FIRST.index, default=Record.SPOOL),
        notify=frozenset().union(*(o.notify for o in items)),
        step_up=min((o.step_up for o in items), key=_STRICTEST_PROOF_FIRST.index, default=StepUp.NONE),
        max_auth_age=_shortest(o.max_auth_age for o in items),
    )


def _shortest(limits: Iterable[timedelta | None]) -> timedelta | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _span(annotations: Mapping[str, str], key: str) -> timedelta | None:
    text = annotations.get(key)
    return None if text is None else parse_duration(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]", text):
        raise BadObligationError(f"@approvals takes a number from 0 to 9, not {text!r}")
    return int(text)


def _one_of(annotations: Mapping[str, str], key: str, values: Mapping[str, _T], *, default: _T) -> _T:
    text = annotations.get(key)
    if text is None:
        return default
    if text not in values:
        raise BadObligationError(f"@{key} takes {' or '.join(values)}, not {text!r}")
    return values[text]
