"""What is wrong with trust policies before any token comes. An error keeps them from loading; a warning is advice."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations

from gateway.core.trust import ABSENT, Issuer, IssuerKind, TrustPolicies, TrustRule, spelled
from gateway.core.trust_match import expectations
from gateway.core.trust_shapes import FORK_EVENTS

ERROR, WARNING = "error", "warning"
_FORGES = (IssuerKind.GITHUB, IssuerKind.GITLAB)
_NAMES = {
    IssuerKind.GITHUB: {"repository", "repository_owner", "actor"},
    IssuerKind.GITLAB: {"project_path", "namespace_path", "user_login", "user_email"},
    IssuerKind.OIDC: set[str](),
}
_EVENT = {IssuerKind.GITHUB: "event_name", IssuerKind.GITLAB: "pipeline_source"}
_WORKFLOW = {IssuerKind.GITHUB: "job_workflow_ref", IssuerKind.GITLAB: "ci_config_ref_uri"}
_KNOWN_CLAIMS = {
    IssuerKind.GITHUB: frozenset({
        "actor", "actor_id", "base_ref", "check_run_id", "enterprise", "enterprise_id", "environment",
        "environment_node_id", "event_name", "head_ref", "job_workflow_ref", "job_workflow_sha", "ref",
        "ref_protected", "ref_type", "repository", "repository_id", "repository_owner", "repository_owner_id",
        "repository_visibility", "run_attempt", "run_id", "run_number", "runner_environment", "sha", "sub",
        "workflow", "workflow_ref", "workflow_sha",
    }),
    IssuerKind.GITLAB: frozenset({
        "ci_config_ref_uri", "ci_config_sha", "deployment_tier", "environment", "environment_action",
        "environment_protected", "job_id", "job_namespace_id", "job_namespace_path", "job_project_id",
        "job_project_path", "namespace_id", "namespace_path", "pipeline_id", "pipeline_source", "project_id",
        "project_path", "project_visibility", "ref", "ref_path", "ref_protected", "ref_type", "runner_environment",
        "runner_id", "sha", "sub", "user_access_level", "user_email", "user_id", "user_login",
    }),
}  # fmt: skip
_SHARED_AUDIENCES = ("https://github.com/", "https://gitlab.com")
_LONG_LIFE = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is stable, for scripts; `place` is file:line; `fix` says what to write instead."""

    severity: str
    code: str
    place: str
    subject: str
    message: str
    fix: str


def lint(policies: TrustPolicies) -> tuple[Finding, ...]:
    """Everything that can be said without a catalogue, errors first."""
    found = list(_issuers(policies.issuers.values()))
    for rule in policies.rules.values():
        issuer = policies.issuers[rule.issuer]
        found += [*_identity(issuer, rule), *_values(rule)]
        if issuer.kind in _FORGES:
            found += [*_forge(issuer, rule)]
    found += _overlaps(policies)
    return tuple(sorted(found, key=lambda f: (f.severity, f.place, f.code, f.subject)))


def lint_against(
    policies: TrustPolicies, environments: Mapping[str, str], verbs: Mapping[str, frozenset[str]] | None = None
) -> tuple[Finding, ...]:
    """As `lint` for what a catalogue knows: each target's environment and, where it declares them, its verbs."""
    return tuple(found for rule in policies.rules.values() for found in _rights(policies, rule, environments, verbs))


# ---------------------------------------------------------------- issuers


def _issuers(issuers: Iterable[Issuer]) -> Iterator[Finding]:
    for one, two in combinations(sorted(issuers, key=lambda i: i.name), 2):
        if one.url == two.url:
            said = f"{one.name} and {two.name} are the same issuer, so it would be chance which one counts"
            yield Finding(ERROR, "issuer-twice", two.place, two.name, said, "Declare each issuer once.")
    for issuer in issuers:
        if issuer.audience.startswith(_SHARED_AUDIENCES) or issuer.audience == issuer.url:
            said = f"the audience {issuer.audience} is given to other services too, which could replay it here"
            fix = "Take this gateway's own URL as audience, and ask for it in the pipeline."
            yield Finding(ERROR, "audience-shared", issuer.place, issuer.name, said, fix)
        if issuer.longest_token > _LONG_LIFE or (issuer.token_life or timedelta(0)) > _LONG_LIFE:
            said = "a stolen token would be good for more than two hours"
            yield Finding(WARNING, "long-life", issuer.place, issuer.name, said, "Shorten longest_token or token_life.")


# ---------------------------------------------------------------- rules


def _identity(issuer: Issuer, rule: TrustRule) -> Iterator[Finding]:
    missing = [name for name in issuer.identity if name not in rule.claims]
    if not missing:
        return
    wanted = " and ".join(missing)
    named = sorted(_NAMES[issuer.kind] & set(rule.claims))
    said = f"it does not pin {wanted}"
    if named:
        said = f"it names {', '.join(named)} but does not pin {wanted}: a name can be given up and taken by a stranger"
    yield Finding(
        ERROR, "name-without-id", rule.place, rule.name, said, f"Add {wanted}, as the issuer's token tells it."
    )


def _values(rule: TrustRule) -> Iterator[Finding]:
    for claim, values in sorted(rule.claims.items()):
        for value in sorted(values):
            text = value.strip('"')
            if "*" in text or "?" in text:
                said = f"{claim}: {value} holds a wildcard, and values are compared whole"
                yield Finding(
                    ERROR, "wildcard", rule.place, rule.name, said, "Write each allowed value out, as a list."
                )
            elif "|" in text or text.startswith("^") or text.endswith("$"):
                said = f"{claim}: {value} looks like a pattern, and values are compared whole"
                fix = "Write each value out, as a list."
                yield Finding(ERROR, "unanchored-alternation", rule.place, rule.name, said, fix)


def _forge(issuer: Issuer, rule: TrustRule) -> Iterator[Finding]:
    def found(severity: str, code: str, message: str, fix: str) -> Finding:
        return Finding(severity, code, rule.place, rule.name, message, fix)

    allowed = expectations(issuer, rule)
    event, workflow = _EVENT[issuer.kind], _WORKFLOW[issuer.kind]
    forked = sorted(value for value in allowed[event] if value.strip('"') in FORK_EVENTS)
    if forked:
        said = f"{event} {', '.join(forked)} can be caused from a fork, with the fork's code"
        yield found(ERROR, "fork-event", said, "Deploy on push, release, deployment or by hand.")
    if allowed["environment"] == frozenset({ABSENT}):
        said = "it names no environment, so nobody's approval is asked before the job runs"
        yield found(WARNING, "missing-environment", said, "Protect an environment at the issuer and name it here.")
    if spelled("false") in allowed["ref_protected"]:
        said = "it accepts an unprotected ref: whoever may push one may deploy"
        yield found(WARNING, "unprotected-ref", said, "Protect the ref, and leave ref_protected out.")
    if "ref" not in rule.claims and "ref_path" not in rule.claims:
        said = "it pins no ref: any protected branch or tag will do"
        yield found(WARNING, "open-ref", said, "Add ref, for example refs/heads/main on GitHub, main on GitLab.")
    if workflow not in rule.claims:
        said = f"it does not pin {workflow}: any workflow of the repository will do"
        yield found(WARNING, "open-workflow", said, f"Add {workflow}.")
    if allowed.get("runner_environment", frozenset()) - {spelled("github-hosted"), spelled("gitlab-hosted")}:
        said = "it accepts runners that the issuer does not host: whoever controls one can take its tokens"
        yield found(WARNING, "own-runner", said, "Use hosted runners, or make sure that one job never sees another's.")
    for claim in sorted(set(rule.claims) - _KNOWN_CLAIMS[issuer.kind]):
        said = f"{claim} is no claim that {issuer.kind.value} is known to send"
        yield found(WARNING, "unknown-claim", said, "Is it misspelt? A claim that is missing never holds.")


def _overlaps(policies: TrustPolicies) -> Iterator[Finding]:
    """Two rules overlap exactly when no claim that both speak of keeps them apart: sets make that decidable."""
    for one, two in combinations(sorted(policies.rules.values(), key=lambda r: r.name), 2):
        if one.issuer != two.issuer:
            continue
        issuer = policies.issuers[one.issuer]
        left, right = expectations(issuer, one), expectations(issuer, two)
        if all(left[claim] & right[claim] for claim in left.keys() & right.keys()):
            said = f"one token could match both {one.name} and {two.name}"
            fix = "Join them under one `allow`, or let a claim (environment, ref) tell them apart."
            yield Finding(ERROR, "overlap", two.place, two.name, said, fix)


# ---------------------------------------------------------------- rights


def _rights(
    policies: TrustPolicies,
    rule: TrustRule,
    environments: Mapping[str, str],
    verbs: Mapping[str, frozenset[str]] | None,
) -> Iterator[Finding]:
    for right in sorted(rule.rights, key=lambda r: (r.target, r.verb)):
        if right.target not in environments:
            said = f"the catalogue has no target {right.target}"
            yield Finding(ERROR, "unknown-target", rule.place, rule.name, said, "Correct the name, or take it out.")
        elif verbs is not None and right.verb not in verbs.get(right.target, frozenset()):
            said = f"the catalogue declares no verb {right.verb} on {right.target}"
            yield Finding(ERROR, "unknown-verb", rule.place, rule.name, said, "Declare the verb, or take it out.")
    issuer = policies.issuers[rule.issuer]
    in_production = sorted({r.target for r in rule.rights if environments.get(r.target) == "production"})
    if in_production and not is_gated(issuer, rule):
        said = f"{', '.join(in_production)} are in production, and the rule names no environment of the issuer"
        fix = "Protect an environment at the issuer (reviewers, branches) and name it here."
        yield Finding(ERROR, "production-without-environment", rule.place, rule.name, said, fix)


def is_gated(issuer: Issuer, rule: TrustRule) -> bool:
    """True when the rule names an environment, where the issuer has such: that is where it asks people."""
    return issuer.kind not in _FORGES or ABSENT not in expectations(issuer, rule)["environment"]
