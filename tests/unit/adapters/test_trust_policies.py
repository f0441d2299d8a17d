from datetime import timedelta
from pathlib import Path

import pytest

from gateway.adapters.trust_policies import TrustDirectory, load
from gateway.adapters.yaml_source import SourceError
from gateway.core.deploy_token import Right
from gateway.core.trust import IssuerKind
from tests.pipelines import GITHUB, GITLAB

URL = "https://token.actions.githubusercontent.com"
HERE = "https://gw.example.org"
GENERIC = """
version: 1
issuers:
  cluster:
    kind: oidc
    issuer: https://kubernetes.default.svc
    audience: https://gw.example.org
    algorithms: [RS256, ES256]
    jwks_file: cluster.json
    identity: [sub, /kubernetes.io/serviceaccount/uid]
    facts: {repository: /kubernetes.io/namespace, run: [jti]}
    token_life: 5m
rules:
  ci:
    issuer: cluster
    claims:
      sub: system:serviceaccount:ci:deployer
      /kubernetes.io/serviceaccount/uid: 9f1c
      attempt: 1
      quoted: "1"
      trusted: true
      spoken: "true"
    allow: [{targets: [web-1], verbs: [deploy]}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "github.yaml").write_text(GITHUB.format(url=URL, audience=HERE))
    return tmp_path


def test_files_are_one_set(folder: Path):
    (folder / "gitlab.yml").write_text(GITLAB.format(url="https://gitlab.example.org", audience=HERE))
    (folder / "notes.txt").write_text("not read")
    found = load(folder)
    assert sorted(found.issuers) == ["github", "gitlab"]
    assert sorted(found.rules) == ["web-gitlab", "web-production", "web-staging"]
    assert found.rules["web-production"].claims["environment"] == {'"production"'}  # folded once, here
    assert found.rules["web-production"].rights == {
        Right(t, v) for t in ("web-1", "web-2") for v in ("deploy", "rollback")
    }
    assert found.rules["web-production"].place == "github.yaml:11"
    assert found.issuers["github"].token_life == timedelta(minutes=15)
    assert found.issuers["gitlab"].token_life is None


def test_any_other_issuer_by_configuration(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(GENERIC)
    found = load(tmp_path)
    issuer = found.issuers["cluster"]
    assert (issuer.kind, issuer.jwks_file) == (IssuerKind.OIDC, str(tmp_path / "cluster.json"))
    assert issuer.identity == ("sub", "/kubernetes.io/serviceaccount/uid")
    assert issuer.facts == {"repository": ("/kubernetes.io/namespace",), "run": ("jti",)}
    claims = found.rules["ci"].claims
    assert [next(iter(claims[name])) for name in ("attempt", "quoted", "trusted", "spoken")] == [
        "1",
        '"1"',
        "true",
        '"true"',
    ]


def test_no_directory_trusts_nobody(tmp_path: Path):
    found = load(tmp_path / "none")
    assert (found.issuers, found.rules) == ({}, {})


def test_the_digest_is_of_names_and_contents(folder: Path):
    one = load(folder).digest
    (folder / "github.yaml").rename(folder / "other.yaml")
    assert load(folder).digest != one


@pytest.mark.parametrize(
    ("was", "becomes", "why"),
    [
        ("kind: github", "kind: gitea", "must be github or gitlab or oidc"),
        (f"issuer: {URL}", "issuer: http://ci.example.org", "neither https nor on this machine"),
        (f"issuer: {URL}", "issuer: ci.example.org", "not an absolute URL"),
        (f"issuer: {URL}", "issuer: https://user@ci.example.org", "not an absolute URL"),
        ("kind: github", "kind: github\n    identity: [sub]", "unknown key"),
        ("kind: github", "kind: github\n    algorithms: [HS256]", "must be RS256"),
        ("kind: github", "kind: github\n    algorithms: [none]", "must be RS256"),
        ("kind: github", "kind: github\n    algorithms: []", "must not be empty"),
        ("kind: github", "kind: github\n    longest_token: 30h", "between 1m and 24h"),
        ("kind: github", "kind: github\n    jwks_url: ftp://a/b", "neither https"),
        ("kind: github", "kind: github\n    jwks_url: https://a/b\n    jwks_file: x", "jwks_url already"),
        ("exchanges_per_run: 3", "exchanges_per_run: 0", "from 1 to 1000"),
        ("    issuer: github\n", "    issuer: gitlab\n", "must be github"),
        ("repository_id: 1296269", "repository_id: []", "must not be empty"),
        ("repository_id: 1296269", "repository_id: {a: b}", "must be text"),
        ("repository_id: 1296269", 'repository_id: ""', "1 to 512 characters"),
        ("repository_id: 1296269", "repository_id: &a 1", "anchors"),
        ("repository_id: 1296269", "sender_id: 1", "name-without-id"),
        ("verbs: [deploy, rollback]", "verbs: [Deploy]", "is not a verb"),
        ("verbs: [deploy, rollback]", "verbs: [deploy, '*']", "is not a verb"),
        ("verbs: [deploy, rollback]", "verbs: []", "must not be empty"),
        ("targets: [web-1, web-2]", "targets: ['*']", "is not a name"),
        ("targets: [web-1, web-2]", "target: [web-1]", "unknown key"),
        ("version: 1", "version: 2", "must be a number from 1 to 1"),
    ],
)
def test_what_does_not_load_says_where_and_why(folder: Path, was: str, becomes: str, why: str):
    text = GITHUB.format(url=URL, audience=HERE)
    assert was in text
    (folder / "github.yaml").write_text(text.replace(was, becomes, 1))
    with pytest.raises(SourceError, match=r"github\.yaml:\d+: ") as error:
        load(folder)
    assert why in str(error.value)


def test_a_rule_without_claims(folder: Path):
    (folder / "b.yaml").write_text(
        "version: 1\nrules:\n  x: {issuer: github, claims: {}, allow: [{targets: [a], verbs: [b]}]}\n"
    )
    with pytest.raises(SourceError, match="every token of the issuer would do"):
        load(folder)


def test_a_name_is_declared_once(folder: Path):
    (folder / "b.yaml").write_text(GITHUB.format(url=f"{URL}/2", audience=HERE))
    with pytest.raises(SourceError, match="declared in another file already"):
        load(folder)


def test_a_broken_file_never_replaces_a_working_set(folder: Path):
    source = TrustDirectory(folder)
    before = source.current()
    (folder / "b.yaml").write_text("version: 1\nrules: nonsense\n")
    why = source.reload()
    assert why is not None
    assert why.startswith("b.yaml:2: rules: ")
    assert source.current() is before
    (folder / "b.yaml").unlink()
    assert source.reload() is None
    (folder / "github.yaml").unlink()  # deleting trust takes it away, and never opens anything
    assert source.reload() is None
    assert source.current().rules == {}
