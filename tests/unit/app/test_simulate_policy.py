from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.adapters.cedar import CedarPolicy
from gateway.adapters.policy_cases import parse_cases, read_cases
from gateway.adapters.yaml_source import SourceError
from gateway.app.context import Context
from gateway.app.simulate_policy import DeployQuestion, PolicyCase, run_policy_tests, why, why_deploy
from gateway.core.decision import Action, Decision, Deny, Permit
from gateway.core.errors import Denied, NotFound
from gateway.core.freeze import Freeze
from gateway.core.principal import User
from gateway.core.target import Catalogue, Kind, Target
from gateway.core.verb import Verb
from gateway.core.window import Window
from tests.unit.app.house import FixedCatalogue
from tests.unit.edges.stage import Stage, make_stage

POLICIES = Path(__file__).parents[3] / "policies"
CASES = read_cases(POLICIES / "tests")
ALONE = CedarPolicy(POLICIES, {role: frozenset({role}) for role in ("engineer", "lead", "auditor", "security")})
GROUPS = {"engineers": frozenset({"engineer"}), "auditors": frozenset({"auditor"})}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.question)
def test_policies_answer_as_expected(case: PolicyCase):
    (result,) = run_policy_tests(ALONE, [case])
    assert result.faults == ()


def test_every_policy_decides_a_case():
    decided = {name for result in run_policy_tests(ALONE, CASES) for name in result.decided}
    assert decided == ALONE.ids()


def test_a_wrong_expectation_is_told():
    good = next(case for case in CASES if case.permit and case.max_duration and case.policies == {"oncall-look"})
    (result,) = run_policy_tests(ALONE, [replace(good, permit=False)])
    assert result.faults == ("expected deny, got permit by oncall-look",)
    (result,) = run_policy_tests(ALONE, [replace(good, needs_approvals=3, policies=frozenset({"x"}))])
    assert result.faults == ("expected policies x, got oncall-look", "expected needs_approvals 3, got 0")
    (result,) = run_policy_tests(ALONE, [replace(good, on_call="no")])
    assert "expected permit, got deny (not-on-call: You are not on call" in result.faults[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 1\ncases: [{question: x}]", r"t.yaml:2: cases\[0\]: action is missing"),
        ("version: 1\ncases: [{question: x, roles: [], action: Fly, answer: permit}]", "action: must be Connect or"),
        ("version: 1\ncases: [{question: x, roles: [], action: Audit, answer: maybe}]", "answer: must be permit or deny"),
        ("version: 1\ncases: [{question: x, roles: [], action: Audit, answer: deny, max_duration: 1y}]", "max_duration: "),
        ("version: 1\ncases: {}", "must be a list"),
    ],
)  # fmt: skip
def test_malformed_cases_say_where(text: str, said: str):
    with pytest.raises(SourceError, match=said):
        tuple(parse_cases(text.encode(), "t.yaml"))


# ---------------------------------------------------------------- why


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = make_stage(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def ctx(stage: Stage) -> Context:
    return replace(stage.ctx, policy=CedarPolicy(POLICIES, GROUPS))


def person(ctx: Context, name: str, *groups: str) -> User:
    user = User(ctx.ids.new("usr"), "https://idp.test", name, name, "", frozenset(groups))
    with ctx.store.begin() as uow:
        uow.users.upsert(user)
    return user


def test_anybody_asks_about_themselves(ctx: Context):
    anna = person(ctx, "anna", "engineers")
    answer = why(ctx, anna, "", "orders-db", "read")
    assert isinstance(answer, Deny)
    assert answer.refusal.missing == ("on_call", "incident_open")
    supposed = why(ctx, anna, "anna", "orders-db", "read", on_call=True)
    assert isinstance(supposed, Deny)
    assert supposed.refusal.missing == ("incident_open",)


def test_only_those_who_see_the_log_ask_about_others(ctx: Context):
    anna = person(ctx, "anna", "engineers")
    person(ctx, "ben", "engineers")
    audrey = person(ctx, "audrey", "auditors")
    with pytest.raises(Denied):
        why(ctx, anna, "ben", "orders-db", "read")
    assert isinstance(why(ctx, audrey, "ben", "orders-db", "read"), Deny)
    with pytest.raises(NotFound, match="Nobody called 'carl'"):
        why(ctx, audrey, "carl", "orders-db", "read")


def test_unknown_targets_and_levels_are_not_found(ctx: Context):
    anna = person(ctx, "anna", "engineers")
    for target, level in (("nowhere", "read"), ("orders-db", "emperor")):
        with pytest.raises(NotFound):
            why(ctx, anna, "", target, level)


def test_duty_can_be_supposed_away(ctx: Context):
    from gateway.core.incident import Incident
    from gateway.core.rota import Shift

    anna, at = person(ctx, "anna", "engineers"), ctx.clock.now()
    hours = timedelta(hours=5)
    with ctx.store.begin() as uow:
        duty = Shift("orders", "anna", 1, Window(at - hours, at + hours), "s", at, "h")
        uow.shifts.replace("s", Window(at - hours, at + hours), [duty])
        uow.incidents.replace("i", [Incident("INC-1", "orders", "", at - hours, None, "i", at)])
    assert isinstance(why(ctx, anna, "", "orders-db", "read", "INC-1"), Permit)
    assert isinstance(why(ctx, anna, "", "orders-db", "read", "INC-1", on_call=True), Permit)
    assert isinstance(why(ctx, anna, "", "orders-db", "read", "INC-1", on_call=False), Deny)
    glass = why(ctx, anna, "", "orders-db", "read", "INC-1", break_glass=True)
    assert isinstance(glass, Permit)
    assert glass.policies == ("break-glass",)


def test_all_actions_have_a_case():
    assert {case.action for case in CASES} == set(Action)


def test_a_run_of_a_verb_can_be_asked_about(ctx: Context):
    at = ctx.clock.now()
    catalogue = ctx.catalogue.current()
    verbs = {
        "deploy": Verb("deploy", "deploy", ("/bin/deploy",), rollback="rollback"),
        "rollback": Verb("rollback", "deploy", ("/bin/rollback",)),
    }
    web = Target("web-1", Kind.SSH, "orders", "production", "127.0.0.1", 22, {}, verbs=verbs)
    freeze = Freeze("sales", Window(at - timedelta(hours=1), at + timedelta(hours=1)), "managers", "sales")
    changed = replace(catalogue, targets={**catalogue.targets, "web-1": web})
    anna = person(ctx, "anna", "engineers")

    def ask(asked: DeployQuestion, catalogue: Catalogue = changed, on_call: bool | None = None) -> Decision:
        there = replace(ctx, catalogue=FixedCatalogue(catalogue))
        return why_deploy(there, anna, "", "web-1", asked, on_call=on_call)

    assert isinstance(ask(DeployQuestion("rollback", to_previous=True), on_call=True), Permit)
    assert isinstance(ask(DeployQuestion("rollback", to_previous=True), on_call=False), Deny)
    assert isinstance(ask(DeployQuestion("deploy"), on_call=True), Deny)
    assert isinstance(ask(DeployQuestion("deploy", pipeline=True)), Permit)
    frozen = ask(DeployQuestion("deploy", pipeline=True), replace(changed, freezes=(freeze,)))
    assert isinstance(frozen, Deny)
    assert "sales" in frozen.refusal.message
    with pytest.raises(NotFound, match="no such verb"):
        ask(DeployQuestion("explode"))
