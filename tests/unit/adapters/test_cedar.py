import contextlib
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.adapters import cedar
from gateway.adapters.cedar import CedarPolicy
from gateway.adapters.cedar_load import MAX_NESTING, PolicyLoadError
from gateway.core.decision import Action, Deny, Facts, Permit, Query
from gateway.core.incident import Incident
from gateway.core.obligation import Record, StepUp
from gateway.core.principal import User
from gateway.core.rota import Freshness, OnCall, Shift
from gateway.core.target import Kind, Level, Target
from gateway.core.window import Window

POLICIES = Path(__file__).parents[3] / "policies"
GROUPS = {"engineers": frozenset({"engineer"}), "leads": frozenset({"lead"}), "auditors": frozenset({"auditor"})}
AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY = CedarPolicy(POLICIES, GROUPS)


def user(*groups: str, name: str = "anna") -> User:
    return User(f"usr_{name}", "https://idp.example", name, name, groups=frozenset(groups))


def target(environment: str = "production", service: str = "orders") -> Target:
    levels = {n: Level(n, n, rank) for rank, n in enumerate(("read", "write", "admin"))}
    return Target("orders-db", Kind.POSTGRES, service, environment, "db", 5432, levels)


def duty(on: bool = True, fresh: Freshness = Freshness.FRESH, others: tuple[str, ...] = ()) -> OnCall:
    if not on:
        return OnCall("orders", "anna", is_on_call=False, freshness=fresh, others=others)
    shift = Shift("orders", "anna", 1, Window(AT - HOUR, AT + HOUR), "rota:x", AT, "abc")
    return OnCall("orders", "anna", True, fresh, 1, AT + HOUR, shift, others)


def incident(service: str = "orders", closed: datetime | None = None) -> Incident:
    return Incident("INC-7", service, "slow", AT - HOUR, closed, "incidents:x", AT)


def ask(policy: CedarPolicy = POLICY, who: User | None = None, where: Target | None = None, **facts: object):
    known = {"level": "read", **facts}
    return policy.decide(
        Query(who or user("engineers"), Action.CONNECT, where or target(), Facts(AT, **known))  # type: ignore[arg-type]
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    copy = tmp_path / "policies"
    shutil.copytree(POLICIES, copy)
    return copy


# ---------------------------------------------------------------- answers


def test_permit_carries_policies_duties_and_evidence():
    answer = ask(level="admin", on_call=duty(), incident=incident(), break_glass=True)
    assert isinstance(answer, Permit)
    assert answer.policies == ("break-glass", "break-glass-everything")
    assert (answer.obligations.step_up, answer.obligations.max_auth_age) == (StepUp.WEBAUTHN, timedelta(minutes=10))
    assert answer.policy_set == POLICY.digest()
    assert answer.obligations.review
    assert answer.obligations.record is Record.REQUIRE
    assert answer.obligations.max_duration == HOUR
    assert answer.facts["roles"] == ["engineer"]
    told = answer.facts["on_call"]
    assert isinstance(told, dict)
    assert (told["is_on_call"], told["source"], told["shift_hash"]) == (True, "rota:x", "abc")
    about = answer.facts["incident"]
    assert isinstance(about, dict)
    assert (about["id"], about["state"]) == ("INC-7", "open")


def test_strictest_duties_win_when_several_permit():
    answer = ask(on_call=duty(fresh=Freshness.STALE), incident=incident())
    assert isinstance(answer, Permit)
    assert answer.policies == ("oncall-look", "oncall-look-stale-rota")
    assert answer.obligations.max_duration == HOUR


def test_a_no_names_who_is_on_call_and_what_to_do():
    answer = ask(on_call=duty(on=False, others=("ben",)), incident=incident())
    assert isinstance(answer, Deny)
    assert answer.refusal.code == "not-on-call"
    assert answer.refusal.message == "You are not on call for orders; ben is."
    assert answer.refusal.missing == ("on_call",)
    assert any("CI/CD" in step for step in answer.refusal.next_steps)
    assert any("ben" in step for step in answer.refusal.next_steps)
    assert not any("break-glass" in step for step in answer.refusal.next_steps)


def test_a_closed_incident_is_named_and_the_glass_may_be_broken():
    answer = ask(on_call=duty(), incident=incident(closed=AT - timedelta(minutes=1)))
    assert isinstance(answer, Deny)
    assert answer.refusal.message == "There is no open incident INC-7 for orders."
    assert any("gw break-glass orders-db --level read --incident INC-7" in s for s in answer.refusal.next_steps)


def test_another_services_incident_is_named():
    answer = ask(on_call=duty(), incident=incident(service="billing"))
    assert isinstance(answer, Deny)
    assert "INC-7 is about billing, not about orders." in answer.refusal.message


def test_a_level_that_would_be_permitted_is_offered():
    answer = ask(level="admin", on_call=duty(fresh=Freshness.STALE), incident=incident())
    assert isinstance(answer, Deny)
    assert answer.refusal.code == "rota-stale"
    assert "gw request orders-db --level read --incident INC-7 --reason …" in answer.refusal.next_steps


def test_both_missing_facts_are_named():
    answer = ask(on_call=duty(on=False))
    assert isinstance(answer, Deny)
    assert answer.refusal.missing == ("on_call", "incident_open")


def test_glass_is_not_broken_where_a_request_would_do():
    answer = ask(incident=incident(), where=target("development"), break_glass=True)
    assert isinstance(answer, Deny)
    assert answer.refusal.code == "glass-not-needed"


@pytest.mark.parametrize("name", ['a"b', "x\ny", "ü\u202e", "\x00", "\ud800", "a" * 5000])
def test_odd_names_are_answered_and_never_let_in(name: str):
    assert isinstance(ask(who=replace(user("engineers"), id=name, name=name)), Deny)


# ---------------------------------------------------------------- rules over random facts

shifts = st.sampled_from(
    [None, duty(on=False), duty(), duty(fresh=Freshness.STALE), duty(on=False, fresh=Freshness.NONE)]
)
incidents = st.sampled_from([None, incident(), incident("billing"), incident(closed=AT), incident(closed=AT + HOUR)])
group_sets = st.frozensets(st.sampled_from(["engineers", "leads", "auditors", "strangers"]))
levels = st.sampled_from(["read", "shell", "write", "admin", "root", "other", ""])
environments = st.sampled_from(["production", "staging", "development", "unheard-of"])


@settings(max_examples=300)
@given(shifts, incidents, group_sets, levels, st.booleans(), st.integers(0, 3))
def test_production_takes_role_duty_and_incident(
    on_call: OnCall | None, about: Incident | None, groups: frozenset[str], level: str, glass: bool, approvals: int
):
    answer = ask(
        who=user(*groups), level=level, on_call=on_call, incident=about, break_glass=glass, approvals=approvals
    )
    if isinstance(answer, Permit):
        assert "engineers" in groups
        assert on_call is not None
        assert on_call.is_on_call
        assert about is not None
        assert about.service == "orders"
        assert glass or about.is_open(AT)
        assert answer.obligations.max_duration is not None
        assert answer.obligations.review is glass
        assert level in ("read", "shell") or glass or answer.obligations.approvals >= 1


@settings(max_examples=200)
@given(shifts, incidents, group_sets, group_sets, levels, environments, st.booleans())
def test_more_groups_never_take_access_away(
    on_call: OnCall | None,
    about: Incident | None,
    groups: frozenset[str],
    more: frozenset[str],
    level: str,
    environment: str,
    glass: bool,
):
    known = {"level": level, "on_call": on_call, "incident": about, "break_glass": glass}
    fewer = ask(who=user(*groups), where=target(environment), **known)
    if isinstance(fewer, Permit):
        assert isinstance(ask(who=user(*groups, *more), where=target(environment), **known), Permit)


@settings(max_examples=100)
@given(incidents, group_sets, levels, environments)
def test_an_unknown_environment_or_nobody_is_a_no(
    about: Incident | None, groups: frozenset[str], level: str, environment: str
):
    assert isinstance(ask(who=user(), level=level, on_call=duty(), incident=about, where=target(environment)), Deny)
    assert isinstance(ask(who=user(*groups), level=level, incident=about, where=target("unheard-of")), Deny)


@given(group_sets, st.sampled_from([Action.APPROVE, Action.REVIEW]))
def test_nobody_judges_their_own(groups: frozenset[str], action: Action):
    me = user(*groups)
    assert isinstance(POLICY.decide(Query(me, action, target(), Facts(AT, requester=me.id))), Deny)


@settings(max_examples=60)
@given(shifts, incidents, levels, st.booleans())
def test_what_is_said_to_be_missing_would_have_been_enough(
    on_call: OnCall | None, about: Incident | None, level: str, glass: bool
):
    answer = ask(level=level, on_call=on_call, incident=about, break_glass=glass)
    if isinstance(answer, Deny) and answer.refusal.missing:
        changes: dict[str, object] = {"on_call": on_call, "incident": about}
        if {"on_call", "rota_fresh"} & set(answer.refusal.missing):
            changes["on_call"] = duty()
        if "has_incident" in answer.refusal.missing:
            changes["incident"] = incident(closed=AT)
        if "incident_open" in answer.refusal.missing:
            changes["incident"] = incident()
        assert isinstance(ask(level=level, break_glass=glass, **changes), Permit)


# ---------------------------------------------------------------- the trap: Cedar allows when a forbid errors

TRAP_SCHEMA = """
entity Role; entity Service; entity Gateway;
entity User in [Role] { name: String, groups: Set<String> };
entity Target in [Service] {
  kind: String, service: String, environment: String, labels: Set<String>, secret?: Bool
};
type Facts = { level: String, break_glass: Bool, on_call: Bool, escalation: Long, rota_fresh: String,
  incident_open: Bool, has_incident: Bool, approvals: Long, is_requester: Bool };
action Connect appliesTo { principal: [User], resource: [Target], context: Facts };
"""
OPEN = '@id("open") permit (principal, action, resource);\n'


def trap(tmp_path: Path, policies: str, schema: str = TRAP_SCHEMA) -> CedarPolicy:
    (tmp_path / "schema.cedarschema").write_text(schema)
    (tmp_path / "trap.cedar").write_text(policies)
    return CedarPolicy(tmp_path, GROUPS)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("resource.secret == true", "optional attribute `secret`"),
        ("context.nope == 1", "not found"),
        ("context.escalation + 9223372036854775807 > 0", "overflow"),
        ("-context.escalation < 0", "overflow"),
        ('User::"nobody".name == "x"', "may be unknown"),
    ],
)
def test_a_forbid_that_could_error_does_not_load(tmp_path: Path, condition: str, said: str):
    with pytest.raises(PolicyLoadError, match=said) as error:
        trap(tmp_path, f'{OPEN}\n@id("f")\nforbid (principal, action, resource)\nwhen {{ {condition} }};\n')
    assert str(error.value).startswith("trap.cedar:3: ")


def test_an_error_in_any_policy_is_a_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the check at load out of the way, the engine itself skips the forbid; the answer must still be no."""
    monkeypatch.setattr("gateway.adapters.cedar_load._why_it_can_error", lambda _node: None)
    policy = trap(
        tmp_path,
        OPEN + '@id("f") forbid (principal, action, resource) when { context.escalation + 9223372036854775807 > 0 };',
    )
    answer = ask(policy, on_call=duty())
    assert isinstance(answer, Deny)
    assert answer.refusal.code == "policy-error"
    assert "overflow" in str(answer.facts["error"])
    assert ask(policy).policies == ("f",)  # escalation 0 does not overflow, so the forbid decides


def test_a_context_that_breaks_the_schema_is_a_no(tmp_path: Path):
    policy = trap(tmp_path, OPEN, TRAP_SCHEMA.replace("level: String", "level: Long"))
    answer = ask(policy)
    assert isinstance(answer, Deny)
    assert answer.refusal.code == "policy-error"


def test_answers_that_were_kept_are_those_of_the_same_question(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cedar, "_MOST_ANSWERS", 3)
    policy = CedarPolicy(POLICIES, GROUPS)
    questions: list[dict[str, object]] = [
        {"on_call": duty(on), "incident_named": "INC-7", "incident": incident(closed=closed), "level": level}
        for on in (True, False)
        for closed in (None, AT)
        for level in ("read", "write")
    ]
    first = [ask(CedarPolicy(POLICIES, GROUPS), **facts) for facts in questions]
    for _ in range(3):
        assert [ask(policy, **facts) for facts in questions] == first
        assert len(policy._answers) <= 3
    assert len({type(each) for each in first}) == 2


def test_a_forbid_is_told_by_its_description(tmp_path: Path):
    policy = trap(tmp_path, OPEN + '@id("f") @description("Frozen.") forbid (principal, action, resource);')
    answer = ask(policy)
    assert isinstance(answer, Deny)
    assert answer.policies == ("f",)
    assert answer.refusal.message == "Frozen."


# ---------------------------------------------------------------- loading

PERMIT = "permit (principal, action, resource);"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PERMIT, r"trap.cedar:1: every policy needs an @id"),
        (f'@id("") {PERMIT}', r"trap.cedar:1: every policy needs an @id"),
        (f"@id {PERMIT}", r"trap.cedar:1: every policy needs an @id"),
        (f'@id("a") {PERMIT}\n\n@id("a") {PERMIT}', r"trap.cedar:3: .*taken already by trap.cedar:1"),
        (f'// why\n\n@id("a") @max_duraton("1h") {PERMIT}', r"trap.cedar:3: unknown annotation @max_duraton"),
        (f'@id("a") @max_duration("soon") {PERMIT}', r"trap.cedar:1: 'soon' is not a duration"),
        (f'@id("a") @approvals("many") {PERMIT}', r"trap.cedar:1: @approvals takes"),
        ('@id("a") @approvals("1") forbid (principal, action, resource);', r"on a forbid has no effect"),
        (f'@id("a") {PERMIT}\n@id("b") permit (principal, action', r"trap.cedar:2: "),
        ('@id("a") permit (principal == ?principal, action, resource);', r"expected one policy without"),
        ('@id("a")\npermit (principal, action, resource)\nwhen { context.levl == "x" };', r"trap.cedar:1: .*levl"),
        ("", "no policy in any file"),
        ("// nothing", "no policy in any file"),
    ],
)
def test_what_does_not_load_says_where(tmp_path: Path, text: str, said: str):
    with pytest.raises(PolicyLoadError, match=said):
        trap(tmp_path, text)


@pytest.mark.parametrize(
    "condition",
    [
        "(" * 5000 + "true" + ")" * 5000,
        "[" * 5000 + "]" * 5000 + " == []",
        "{a:" * 3000 + "1" + "}" * 3000 + " == {}",
        "true && " * 5000 + "true",
        "context" + ".a" * 5000 + " == 1",
        "if true then true else " * 5000 + "true",
        "(" * (MAX_NESTING + 1) + "true" + ")" * (MAX_NESTING + 1),
    ],
)
def test_what_would_crash_the_parser_never_reaches_it(tmp_path: Path, condition: str):
    with pytest.raises(PolicyLoadError, match=r"longer than|nested deeper"):
        trap(tmp_path, f'@id("a") permit (principal, action, resource) when {{ {condition} }};')


def test_a_deep_schema_never_reaches_the_parser(tmp_path: Path):
    schema = "entity A { a: " + "Set<" * 5000 + "Long" + ">" * 5000 + " };"
    with pytest.raises(PolicyLoadError, match="nested deeper"):
        trap(tmp_path, OPEN, schema)


def test_semicolons_in_strings_and_comments_do_not_cut(tmp_path: Path):
    policy = trap(
        tmp_path, '// a; "b\n@id("a") @description("x; // \\"y") permit (principal, action, resource); // end;'
    )
    assert policy.ids() == {"a"}


def test_missing_files_say_so(tmp_path: Path):
    with pytest.raises(PolicyLoadError, match=r"no \*.cedar files"):
        CedarPolicy(tmp_path, GROUPS)
    (tmp_path / "a.cedar").write_text(OPEN)
    with pytest.raises(PolicyLoadError, match=r"schema\.cedarschema"):
        CedarPolicy(tmp_path, GROUPS)
    with pytest.raises(PolicyLoadError):
        CedarPolicy(tmp_path / "nowhere", GROUPS)


# ---------------------------------------------------------------- reloading


def test_a_broken_file_leaves_the_old_set_in_force(directory: Path):
    policy = CedarPolicy(directory, GROUPS)
    before = policy.digest()
    path = directory / "oncall.cedar"
    good = path.read_text()
    path.write_text(good.replace("context.on_call", "context.on_cal"))
    why = policy.reload()
    assert why is not None
    assert why.startswith("oncall.cedar:")
    assert policy.reload() == why
    assert policy.digest() == before
    assert isinstance(ask(policy, on_call=duty(), incident=incident()), Permit)
    path.write_text(good)
    assert policy.reload() is None
    assert policy.digest() == before


def test_a_changed_set_takes_force(directory: Path):
    policy = CedarPolicy(directory, GROUPS)
    before = policy.digest()
    (directory / "freeze.cedar").write_text('@id("freeze") forbid (principal, action == Action::"Connect", resource);')
    assert policy.reload() is None
    assert policy.digest() != before
    answer = ask(policy, on_call=duty(), incident=incident())
    assert isinstance(answer, Deny)
    assert answer.policies == ("freeze",)


@settings(max_examples=150)
@given(st.data())
def test_mangled_files_never_raise_anything_else_and_never_change_the_set(data: st.DataObject):
    from gateway.adapters.cedar_load import load, read_files

    files = read_files(POLICIES)
    name = data.draw(st.sampled_from(sorted(files)))
    text = files[name]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    junk = data.draw(st.sampled_from(["", ";", '"', "(", "}", "@", "//", "\x00", "é", "forbid", "when {", "::", "0"]))
    changed = {**files, name: text[:start] + junk + text[end:]}
    with contextlib.suppress(PolicyLoadError):
        assert load(changed).rules
