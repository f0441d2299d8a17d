"""A stage on which pipelines come: a real issuer over HTTP, trust policies in real files, a real store."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.adapters.deploy_keys import DeployKeyring
from gateway.adapters.issuer_keys import IssuerKeys
from gateway.adapters.job_tokens import SignedJobTokens
from gateway.adapters.trust_policies import TrustDirectory
from gateway.core.target import Catalogue, Kind, Level, Service, Target
from gateway.core.verb import Verb
from gateway.demo.ci_issuer import AUDIENCE, CiIssuer, ci_issuer
from tests.unit.edges.stage import FixedCatalogue, Stage, make_stage

VERBS = {name: Verb(name, "deploy", argv=(f"/usr/local/bin/{name}",)) for name in ("deploy", "rollback")}
SHELL = {"shell": Level("shell", "deploy", 0)}


def target(name: str, environment: str = "production") -> Target:
    return Target(name, Kind.SSH, "orders", environment, "127.0.0.1", 22, SHELL, verbs=VERBS)


CATALOGUE = Catalogue(
    "1",
    {"orders": Service("orders", ("leads",))},
    {one.name: one for one in (target("web-1"), target("web-2"), target("stage-1", "staging"))},
)

GITHUB = """
version: 1
issuers:
  github:
    kind: github
    issuer: {url}
    audience: {audience}
    exchanges_per_run: 3
rules:
  web-production:
    issuer: github
    claims:
      repository_owner_id: 65
      repository_id: 1296269
      ref: refs/heads/main
      environment: Production
      job_workflow_ref: acme/web/.github/workflows/deploy.yml@refs/heads/main
    allow:
      - targets: [web-1, web-2]
        verbs: [deploy, rollback]
  web-staging:
    issuer: github
    claims:
      repository_owner_id: 65
      repository_id: 1296269
      ref: refs/heads/main
    allow:
      - targets: [stage-1, web-1]
        verbs: [deploy]
"""
GITLAB = """
version: 1
issuers:
  gitlab:
    kind: gitlab
    issuer: {url}
    audience: {audience}
    longest_token: 2h
rules:
  web-gitlab:
    issuer: gitlab
    claims:
      namespace_id: 72
      project_id: 22
      ref: main
      environment: production
      ci_config_ref_uri: gitlab.example.org/acme/web//.gitlab-ci.yml@refs/heads/main
    allow:
      - targets: [web-1]
        verbs: [deploy]
"""


@dataclass
class Pipelines:
    """`github` and `gitlab` are two issuers, each with keys of its own."""

    stage: Stage
    github: CiIssuer
    gitlab: CiIssuer
    trust: Path

    def rewrite(self, name: str, text: str) -> str | None:
        (self.trust / name).write_text(text)
        return self.stage.ctx.trust.reload()


@contextmanager
def pipelines(folder: Path) -> Iterator[Pipelines]:
    stage = make_stage(folder)
    trust = folder / "trust"
    trust.mkdir()
    with ci_issuer(stage.clock.now) as github, ci_issuer(stage.clock.now) as gitlab:
        (trust / "github.yaml").write_text(GITHUB.format(url=github.url, audience=AUDIENCE))
        (trust / "gitlab.yaml").write_text(GITLAB.format(url=gitlab.url, audience=AUDIENCE))
        tokens = SignedJobTokens(IssuerKeys(stage.clock))
        ctx = replace(
            stage.ctx,
            catalogue=FixedCatalogue(CATALOGUE),
            trust=TrustDirectory(trust),
            job_tokens=tokens,
            deploy_keys=DeployKeyring(folder / "keys" / "deploy.key"),
        )
        try:
            yield Pipelines(replace(stage, ctx=ctx), github, gitlab, trust)
        finally:
            tokens.close()
            stage.store.close()
