"""A deploy token ends with the trust that gave it, not when its time is over."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.app.exchange_token import exchange_token
from gateway.app.identity import NotSignedIn
from gateway.app.verify_deploy_token import authenticate_workload
from gateway.core.deploy_token import Right, mint
from gateway.demo.ci_issuer import AUDIENCE
from tests.pipelines import CATALOGUE, GITHUB, GITLAB, Pipelines, pipelines, target
from tests.unit.edges.stage import FixedCatalogue


@pytest.fixture
def ci(tmp_path: Path) -> Iterator[Pipelines]:
    with pipelines(tmp_path) as made:
        yield made


def github(ci: Pipelines, *changes: tuple[str, str]) -> str:
    text = GITHUB.format(url=ci.github.url, audience=AUDIENCE)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def refused(ci: Pipelines, token: str) -> str:
    """The code of the refusal, which has its event."""
    with pytest.raises(NotSignedIn) as no:
        authenticate_workload(ci.stage.ctx, token, "192.0.2.7")
    with closing(sqlite3.connect(ci.stage.database)) as database:
        query = "SELECT leaf FROM event WHERE type = 'deploy-token:refused' ORDER BY ordinal DESC LIMIT 1"
        (leaf,) = database.execute(query).fetchone()
    assert no.value.refusal.code in str(leaf)
    return no.value.refusal.code


def rights(ci: Pipelines, token: str) -> set[tuple[str, str]]:
    return {(right.target, right.verb) for right in authenticate_workload(ci.stage.ctx, token).rights}


MAIN = "      ref: refs/heads/main\n      environment: Production\n"
DEMANDED_ELSE = {
    "another branch": (MAIN, MAIN.replace("main", "release")),
    "one claim more": (MAIN, f"{MAIN}      actor_id: 7\n"),
    "one value less": ("environment: Production", "environment: [Staging]"),
    "another workflow": ("deploy.yml@", "release.yml@"),
    "the owner's number": ("repository_owner_id: 65", "repository_owner_id: 66"),
    "a ref that need not be protected": (MAIN, f"{MAIN}      ref_protected: 'false'\n"),
    "another audience": (f"audience: {AUDIENCE}", "audience: https://other.example.org"),
    "younger tokens": ("exchanges_per_run: 3", "exchanges_per_run: 3\n    longest_token: 5m"),
    "another algorithm": ("exchanges_per_run: 3", "exchanges_per_run: 3\n    algorithms: [ES256]"),
    "other keys": ("exchanges_per_run: 3", "exchanges_per_run: 3\n    jwks_file: keys.json"),
    "a rule of another name": ("web-production", "web-live"),
}


@pytest.mark.parametrize("name", DEMANDED_ELSE)
def test_what_is_demanded_otherwise_ends_the_token_at_once(ci: Pipelines, name: str):
    token = exchange_token(ci.stage.ctx, ci.github.github()).token
    assert authenticate_workload(ci.stage.ctx, token)
    assert ci.rewrite("github.yaml", github(ci, DEMANDED_ELSE[name])) is None
    assert refused(ci, token) == "trust-withdrawn"


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_policy_or_an_issuer_that_is_taken_away_takes_its_tokens_along(ci: Pipelines, is_gone: bool):
    token = exchange_token(ci.stage.ctx, ci.github.github()).token
    if is_gone:
        (ci.trust / "github.yaml").unlink()
        assert ci.stage.ctx.trust.reload() is None
    else:
        head, _, rest = github(ci).partition("  web-production:")
        assert ci.rewrite("github.yaml", f"{head}  web-staging:{rest.partition('  web-staging:')[2]}") is None
    assert refused(ci, token) == "trust-withdrawn"


def test_rights_that_are_taken_away_are_gone_and_the_others_stay(ci: Pipelines):
    token = exchange_token(ci.stage.ctx, ci.github.github()).token
    assert len(rights(ci, token)) == 4
    wider = ("verbs: [deploy, rollback]", "verbs: [deploy]")
    assert ci.rewrite("github.yaml", github(ci, wider, ("[web-1, web-2]", "[web-1, stage-1]"))) is None
    assert rights(ci, token) == {("web-1", "deploy")}  # and nothing that was added since
    assert ci.rewrite("github.yaml", github(ci, ("[web-1, web-2]", "[stage-1]"))) is None
    assert refused(ci, token) == "trust-withdrawn"


def test_a_target_that_becomes_production_is_closed_to_a_rule_without_an_environment(ci: Pipelines):
    plain = ci.github.github(environment=None, sub="repo:acme/web:ref:refs/heads/main")
    token = exchange_token(ci.stage.ctx, plain).token
    assert rights(ci, token) == {("stage-1", "deploy")}
    live = replace(CATALOGUE, targets={**CATALOGUE.targets, "stage-1": target("stage-1")})
    ci.stage = replace(ci.stage, ctx=replace(ci.stage.ctx, catalogue=FixedCatalogue(live)))
    assert refused(ci, token) == "trust-withdrawn"


def test_a_shorter_life_counts_for_tokens_that_are_out(ci: Pipelines):
    token = exchange_token(ci.stage.ctx, ci.github.github()).token
    shorter = ("exchanges_per_run: 3", "exchanges_per_run: 3\n    token_life: 5m")
    assert ci.rewrite("github.yaml", github(ci, shorter)) is None
    ci.stage.clock.advance(timedelta(minutes=4, seconds=59))
    assert authenticate_workload(ci.stage.ctx, token)
    ci.stage.clock.advance(timedelta(seconds=1))
    assert refused(ci, token) == "trust-withdrawn"


UNCHANGED: dict[str, Callable[[str], str]] = {
    "a comment": lambda text: f"# reviewed\n{text}",
    "a description": lambda text: text.replace("    issuer: github\n", "    issuer: github\n    description: it\n", 1),
    "another budget": lambda text: text.replace("exchanges_per_run: 3", "exchanges_per_run: 9"),
    "more rights": lambda text: text.replace("[web-1, web-2]", "[web-1, web-2, stage-1]"),
    "another rule": lambda text: text.replace("      ref: refs/heads/main\n    allow", "      ref: next\n    allow"),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_demands_nothing_else_of_the_job_ends_no_token(ci: Pipelines, name: str):
    token = exchange_token(ci.stage.ctx, ci.github.github()).token
    before = rights(ci, token)
    changed = UNCHANGED[name](github(ci))
    assert changed != github(ci)
    assert ci.rewrite("github.yaml", changed) is None
    assert rights(ci, token) == before


def test_a_set_that_does_not_load_ends_no_token_and_another_issuers_change_neither(ci: Pipelines):
    token = exchange_token(ci.stage.ctx, ci.github.github()).token
    assert ci.rewrite("github.yaml", "issuers: [") is not None
    assert authenticate_workload(ci.stage.ctx, token)
    assert ci.rewrite("github.yaml", github(ci)) is None
    gitlab = GITLAB.format(url=ci.gitlab.url, audience=AUDIENCE).replace("ref: main", "ref: other")
    assert ci.rewrite("gitlab.yaml", gitlab) is None
    assert authenticate_workload(ci.stage.ctx, token)


def test_a_token_that_tells_of_no_terms_counts_for_nothing(ci: Pipelines):
    """As one from before they were told, and one of a rule that never had any."""
    good = exchange_token(ci.stage.ctx, ci.github.github())
    token = mint(
        ci.stage.ctx.deploy_keys.root_keys()[0], id="dtk_old", workload=good.workload, rights=[Right("web-1", "deploy")],
        issued_at=good.issued_at, not_after=good.not_after, terms="",
    )  # fmt: skip
    assert refused(ci, token) == "trust-withdrawn"
