"""Buildkite, CircleCI, Kubernetes and SPIFFE: the lines of docs/pipelines.md as they stand, with tokens in the shapes
that those document. Only the issuers' addresses are changed, to one that runs here.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from joserfc import jws
from joserfc.jwk import ECKey

from gateway.app.exchange_token import exchange_token
from gateway.app.verify_deploy_token import authenticate_workload
from gateway.core.deploy_token import Right
from gateway.core.errors import Denied
from gateway.core.trust_lint import ERROR, lint
from tests.pipelines import Pipelines, pipelines

ROOT = Path(__file__).parents[3]
HERE = "https://gw.example.org"
ID = "0184990a-477b-4fa8-9968-{:012}"
COMMIT = "9f3182061f1e2cca4702c368cbc039b7dc9d4485"
SPIRE = ECKey.generate_key("P-256", {"kid": "spire-1", "use": "sig", "alg": "ES256"}, private=True)
ISSUERS = ("buildkite", "circleci", "cluster", "spiffe")
# Of each issuer: what a token of the honest job says.
CLAIMS: dict[str, dict[str, object]] = {
    "buildkite": {
        "sub": f"organization:acme:pipeline:web:ref:refs/heads/main:commit:{COMMIT}:step:deploy", "aud": HERE,
        "organization_slug": "acme", "pipeline_slug": "web", "build_number": 42, "build_branch": "main",
        "build_tag": None, "build_commit": COMMIT, "step_key": "deploy", "job_id": ID.format(7),
        "agent_id": ID.format(8), "build_source": "webhook", "runner_environment": "buildkite-hosted",
        "organization_id": ID.format(1), "pipeline_id": ID.format(2),
    },
    "circleci": {
        "sub": f"org/{ID.format(5)}/project/{ID.format(3)}/user/{ID.format(6)}", "aud": [HERE],
        "oidc.circleci.com/project-id": ID.format(3), "oidc.circleci.com/context-ids": [ID.format(9)],
        "oidc.circleci.com/vcs-origin": "github.com/acme/web", "oidc.circleci.com/vcs-ref": "refs/heads/main",
        "oidc.circleci.com/ssh-rerun": False, "oidc.circleci.com/workflow-id": ID.format(10),
        "oidc.circleci.com/job-id": ID.format(11),
    },
    "cluster": {
        "sub": "system:serviceaccount:ci:deployer", "aud": [HERE], "jti": ID.format(12),
        "kubernetes.io": {
            "namespace": "ci", "node": {"name": "node-1", "uid": ID.format(13)},
            "pod": {"name": "deploy-x1", "uid": ID.format(14)},
            "serviceaccount": {"name": "deployer", "uid": ID.format(4)},
        },
    },
    "spiffe": {"sub": "spiffe://example.org/ci/deployer", "aud": [HERE]},
}  # fmt: skip
LIFE = {"buildkite": 300, "circleci": 3600, "cluster": 600, "spiffe": 300}
# Of each issuer: one thing that is different in a token of somebody else.
STRANGERS: list[tuple[str, dict[str, object]]] = [
    ("buildkite", {"pipeline_id": ID.format(99)}),  # a pipeline of the same name, in their own organisation
    ("buildkite", {"organization_id": ID.format(99)}),
    ("buildkite", {"organization_id": None}),  # a token for which nobody asked for the ids
    ("buildkite", {"build_branch": "feature"}),
    ("buildkite", {"runner_environment": "self-hosted"}),
    ("circleci", {"oidc.circleci.com/project-id": ID.format(99)}),
    ("circleci", {"oidc.circleci.com/vcs-origin": "github.com/mallory/web"}),  # a fork's build
    ("circleci", {"oidc.circleci.com/vcs-ref": "refs/pull/7"}),
    ("circleci", {"oidc.circleci.com/ssh-rerun": True}),
    ("circleci", {"oidc.circleci.com/ssh-rerun": "false"}),
    ("circleci", {"aud": ID.format(5)}),  # its default audience
    ("cluster", {"sub": "system:serviceaccount:default:deployer"}),
    ("cluster", {"kubernetes.io": {"namespace": "ci", "serviceaccount": {"uid": ID.format(99)}, "pod": {"uid": "p"}}}),
    ("cluster", {"kubernetes.io": {"namespace": "ci"}}),
    ("cluster", {"aud": ["https://kubernetes.default.svc.cluster.local"]}),
    ("cluster", {"aud": [HERE, "https://kubernetes.default.svc.cluster.local"]}),
    ("spiffe", {"sub": "spiffe://example.org/ci/deployer2"}),
    ("spiffe", {"sub": "spiffe://example.org/ci/deployer/"}),
    ("spiffe", {"sub": "spiffe://other.example/ci/deployer"}),
    ("spiffe", {"sub": None}),
    ("spiffe", {"aud": ["spiffe://example.org/web"]}),
]


@pytest.fixture
def ci(tmp_path: Path) -> Iterator[Pipelines]:
    with pipelines(tmp_path) as made:
        page = (ROOT / "docs" / "pipelines.md").read_text()
        (text,) = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "web-spiffe" in block]
        text = text.replace("https://agent.buildkite.com", made.github.url)
        text = text.replace("https://oidc.circleci.com/org/ORGANIZATION-ID", made.gitlab.url)
        shown = {**SPIRE.as_dict(private=False), "kid": "spire-1", "use": "sig", "alg": "ES256"}
        (made.trust / "spire-keys.json").write_text(json.dumps({"keys": [shown]}))
        text = text.replace("algorithms: [ES256, RS256]", "algorithms: [ES256, RS256]\n    jwks_file: spire-keys.json")
        (made.trust / "cluster-keys.json").write_text(json.dumps(made.gitlab.key_set()))
        for name in ("github.yaml", "gitlab.yaml"):
            (made.trust / name).unlink()
        (made.trust / "others.yaml").write_text(text)
        assert made.stage.ctx.trust.reload() is None
        yield made


def token(ci: Pipelines, issuer: str, **changes: object) -> str:
    at = int(ci.stage.clock.now().timestamp())
    url = {
        "buildkite": ci.github.url,
        "circleci": ci.gitlab.url,
        "cluster": "https://kubernetes.default.svc.cluster.local",
        "spiffe": "https://spire.example.org",
    }[issuer]
    claims = {**CLAIMS[issuer], "iss": url, "iat": at, "exp": at + LIFE[issuer], **changes}
    shown = {name: value for name, value in claims.items() if value is not None or name == "build_tag"}
    if issuer == "spiffe":
        header = {"alg": "ES256", "typ": "JWT", "kid": "spire-1"}
        return jws.serialize_compact(header, json.dumps(shown).encode(), SPIRE, algorithms=["ES256"])
    return (ci.github if issuer == "buildkite" else ci.gitlab).signed(shown)


@pytest.mark.parametrize("issuer", ISSUERS)
def test_the_job_of_the_page_may_do_what_its_rule_says(ci: Pipelines, issuer: str):
    found = exchange_token(ci.stage.ctx, token(ci, issuer))
    assert found.rights == {Right("web-1", "deploy")}
    assert found.workload.trust_policy == f"web-{issuer}"
    assert authenticate_workload(ci.stage.ctx, found.token).id == found.id


def test_what_is_known_of_the_run_is_in_the_token(ci: Pipelines):
    told = exchange_token(ci.stage.ctx, token(ci, "buildkite")).workload
    assert (told.repository, told.ref, told.commit) == ("web", "main", COMMIT)
    assert "42" in told.run
    assert ID.format(7) in told.run


@pytest.mark.parametrize("issuer", ISSUERS)
def test_once(ci: Pipelines, issuer: str):
    text = token(ci, issuer)
    exchange_token(ci.stage.ctx, text)
    with pytest.raises(Denied, match="exchanged already"):
        exchange_token(ci.stage.ctx, text)


@pytest.mark.parametrize(("issuer", "changes"), STRANGERS, ids=lambda value: str(value)[:60])
def test_somebody_else_is_refused(ci: Pipelines, issuer: str, changes: dict[str, object]):
    with pytest.raises(Denied) as no:
        exchange_token(ci.stage.ctx, token(ci, issuer, **changes))
    assert no.value.refusal.code in {"job-token-refused", "not-trusted"}


def test_one_issuers_token_is_nothing_to_anothers_rule(ci: Pipelines):
    with pytest.raises(Denied):
        exchange_token(ci.stage.ctx, token(ci, "cluster", iss=ci.github.url))
    with pytest.raises(Denied):
        exchange_token(ci.stage.ctx, token(ci, "cluster", sub="spiffe://example.org/ci/deployer"))


def test_the_lint_has_no_error_to_name(ci: Pipelines):
    policies = ci.stage.ctx.trust.current()
    assert not [finding for finding in lint(policies) if finding.severity == ERROR]
    assert policies.rules.keys() == {f"web-{name}" for name in ISSUERS}
