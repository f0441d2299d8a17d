"""Trust rules: exact, typed, and never two for one token."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.job_token import judge_claims, judge_header, single_use_mark
from gateway.core.trust import ABSENT, MISSING, ClaimResult, claim_of, folded, spelled
from gateway.core.trust_lint import ERROR, lint
from gateway.core.trust_match import check, expectations, match, workload_of
from tests.unit.core.pipelines import CLAIMS, CLUSTER, GITHUB, GITLAB, URL, policies, rule
from tests.unit.core.values import T0

PRODUCTION = rule("web", environment="production", ref="refs/heads/main")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def failed(claims: dict[str, Any], one=PRODUCTION) -> tuple[str, ...]:
    return check(GITHUB, one, claims).failed()


def test_what_it_should_be_holds_claim_by_claim():
    result = check(GITHUB, PRODUCTION, CLAIMS)
    assert result.holds()
    assert ClaimResult("ref", held=True, said='is "refs/heads/main"') in result.claims


def test_each_failure_says_what_was_wanted():
    result = check(GITHUB, rule("web", environment=["a", "b"]), {**CLAIMS, "environment": "c"})
    assert result.failed() == ("environment", "sub")
    assert any(said.said == 'is "c", and the rule wants "a" or "b"' for said in result.claims)


@given(st.sampled_from(sorted(expectations(GITHUB, PRODUCTION))), JSON)
def test_no_other_value_of_a_pinned_claim_holds(name: str, value: object):
    wanted = expectations(GITHUB, PRODUCTION)[name]
    if spelled(value if not isinstance(value, str) else folded(value)) not in wanted:
        assert name in failed({**CLAIMS, name: value})


@given(st.sampled_from(sorted(set(CLAIMS) - {"iss", "aud", "actor"})))
def test_a_missing_claim_is_a_failure(name: str):
    """All that a rule pins, that names the workload, or that must agree with another claim."""
    assert failed({k: v for k, v in CLAIMS.items() if k != name})


@given(st.dictionaries(st.sampled_from(sorted(CLAIMS)) | st.text(), JSON))
def test_any_claims_are_judged_without_a_crash(claims: dict[str, object]):
    for changed in (claims, {**CLAIMS, **claims}):
        for issuer in (GITHUB, GITLAB, CLUSTER):
            check(issuer, PRODUCTION, changed)
            judge_claims(issuer, changed, T0)
            judge_header(issuer, changed)
            single_use_mark(issuer, changed, "a.b.c")


@given(JSON, JSON)
def test_values_are_spelled_alike_only_when_they_are_the_same(one: object, two: object):
    scalars = (str, int, float)
    if isinstance(one, scalars) and isinstance(two, scalars) and spelled(one) == spelled(two):
        assert type(one) is type(two)
        assert one == two or (math.isnan(one) and math.isnan(two))


def test_types_are_told_apart():
    assert len({spelled(value) for value in ("true", True, 1, "1", 1.0, MISSING, None, [], {})}) == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sub", "s"),
        ("/kubernetes.io/serviceaccount/uid", "u"),
        ("/kubernetes.io/a~1b", 1),
        ("/sub/deeper", MISSING),
        ("/kubernetes.io/none", MISSING),
        ("kubernetes.io/serviceaccount", MISSING),
    ],
)
def test_nested_claims_are_reached_by_pointer(name: str, value: object):
    claims = {"sub": "s", "kubernetes.io": {"serviceaccount": {"uid": "u"}, "a/b": 1}}
    assert claim_of(claims, name) == value


def test_only_ascii_is_folded():
    assert folded("PROD") == "prod"
    assert folded("\u212aelvin") == "\u212aelvin"  # whose lower case is an ASCII k


# ---------------------------------------------------------------- several rules

_VALUES = {
    "environment": ["production", "staging"],
    "ref": ["refs/heads/main", "refs/heads/next"],
    "event_name": ["push", "release", "deployment"],
    "runner_environment": ["github-hosted", "self-hosted"],
    "ref_protected": ["true", "false"],
}
_rules = st.fixed_dictionaries(
    {}, optional={name: st.lists(st.sampled_from(v), min_size=1, max_size=2) for name, v in _VALUES.items()}
)
_tokens = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in _VALUES.items()})


@given(st.lists(_rules, max_size=4), _tokens)
def test_two_rules_that_load_never_hold_for_one_token(wanted: list[dict[str, list[str]]], token: dict[str, str]):
    found = policies(*(rule(f"r{number}", **claims) for number, claims in enumerate(wanted)))
    claims = {k: v for k, v in CLAIMS.items() if k != "environment"} | token
    claims["sub"] = (
        f"repo:acme/web:environment:{token['environment']}" if "environment" in token else "repo:acme/web:x:y"
    )
    results = match(found, GITHUB, claims)
    if not any(finding.severity == ERROR for finding in lint(found)):
        assert sum(result.holds() for result in results) <= 1
    assert not any(result.holds() for result in results[1:]) or results[0].holds()


@given(_rules, _tokens)
def test_a_rule_holds_exactly_when_every_set_has_the_value(wanted: dict[str, list[str]], token: dict[str, str]):
    one = rule("r", **wanted)
    claims = {k: v for k, v in CLAIMS.items() if k not in _VALUES} | token
    claims["sub"] = (
        f"repo:acme/web:environment:{token.get('environment', '')}" if "environment" in token else "repo:acme/web:x:y"
    )
    sets = expectations(GITHUB, one)
    fits = all((spelled(token[name]) if name in token else ABSENT) in sets[name] for name in _VALUES if name in sets)
    is_usable = {"event_name", "ref"} <= token.keys()
    assert check(GITHUB, one, claims).holds() is (fits and is_usable)


def test_the_nearest_rule_comes_first_and_another_issuers_never():
    far, near = rule("far", ref="x", environment="y"), rule("near", environment="staging")
    alien = rule("alien", "gitlab", project_id="22")
    results = match(policies(far, near, alien), GITHUB, CLAIMS)
    assert [result.rule.name for result in results] == ["near", "far"]


def test_the_workload_is_made_of_ids_and_facts():
    made = workload_of(GITHUB, PRODUCTION, {**CLAIMS, "environment": "Production"}, "m")
    assert (made.id, made.run, made.environment) == ("workload/web/65/1296269", "github/987/1", "production")
    assert (made.name, made.issuer, made.actor) == ("acme/web (web)", URL, "ada")
    bare = workload_of(CLUSTER, rule("k", "cluster", sub="system:serviceaccount:ci:deployer"), {
        "sub": "system:serviceaccount:ci:deployer", "kubernetes.io": {"namespace": "ci", "serviceaccount": {"uid": "a/b"}},
    }, "m" * 64)  # fmt: skip
    assert bare.id == "workload/k/system:serviceaccount:ci:deployer/a%2Fb"
    assert bare.run == f"cluster/{'m' * 64}"


# ---------------------------------------------------------------- single use


def test_a_second_form_of_the_signature_is_no_other_token():
    """An ECDSA signature (r, s) verifies as (r, -s) too."""
    assert single_use_mark(GITHUB, {}, "h.p.s1") == single_use_mark(GITHUB, {}, "h.p.s2")
    assert single_use_mark(GITHUB, {}, "h.p.s1") != single_use_mark(GITHUB, {}, "h.q.s1")


def test_marks_of_issuers_and_of_jti_never_meet():
    marks = [
        single_use_mark(i, c, "h.p.s")
        for i in (GITHUB, GITLAB)
        for c in ({}, {"jti": "h.p"}, {"jti": "2"}, {"jti": ""})
    ]
    assert len(set(marks)) == 6  # an empty jti is none
