"""Trust rules and claims to try them on."""

from gateway.core.deploy_token import Right
from gateway.core.trust import Issuer, IssuerKind, TrustPolicies, TrustRule, spelled
from gateway.core.trust_shapes import GITHUB_FACTS, GITHUB_IDENTITY, GITLAB_FACTS, GITLAB_IDENTITY

URL = "https://token.actions.githubusercontent.com"
HERE = "https://gw.example.org"
GITHUB = Issuer("github", IssuerKind.GITHUB, URL, HERE, identity=GITHUB_IDENTITY, facts=GITHUB_FACTS, place="a.yaml:3")
GITLAB = Issuer(
    "gitlab", IssuerKind.GITLAB, "https://gitlab.example.org", HERE,
    identity=GITLAB_IDENTITY, facts=GITLAB_FACTS, token_life=None, place="a.yaml:9",
)  # fmt: skip
CLUSTER = Issuer(
    "cluster", IssuerKind.OIDC, "https://kubernetes.default.svc", HERE,
    identity=("sub", "/kubernetes.io/serviceaccount/uid"), facts={"repository": ("/kubernetes.io/namespace",)},
)  # fmt: skip
DEPLOY = frozenset({Right("web-1", "deploy")})
IDS = {"repository_owner_id": "65", "repository_id": "1296269"}
CLAIMS: dict[str, object] = {
    "iss": URL, "aud": HERE, "sub": "repo:acme/web:environment:production", "repository": "acme/web",
    "repository_owner": "acme", **IDS, "environment": "production", "ref": "refs/heads/main", "ref_protected": "true",
    "event_name": "push", "sha": "c0ffee", "run_id": "987", "run_attempt": "1", "actor": "ada",
    "runner_environment": "github-hosted",
    "workflow_ref": "acme/web/.github/workflows/deploy.yml@refs/heads/main",
    "job_workflow_ref": "acme/web/.github/workflows/deploy.yml@refs/heads/main",
}  # fmt: skip


def rule(name: str = "web", issuer: str = "github", /, **claims: str | list[str]) -> TrustRule:
    """Of GitHub with its ids; a list is any of it."""
    wanted = {**(IDS if issuer == "github" else {}), **claims}
    sets = {
        claim: frozenset(spelled(v) for v in (value if isinstance(value, list) else [value]))
        for claim, value in wanted.items()
    }
    return TrustRule(name, issuer, sets, DEPLOY, place=f"a.yaml:{name}")


def policies(*rules: TrustRule) -> TrustPolicies:
    issuers = {issuer.name: issuer for issuer in (GITHUB, GITLAB, CLUSTER)}
    return TrustPolicies("d", issuers, {one.name: one for one in rules})
