"""Who calls with a deploy token, and taking one back before its end.

Only routes for workloads ask here. Routes for people and the doors know other credentials only; `misplaced` is what
they say to a deploy token.
"""

from dataclasses import replace
from datetime import timedelta

from gateway.app import journal
from gateway.app.authorise import authorise
from gateway.app.context import Context
from gateway.app.credentials import digest_of
from gateway.app.identity import NotSignedIn
from gateway.app.people_ports import Credential
from gateway.app.refuse_stranger import refuse_stranger
from gateway.core.decision import Action, Facts
from gateway.core.deploy_token import PREFIX, Right, VerifiedDeployToken, verify
from gateway.core.errors import Conflict, NotFound, Refusal
from gateway.core.principal import User
from gateway.core.trust import Issuer, TrustRule
from gateway.core.trust_lint import is_gated

_REVOKED = "deploy-revoked"
LONGEST_LIFE = timedelta(hours=24)  # of any deploy token, so a revocation need not be kept for longer


def authenticate_workload(ctx: Context, text: str, client: str = "") -> VerifiedDeployToken:
    """The workload behind a bearer token and what it may do; NotSignedIn when the token is worth nothing.

    `client` is where it comes from (address).
    """
    if is_our_own(text) and not text.startswith(PREFIX):
        raise NotSignedIn(_A_PERSONS_TOKEN)
    token = verify(ctx.deploy_keys.root_keys(), text, ctx.clock.now())
    if isinstance(token, Refusal):
        raise NotSignedIn(token)  # no event: a stranger could fill the log with these
    with ctx.store.read() as uow:
        is_revoked = uow.credentials.find(digest_of(token.id), _REVOKED) is not None
    narrowed = _WAS_REVOKED if is_revoked else _as_trusted(ctx, token)
    if isinstance(narrowed, Refusal):
        data = {"token": token.id, "run": token.workload.run}
        about: journal.About = {"principal": token.workload.name}
        raise refuse_stranger(ctx, client, "deploy-token:refused", narrowed, NotSignedIn, data, about=about)
    return narrowed


def _as_trusted(ctx: Context, token: VerifiedDeployToken) -> VerifiedDeployToken | Refusal:
    """What the trust policies in force leave of a token; nothing once they demand anything else of the job's own.

    Whether the job would meet what they demand now cannot be told: its claims are gone. So it comes and asks again.
    """
    policies = ctx.trust.current()
    rule = policies.rules.get(token.workload.trust_policy)
    if rule is None or not rule.terms or rule.terms != token.terms:
        return _WITHDRAWN
    issuer = policies.issuers[rule.issuer]
    rights = token.rights & usable_rights(ctx, issuer, rule)
    is_over = issuer.token_life is not None and ctx.clock.now() >= token.issued_at + issuer.token_life
    return replace(token, rights=rights) if rights and not is_over else _WITHDRAWN


def usable_rights(ctx: Context, issuer: Issuer, rule: TrustRule) -> frozenset[Right]:
    """What the rule allows on targets that exist; in production only behind an environment of the issuer."""
    targets = ctx.catalogue.current().targets
    is_open = is_gated(issuer, rule)
    return frozenset(
        right
        for right in rule.rights
        if right.target in targets
        and right.verb in targets[right.target].verbs
        and (is_open or targets[right.target].environment != "production")
    )


def revoke_deploy_token(ctx: Context, token_id: str, by: str, reason: str = "") -> bool:
    """Make a token worthless from now on, whatever was added to it; False when it was so already."""
    at = ctx.clock.now()
    digest = digest_of(token_id)
    with ctx.store.begin() as uow:
        if uow.credentials.find(digest, _REVOKED) is not None:
            return False
        uow.credentials.add(Credential(digest, _REVOKED, token_id, at, at + LONGEST_LIFE))
        data = {"token": token_id, "reason": reason.strip()[:500]}
        journal.append(ctx, uow, "deploy-token:revoked", principal=by, data=data)
    return True


def take_back(ctx: Context, user: User, token_id: str, reason: str = "") -> None:
    """`revoke_deploy_token` for a person whom policy lets administer; Denied, or Conflict when it was done already.

    An id that no token has can be revoked, too: the log is the only list of those that were minted.
    """
    authorise(ctx, user, Action.ADMINISTER, None, Facts(ctx.clock.now()))
    if not token_id.startswith("dtk_"):
        raise NotFound(Refusal("unknown-token", "A deploy token's id begins with dtk_; its exchange's event has it."))
    if not revoke_deploy_token(ctx, token_id, user.name, reason):
        raise Conflict(Refusal("token-revoked-already", f"{token_id} was revoked already."))


def is_our_own(text: str) -> bool:
    """True for the shape of every credential of this gateway, of people, machines and pipelines: `gwc_…`, `gwd_…`."""
    return text.startswith("gw") and text[3:4] == "_"


def misplaced(text: str) -> Refusal | None:
    """What to answer where only people's credentials count, when `text` is a deploy token; None when it is none."""
    return _ONLY_DEPLOYS if text.startswith(PREFIX) else None


_WAS_REVOKED = Refusal(
    "token-revoked",
    "This deploy token was revoked.",
    ("a token that was not revoked",),
    ("Ask the gateway's operators why, then run the pipeline again.",),
)
_WITHDRAWN = Refusal(
    "trust-withdrawn",
    "The trust policy that this deploy token was given under was changed or taken away, or allows none of it now.",
    ("a token under the trust policies in force",),
    (
        "Exchange a new token of the job's: POST /oauth/token. Its answer says what does not hold any more.",
        "Where a job has one token only, as on GitLab, run it again.",
    ),
)
_A_PERSONS_TOKEN = Refusal(
    "not-a-workload",
    "This is a person's token; deploying takes a deploy token.",
    ("a deploy token",),
    ("In a pipeline, exchange the job's token at /oauth/token.", "As a person on call, use gw deploy rollback."),
)
_ONLY_DEPLOYS = Refusal(
    "deploy-token-misplaced",
    "A deploy token can only run deploy verbs. It opens no session, no door and no route for people.",
    ("a person's sign-in",),
    ("Use gw deploy in the pipeline.", "For anything else a person signs in: gw login."),
)
