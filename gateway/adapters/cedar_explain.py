"""Why not, and what would make it a yes: asks the same policies again under slightly other facts.

The smallest set of changed facts that would permit is what is missing. Breaking the glass is only ever the answer
when nothing gentler is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import combinations
from typing import Protocol

from gateway.adapters.cedar_deploy import explain_deploy
from gateway.adapters.cedar_load import Rule
from gateway.core.decision import Action, Facts, Query
from gateway.core.errors import Refusal
from gateway.core.incident import Incident
from gateway.core.rota import Freshness, OnCall
from gateway.core.target import Target

MAX_CHANGES = 3
_CI = "Deploys go through CI/CD; you need no access for them."
_VERBS = {
    Action.AUDIT: "read the audit log",
    Action.ADMINISTER: "administer the gateway",
    Action.EXAMINE: "examine this target",
    Action.REVOKE: "end this grant",
    Action.KILL: "end this session",
}


class Ask(Protocol):
    def __call__(self, query: Query, extra_roles: frozenset[str] = frozenset()) -> tuple[Rule, ...]:
        """The policies that would permit this; empty for a no."""
        ...


def explain(query: Query, forbids: Sequence[Rule], roles: frozenset[str], ask: Ask) -> Refusal:
    """A refusal that names what was missing. `roles`: those that policies know and the principal does not hold."""
    if query.action is Action.DEPLOY and query.target is not None and query.facts.deploy is not None:
        return explain_deploy(query, query.target, query.facts.deploy, ask)
    if query.action is not Action.CONNECT or query.target is None:
        return _not_for_you(query, forbids, roles, ask)
    target = query.target
    if forbids:
        sentences = [rule.description or f"The policy {rule.id} forbids it." for rule in forbids]
        return Refusal("forbidden", " ".join(sentences), (), (_CI,))
    if query.facts.break_glass and ask(replace(query, facts=replace(query.facts, break_glass=False))):
        return Refusal(
            "glass-not-needed",
            f"No glass needs breaking: {target.name} is yours at level {query.facts.level} without.",
            next_steps=(_request_command(query, target, query.facts.level),),
        )
    role, missing = _smallest_change(query, roles, ask)
    sentences = [_role_sentence(role)] if role else []
    sentences += [_SENTENCES[name](query.facts, target) for name in missing if name in _SENTENCES]
    if not sentences:
        sentences = [f"No policy permits level {query.facts.level} on {target.name} to you."]
    code = f"not-{role}" if role else _CODES.get(missing[0], "not-permitted") if missing else "not-permitted"
    wanted = ((f"role:{role}",) if role else ()) + missing
    return Refusal(code, " ".join(sentences), wanted, tuple(_next_steps(query, target, missing, ask)))


# ---------------------------------------------------------------- what would have to be otherwise


def _smallest_change(query: Query, roles: frozenset[str], ask: Ask) -> tuple[str, tuple[str, ...]]:
    """(role, facts): the smallest change that makes it a yes; ("", ()) when no such change does."""
    possible = [name for name, is_missing in _MISSING.items() if is_missing(query)]
    for role in ("", *sorted(roles)):
        extra = frozenset({role}) if role else frozenset[str]()
        for names in _subsets(possible):
            if (names or role) and ask(_changed(query, names), extra):
                return role, names
    return "", ()


def _subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Smallest first."""
    for size in range(min(len(names), MAX_CHANGES) + 1):
        yield from combinations(names, size)


def _changed(query: Query, names: Sequence[str]) -> Query:
    facts = query.facts
    for name in names:
        facts = _CHANGES[name](query, facts)
    return replace(query, facts=facts)


def _is_off_call(query: Query) -> bool:
    return query.facts.on_call is None or not query.facts.on_call.is_on_call


def _is_stale(query: Query) -> bool:
    return (
        not _is_off_call(query) and query.facts.on_call is not None and query.facts.on_call.freshness is Freshness.STALE
    )


def _lacks_open_incident(query: Query) -> bool:
    return _lacks_incident(query) or not (query.facts.incident and query.facts.incident.is_open(query.facts.at))


def _lacks_incident(query: Query) -> bool:
    incident, target = query.facts.incident, query.target
    return incident is None or target is None or incident.service != target.service


def _on_duty(query: Query, facts: Facts) -> Facts:
    service = query.target.service if query.target else ""
    until = facts.at + timedelta(hours=1)
    duty = OnCall(service, query.principal.name, is_on_call=True, freshness=Freshness.FRESH, level=1, until=until)
    return replace(facts, on_call=duty)


def _with_incident(query: Query, facts: Facts, *, is_open: bool) -> Facts:
    service = query.target.service if query.target else ""
    known = facts.incident.id if facts.incident else "INC"
    end = None if is_open else facts.at
    return replace(facts, incident=Incident(known, service, "", facts.at, end, "what-if", facts.at))


# Order is what a person hears first. Closed incidents do for a broken glass, so that is a fact of its own.
_MISSING: dict[str, Callable[[Query], bool]] = {
    "on_call": _is_off_call,
    "rota_fresh": _is_stale,
    "has_incident": _lacks_incident,
    "incident_open": _lacks_open_incident,
}
_CHANGES: dict[str, Callable[[Query, Facts], Facts]] = {
    "on_call": _on_duty,
    "rota_fresh": _on_duty,
    "has_incident": lambda query, facts: _with_incident(query, facts, is_open=False),
    "incident_open": lambda query, facts: _with_incident(query, facts, is_open=True),
}


# ---------------------------------------------------------------- sentences


def _off_call_sentence(facts: Facts, target: Target) -> str:
    others = facts.on_call.others if facts.on_call else ()
    if others:
        return f"You are not on call for {target.service}; {_names(others)} {'is' if len(others) == 1 else 'are'}."
    return f"You are not on call for {target.service}, and the rota knows nobody who is."


def _stale_sentence(_facts: Facts, target: Target) -> str:
    return f"The rota of {target.service} has not been refreshed of late, so its word is good for looking only."


def _incident_sentence(facts: Facts, target: Target) -> str:
    incident = facts.incident
    if incident is None:
        if facts.incident_named:
            return f"No incident {facts.incident_named[:40]!r} is known here."
        return f"An open incident of {target.service} is needed, and none was named."
    if incident.service != target.service:
        return f"{incident.id} is about {incident.service}, not about {target.service}."
    return f"There is no open incident {incident.id} for {target.service}."


def _role_sentence(role: str) -> str:
    return f"This is for people with the role {role}, which you do not hold."


_SENTENCES: dict[str, Callable[[Facts, Target], str]] = {
    "on_call": _off_call_sentence,
    "rota_fresh": _stale_sentence,
    "has_incident": _incident_sentence,
    "incident_open": _incident_sentence,
}
_CODES = {
    "on_call": "not-on-call",
    "rota_fresh": "rota-stale",
    "has_incident": "incident-missing",
    "incident_open": "incident-not-open",
}


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _next_steps(query: Query, target: Target, missing: Sequence[str], ask: Ask) -> Iterator[str]:
    others = query.facts.on_call.others if query.facts.on_call else ()
    if "on_call" in missing and others:
        who = others[0] if len(others) == 1 else f"one of {_names(others)}"
        yield f"Ask {who}, who is on call now, to look or to hand the shift over."
    if "has_incident" in missing or "incident_open" in missing:
        yield f"Name an open incident of {target.service} with --incident ID; open one if there is none."
    gentler = _other_level(query, target, ask)
    if gentler:
        yield _request_command(query, target, gentler)
    if not query.facts.break_glass and ask(replace(query, facts=replace(query.facts, break_glass=True))):
        command = f"gw break-glass {target.name} --level {query.facts.level}{_incident_option(query)} --reason …"
        yield f"In an emergency: {command}"
    yield _CI


def _other_level(query: Query, target: Target, ask: Ask) -> str:
    """The highest level of the same target that would be permitted now, as things stand; "" for none."""
    for level in sorted(target.levels.values(), key=lambda x: x.rank, reverse=True):
        facts = replace(query.facts, level=level.name, break_glass=False)
        if level.name != query.facts.level and ask(replace(query, facts=facts)):
            return level.name
    return ""


def _request_command(query: Query, target: Target, level: str) -> str:
    return f"gw request {target.name} --level {level}{_incident_option(query)} --reason …"


def _incident_option(query: Query) -> str:
    return f" --incident {query.facts.incident.id}" if query.facts.incident else ""


# ---------------------------------------------------------------- everything but Connect


def _not_for_you(query: Query, forbids: Sequence[Rule], roles: frozenset[str], ask: Ask) -> Refusal:
    verb = _VERBS.get(query.action, query.action.value.lower())
    about = f" on {query.target.name}" if query.target else ""
    if query.facts.requester == query.principal.id and forbids:
        return Refusal(
            "own-request",
            f"This is your own, so somebody else must {verb} it.",
            ("another person",),
            ("Send its id to somebody who may.",),
        )
    if forbids:
        return Refusal("forbidden", " ".join(r.description or f"The policy {r.id} forbids it." for r in forbids))
    holders = sorted(role for role in roles if ask(query, frozenset({role})))
    if not holders:
        return Refusal("not-permitted", f"No policy permits you to {verb}{about}.")
    who = " or ".join(holders)
    return Refusal(
        f"not-{'-or-'.join(holders)}",
        f"You may not {verb}{about}: that takes the role {who}.",
        tuple(f"role:{role}" for role in holders),
        (f"Ask somebody with the role {who}.",),
    )
