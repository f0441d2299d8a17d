"""Tests of policies from YAML files: a question, and the answer that is expected of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from gateway.adapters.yaml_source import Place, SourceError, document, read_bytes
from gateway.app.simulate_policy import FREEZE, PolicyCase
from gateway.core.decision import Action, DeployFacts
from gateway.core.obligation import Record, StepUp, parse_duration

_ACTIONS = {action.value: action for action in Action}
_ENVIRONMENTS: dict[str, str | None] = {
    **{name: name for name in ("development", "staging", "production")},
    "gateway": None,
}
_WORDS: dict[str, dict[str, str]] = {
    "on_call": {word: word for word in ("fresh", "stale", "no")},
    "incident": {word: word for word in ("open", "closed", "other-service", "none")},
    "record": {record.value: record.value for record in Record},
    "step_up": {step_up.value: step_up.value for step_up in StepUp},
}
_ASKED = {"environment", "level", "on_call", "incident", "break_glass", "own", "approvals", "labels"}
_DEPLOY = {"workload", "verb", "frozen", "override", "rollback", "to_previous", "token_allows"}
_EXPECTED = {"policies", "reason", "missing", "max_duration", "needs_approvals", "review", "record", "notify"} | {
    "step_up",
    "max_auth_age",
}


def read_cases(directory: Path) -> tuple[PolicyCase, ...]:
    """Every case in `*.yaml` of a directory, in order; SourceError with file, line and key."""
    try:
        paths = sorted(p for p in directory.iterdir() if p.suffix in (".yaml", ".yml"))
    except OSError as error:
        raise SourceError(f"{directory.name}: {error.strerror}") from None
    return tuple(case for path in paths for case in parse_cases(read_bytes(path), path.name))


def parse_cases(content: bytes, file: str) -> Iterator[PolicyCase]:
    """The cases of one file."""
    for place in document(content, file, {"cases"}, set())["cases"].items():
        yield _case(place, place.keys({"question", "roles", "action", "answer"}, _ASKED | _DEPLOY | _EXPECTED))


def _case(place: Place, keys: Mapping[str, Place]) -> PolicyCase:
    return PolicyCase(
        place=f"{place.file}:{place.line}",
        question=keys["question"].text(),
        roles=keys["roles"].names(),
        action=keys["action"].one_of(_ACTIONS),
        permit=keys["answer"].one_of({"permit": True, "deny": False}),
        environment=keys["environment"].one_of(_ENVIRONMENTS) if "environment" in keys else "production",
        level=keys["level"].name() if "level" in keys else "",
        on_call=keys["on_call"].one_of(_WORDS["on_call"]) if "on_call" in keys else "no",
        incident=keys["incident"].one_of(_WORDS["incident"]) if "incident" in keys else "none",
        break_glass="break_glass" in keys and keys["break_glass"].truth(),
        own="own" in keys and keys["own"].truth(),
        approvals=keys["approvals"].number(0, 9) if "approvals" in keys else 0,
        labels=frozenset(keys["labels"].names()) if "labels" in keys else frozenset(),
        deploy=_deploy(keys) if "verb" in keys else None,
        workload="workload" in keys and keys["workload"].truth(),
        policies=_set(keys, "policies"),
        reason=keys["reason"].name() if "reason" in keys else None,
        missing=_set(keys, "missing"),
        max_duration=keys["max_duration"].parsed(parse_duration) if "max_duration" in keys else None,
        needs_approvals=keys["needs_approvals"].number(0, 9) if "needs_approvals" in keys else None,
        review=keys["review"].truth() if "review" in keys else None,
        record=keys["record"].one_of(_WORDS["record"]) if "record" in keys else None,
        notify=_set(keys, "notify"),
        step_up=keys["step_up"].one_of(_WORDS["step_up"]) if "step_up" in keys else None,
        max_auth_age=keys["max_auth_age"].parsed(parse_duration) if "max_auth_age" in keys else None,
    )


def _deploy(keys: Mapping[str, Place]) -> DeployFacts:
    def said(key: str) -> bool:
        return key in keys and keys[key].truth()

    return DeployFacts(
        verb=keys["verb"].name(),
        freezes=(FREEZE,) if said("frozen") else (),
        override=said("override"),
        is_rollback=said("rollback"),
        to_previous=said("to_previous"),
        token_allows=said("token_allows"),
    )


def _set(keys: Mapping[str, Place], key: str) -> frozenset[str] | None:
    return frozenset(item.text() for item in keys[key].items()) if key in keys else None
