"""What is known of the claims of GitHub Actions and GitLab CI beyond OpenID Connect: defaults, and what must agree."""

from collections.abc import Mapping

from gateway.core.deploy_token import LONGEST_VALUE
from gateway.core.trust import (
    ABSENT,
    MISSING,
    ClaimResult,
    Claims,
    Issuer,
    IssuerKind,
    TrustRule,
    claim_of,
    spelled,
    text_of,
)

FORK_EVENTS = frozenset({
    "pull_request", "pull_request_target", "pull_request_review", "pull_request_review_comment", "workflow_run",
    "issue_comment", "issues", "discussion", "discussion_comment", "fork", "watch", "merge_request_event",
    "external_pull_request_event",
})  # fmt: skip
GITHUB_IDENTITY = ("repository_owner_id", "repository_id")
GITHUB_FACTS = {
    "repository": ("repository",), "ref": ("ref",), "commit": ("sha",), "run": ("run_id", "run_attempt"),
    "environment": ("environment",), "actor": ("actor",),
}  # fmt: skip
GITLAB_IDENTITY = ("namespace_id", "project_id")
GITLAB_FACTS = {
    "repository": ("project_path",), "ref": ("ref",), "commit": ("sha",), "run": ("pipeline_id", "job_id"),
    "environment": ("environment",), "actor": ("user_login",),
}  # fmt: skip


def _texts(*values: str) -> frozenset[str]:
    return frozenset(spelled(value) for value in values)


DEFAULTS: Mapping[IssuerKind, Mapping[str, frozenset[str]]] = {
    IssuerKind.GITHUB: {
        "event_name": _texts("push", "workflow_dispatch", "release", "deployment"),
        "ref_protected": _texts("true"),
        "runner_environment": _texts("github-hosted"),
        "environment": frozenset({ABSENT}),
    },
    IssuerKind.GITLAB: {
        "pipeline_source": _texts("push", "web"),
        "ref_protected": _texts("true"),
        "environment": frozenset({ABSENT}),
    },
    IssuerKind.OIDC: {},
}
FOLDED: Mapping[IssuerKind, frozenset[str]] = {
    IssuerKind.GITHUB: frozenset({"environment"}),
    IssuerKind.GITLAB: frozenset({"environment"}),
    IssuerKind.OIDC: frozenset(),
}


def _github(issuer: Issuer, rule: TrustRule, claims: Claims) -> list[ClaimResult]:
    results = [_numeric(claims, name) for name in issuer.identity]
    results.append(github_subject(claims))
    results.append(_not_from_a_fork(claims, "event_name"))
    if "job_workflow_ref" not in rule.claims:  # a reusable workflow is declared by naming it
        results.append(_own_workflow(claims))
    return results


def _numeric(claims: Claims, name: str) -> ClaimResult:
    value = text_of(claims, name)
    is_number = value.isascii() and value.isdigit()
    return ClaimResult(name, is_number, "is a number in text" if is_number else "is not a number in text")


def _not_from_a_fork(claims: Claims, name: str) -> ClaimResult:
    event = text_of(claims, name)
    held = bool(event) and event not in FORK_EVENTS
    return ClaimResult(name, held, "is no event that a stranger can cause" if held else "can be caused by a stranger")


def _own_workflow(claims: Claims) -> ClaimResult:
    own, called = text_of(claims, "workflow_ref"), text_of(claims, "job_workflow_ref")
    if not own or own != called:
        said = "is not the run's own workflow_ref; a reusable workflow has to be named by the rule"
        return ClaimResult("job_workflow_ref", False, said)
    held = own.startswith(f"{text_of(claims, 'repository')}/.github/workflows/")
    return ClaimResult("job_workflow_ref", held, "is the repository's own" if held else "is of another repository")


def github_subject(claims: Claims) -> ClaimResult:
    """`repo:OWNER/REPO:…` or `repo:OWNER@OWNER_ID/REPO@REPO_ID:…`, parsed, and equal to the claims beside it.

    The preview form with hyphens (`repo:OWNER-ID/REPO-ID`) could be had by an organisation of that very name; it never
    equals the claims, and so does not hold.
    """
    kind, _, rest = text_of(claims, "sub").partition(":")
    names, _, context = rest.partition(":")
    owner, slash, repository = names.partition("/")
    if kind != "repo" or not slash or not context or "/" in repository:
        return ClaimResult("sub", False, "does not have the form repo:OWNER/REPOSITORY:CONTEXT")
    owner, owner_at, owner_id = owner.partition("@")
    repository, repository_at, repository_id = repository.partition("@")
    if owner_at != repository_at:
        return ClaimResult("sub", False, "has an id for one of owner and repository only")
    if f"{owner}/{repository}" != text_of(claims, "repository") or owner != text_of(claims, "repository_owner"):
        return ClaimResult("sub", False, "names another repository than the claim repository")
    ids = (text_of(claims, "repository_owner_id"), text_of(claims, "repository_id"))
    if owner_at and (owner_id, repository_id) != ids:
        return ClaimResult("sub", False, "holds other ids than the claims repository_owner_id and repository_id")
    return _github_context(context, claims)


def _github_context(context: str, claims: Claims) -> ClaimResult:
    what, _, value = context.partition(":")
    if what == "pull_request":
        return ClaimResult("sub", False, "is of a pull request")
    claim = {"environment": "environment", "ref": "ref"}.get(what)
    if claim is None:
        return ClaimResult("sub", True, "names the repository; the rest was customised and is not relied on")
    said = text_of(claims, claim)
    held = value.replace("%3A", ":") == said or value == said
    return ClaimResult(
        "sub", held, "agrees with the claims" if held else f"names another {claim} than the claim {claim}"
    )


# ---------------------------------------------------------------- what is known of GitLab's claims


def _gitlab(issuer: Issuer, rule: TrustRule, claims: Claims) -> list[ClaimResult]:
    del rule
    results = [_numeric(claims, name) for name in issuer.identity]
    results += [_gitlab_subject(claims), _not_from_a_fork(claims, "pipeline_source")]
    results += [_same_project(issuer, claims, name) for name in issuer.identity]
    return results


def _same_project(issuer: Issuer, claims: Claims, name: str) -> ClaimResult:
    """For a fork's merge request `project_id` is the fork's, `job_project_id` that of the project it runs in."""
    job = claim_of(claims, f"job_{name}")
    if job is MISSING and not issuer.has_fork_claims:
        return ClaimResult(f"job_{name}", True, "is not sent by this issuer")
    held = job == claim_of(claims, name) and job is not MISSING
    return ClaimResult(
        f"job_{name}", held, f"equals {name}" if held else f"is missing, or not {name}: a fork's pipeline"
    )


def _gitlab_subject(claims: Claims) -> ClaimResult:
    kind, _, rest = text_of(claims, "sub").partition(":")
    path, _, rest = rest.partition(":ref_type:")
    ref_type, _, ref = rest.partition(":ref:")
    if kind != "project_path" or not ref:
        return ClaimResult("sub", False, "does not have the form project_path:GROUP/PROJECT:ref_type:TYPE:ref:REF")
    said = tuple(text_of(claims, name) for name in ("project_path", "ref_type", "ref"))
    held = (path, ref_type, ref) == said
    return ClaimResult("sub", held, "agrees with the claims" if held else "differs from project_path, ref_type or ref")


def _generic(issuer: Issuer, rule: TrustRule, claims: Claims) -> list[ClaimResult]:
    del issuer, rule
    has_subject = 0 < len(text_of(claims, "sub")) <= LONGEST_VALUE
    return [] if has_subject else [ClaimResult("sub", False, "is missing or too long")]


SHAPES = {IssuerKind.GITHUB: _github, IssuerKind.GITLAB: _gitlab, IssuerKind.OIDC: _generic}
