from dataclasses import replace
from datetime import timedelta

import pytest

from gateway.core.deploy_token import Right
from gateway.core.trust import TrustPolicies, TrustRule
from gateway.core.trust_lint import ERROR, WARNING, lint, lint_against
from tests.unit.core.pipelines import GITHUB, HERE, policies, rule

GOOD: dict[str, str | list[str]] = {
    "environment": "production",
    "ref": "refs/heads/main",
    "job_workflow_ref": "acme/web/.github/workflows/deploy.yml@refs/heads/main",
}


def codes(*rules: TrustRule) -> set[tuple[str, str]]:
    return {(found.severity, found.code) for found in lint(policies(*rules))}


def without(name: str) -> TrustRule:
    return rule("web", **{key: value for key, value in GOOD.items() if key != name})


def test_a_good_rule_has_nothing_to_be_said_about():
    assert codes(rule("web", **GOOD)) == set()


@pytest.mark.parametrize(
    ("found", "one"),
    [
        ((ERROR, "wildcard"), rule("web", **{**GOOD, "ref": "refs/heads/*"})),
        ((ERROR, "unanchored-alternation"), rule("web", **{**GOOD, "ref": "main|develop"})),
        ((ERROR, "unanchored-alternation"), rule("web", **{**GOOD, "ref": "^main"})),
        ((ERROR, "unanchored-alternation"), rule("web", **{**GOOD, "ref": "main$"})),
        ((ERROR, "fork-event"), rule("web", **GOOD, event_name=["push", "pull_request_target"])),
        ((ERROR, "fork-event"), rule("web", **GOOD, event_name="workflow_run")),
        ((WARNING, "missing-environment"), without("environment")),
        ((WARNING, "open-ref"), without("ref")),
        ((WARNING, "open-workflow"), without("job_workflow_ref")),
        ((WARNING, "unprotected-ref"), rule("web", **GOOD, ref_protected=["true", "false"])),
        ((WARNING, "own-runner"), rule("web", **GOOD, runner_environment="self-hosted")),
        ((WARNING, "unknown-claim"), rule("web", **GOOD, repositry="acme/web")),
    ],
)
def test_each_mistake_has_a_code(found: tuple[str, str], one: TrustRule):
    assert codes(one) == {found}


@pytest.mark.parametrize("missing", ["repository_id", "repository_owner_id"])
def test_a_name_without_its_id(missing: str):
    one = rule("web", **GOOD, repository="acme/web")
    bare = replace(one, claims={claim: values for claim, values in one.claims.items() if claim != missing})
    (finding,) = lint(policies(bare))
    assert (finding.severity, finding.code) == (ERROR, "name-without-id")
    assert "repository" in finding.message
    assert missing in finding.fix


def test_gitlab_has_its_own_names():
    one = rule("g", "gitlab", project_id="22", environment="p", ref="main", ci_config_ref_uri="u")
    assert {("error", "name-without-id")} == codes(one)
    forked = rule("g", "gitlab", project_id="22", namespace_id="72", environment="p", ref="main",
                  ci_config_ref_uri="u", pipeline_source="merge_request_event")  # fmt: skip
    assert codes(forked) == {(ERROR, "fork-event")}


def test_overlap():
    production, staging = rule("a", **GOOD), rule("b", **{**GOOD, "environment": "staging"})
    assert codes(production, staging) == set()
    assert (ERROR, "overlap") in codes(production, rule("b", **{**GOOD, "environment": ["staging", "production"]}))
    assert (ERROR, "overlap") in codes(production, rule("b", environment="production", ref="refs/heads/main"))
    assert (ERROR, "overlap") not in codes(production, rule("b", ref="refs/heads/main"))  # a job of no environment


@pytest.mark.parametrize("audience", ["https://github.com/acme", GITHUB.url])
def test_an_audience_that_others_get_too(audience: str):
    shared = replace(GITHUB, audience=audience)
    (finding,) = lint(TrustPolicies("d", {"github": shared}))
    assert (finding.severity, finding.code) == (ERROR, "audience-shared")


def test_one_issuer_declared_twice():
    twice = {"a": replace(GITHUB, name="a"), "b": replace(GITHUB, name="b")}
    assert [finding.code for finding in lint(TrustPolicies("d", twice))] == ["issuer-twice"]


def test_long_lives():
    long = replace(GITHUB, token_life=timedelta(hours=3))
    assert [finding.code for finding in lint(TrustPolicies("d", {"github": long}))] == ["long-life"]
    assert lint(TrustPolicies("d", {"github": replace(GITHUB, audience=HERE)})) == ()


def test_against_a_catalogue():
    one = replace(rule("web", **GOOD), rights=frozenset({Right("web-1", "deploy"), Right("web-9", "deploy")}))
    assert [f.code for f in lint_against(policies(one), {"web-1": "production"})] == ["unknown-target"]
    verbs = {"web-1": frozenset({"rollback"})}
    assert [f.code for f in lint_against(policies(one), {"web-1": "production", "web-9": "staging"}, verbs)] == [
        "unknown-verb", "unknown-verb",
    ]  # fmt: skip
    open_one = without("environment")
    assert [f.code for f in lint_against(policies(open_one), {"web-1": "production"})] == [
        "production-without-environment"
    ]
    assert lint_against(policies(open_one), {"web-1": "staging"}) == ()
