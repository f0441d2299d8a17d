import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from gateway.adapters.trust_policies import load
from gateway.core.trust_lint import lint
from gateway.demo.ci_issuer import AUDIENCE, CiIssuer, ci_issuer
from gateway.edges.cli.main import make_cli
from tests.pipelines import GITHUB

ROOT = Path(__file__).parents[2]


def gw(*args: str, input: str = "") -> Result:
    result = CliRunner().invoke(make_cli(), ["trust", *args], input=input, prog_name="gw")
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def ci() -> Iterator[CiIssuer]:
    with ci_issuer() as issuer:
        yield issuer


@pytest.fixture
def folder(tmp_path: Path, ci: CiIssuer) -> Path:
    trust = tmp_path / "trust"
    trust.mkdir()
    (trust / "github.yaml").write_text(GITHUB.format(url=ci.url, audience=AUDIENCE))
    return trust


# ---------------------------------------------------------------- check


def test_check_counts(folder: Path):
    told = gw("check", "--dir", str(folder))
    assert told.exit_code == 0, told.output
    assert "missing-environment" in told.output
    assert "2 rules of 1 issuers: 0 errors, 2 warnings." in told.output
    assert gw("check", "--dir", str(folder), "--strict").exit_code == 1


def test_check_names_each_mistake(folder: Path):
    text = (folder / "github.yaml").read_text()
    (folder / "github.yaml").write_text(text.replace("ref: refs/heads/main", 'ref: "refs/heads/main|x*"'))
    told = gw("check", "--dir", str(folder))
    assert told.exit_code == 1
    assert "github.yaml:11: error: web-production: " in told.output
    answer = json.loads(gw("check", "--dir", str(folder), "--json").stdout)
    assert not answer["ok"]
    assert {found["code"] for found in answer["findings"] if found["severity"] == "error"} == {"wildcard"}


def test_check_says_what_cannot_be_read(folder: Path):
    (folder / "b.yaml").write_text("version: 1\nrules: 7\n")
    told = gw("check", "--dir", str(folder))
    assert (told.exit_code, "b.yaml:2: rules" in told.stderr) == (1, True)
    assert json.loads(gw("check", "--dir", str(folder), "--json").stdout)["code"] == "trust-invalid"


def test_check_looks_targets_up(folder: Path, tmp_path: Path):
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text("version: 1\nservices: {}\ntargets: {}\n")
    told = gw("check", "--dir", str(folder), "--catalogue", str(catalogue))
    assert told.exit_code == 1
    assert "the catalogue has no target web-1" in told.output


# ---------------------------------------------------------------- explain


def test_explain_says_yes_claim_by_claim(folder: Path, ci: CiIssuer):
    token = ci.github()
    told = gw("explain", "--dir", str(folder), input=token)
    assert told.exit_code == 0, told.output
    assert "held   signature is the issuer's" in told.output
    assert 'held   ref is "refs/heads/main"' in told.output
    assert "Yes: web-production allows deploy on web-1" in told.output
    assert token not in told.output


def test_explain_says_what_failed_of_which_rule(folder: Path, ci: CiIssuer, tmp_path: Path):
    kept = tmp_path / "token"
    kept.write_text(ci.github(ref="refs/heads/x\x1b[2J") + "\n")
    told = gw("explain", str(kept), "--dir", str(folder))
    assert told.exit_code == 3
    assert "FAILED ref is" in told.output
    assert "\x1b" not in told.output
    answer = json.loads(gw("explain", str(kept), "--dir", str(folder), "--json").stdout)
    assert (answer["ok"], answer["rule"], answer["signature_verified"]) == (False, None, True)
    production = next(rule for rule in answer["rules"] if rule["rule"] == "web-production")
    assert {claim["claim"] for claim in production["claims"] if not claim["held"]} == {"ref"}


def test_explain_without_the_issuer(folder: Path, ci: CiIssuer):
    ci.mood = "down"
    token = ci.github()
    assert gw("explain", "--dir", str(folder), input=token).exit_code == 1
    told = gw("explain", "--offline", "--dir", str(folder), input=token)
    assert told.exit_code == 0
    assert "was not looked at" in told.output
    assert json.loads(gw("explain", "--offline", "--json", "--dir", str(folder), input=token).stdout)["ok"]


def test_explain_yesterdays_token(folder: Path, ci: CiIssuer):
    past = datetime.now(UTC) - timedelta(days=1)
    at = int(past.timestamp())
    token = ci.github(iat=at, nbf=at, exp=at + 300)
    assert "FAILED exp" in gw("explain", "--dir", str(folder), input=token).output
    assert gw("explain", "--at", past.isoformat(), "--dir", str(folder), input=token).exit_code == 0
    assert gw("explain", "--at", "soon", "--dir", str(folder), input=token).exit_code == 2


@pytest.mark.parametrize("text", ["", "nonsense", "a.b.c"])
def test_explain_what_is_no_token(folder: Path, text: str):
    told = gw("explain", "--dir", str(folder), input=text)
    assert told.exit_code == 3
    assert "is no signed token" in told.output


def test_explain_takes_no_token_on_the_command_line(folder: Path, ci: CiIssuer):
    told = gw("explain", ci.github(), "--dir", str(folder))
    assert told.exit_code == 2
    assert "others on this machine" in told.stderr
    assert gw("explain", "none.txt", "--dir", str(folder)).exit_code == 2


# ---------------------------------------------------------------- init

GITHUB_ARGS = ("init", "github", "acme/web", "--owner-id", "65", "--repository-id", "1296269", "--audience", AUDIENCE)
GITLAB_ARGS = ("init", "gitlab", "acme/web", "--namespace-id", "72", "--project-id", "22", "--audience", AUDIENCE)


@pytest.mark.parametrize("args", [GITHUB_ARGS, GITLAB_ARGS], ids=["github", "gitlab"])
def test_what_init_writes_is_right(tmp_path: Path, args: tuple[str, ...]):
    where = ("--target", "web-1", "--target", "web-2", "--dir", str(tmp_path))
    told = gw(*args, *where, "--write")
    assert told.exit_code == 0, told.output
    policies = load(tmp_path)
    assert lint(policies) == ()
    assert len(next(iter(policies.rules.values())).rights) == 4
    again = gw(*args, *where, "--write")
    assert again.exit_code == 5
    second = gw(*args, *where, "--name", "second", "--environment", "staging", "--write")
    assert second.exit_code == 0
    assert len(load(tmp_path).issuers) == 1  # it uses the one that is declared


def test_a_github_of_ones_own(tmp_path: Path):
    told = gw(*GITHUB_ARGS, "--target", "web-1", "--host", "git.example.org", "--dir", str(tmp_path))
    assert yaml.safe_load(told.stdout)["issuers"]["github"]["issuer"] == "https://git.example.org/_services/token"


def test_init_needs_the_numbers(tmp_path: Path):
    told = gw("init", "github", "acme/web", "--audience", AUDIENCE, "--target", "web-1", "--dir", str(tmp_path))
    assert told.exit_code == 2
    assert "owner.id in https://api.github.com/repos/acme/web" in told.stderr
    assert gw(*GITHUB_ARGS, "--owner-id", "acme", "--target", "w", "--dir", str(tmp_path)).exit_code == 2
    assert gw("init", "github", "acme", "--audience", AUDIENCE, "--target", "w").exit_code == 2
    assert gw("init", "gitlab", "acme", "--audience", AUDIENCE, "--target", "w").exit_code == 2


def test_init_asks_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runner = CliRunner()
    args = ["trust", "init", "github", "acme/web", "--audience", AUDIENCE, "--target", "web-1", "--dir", str(tmp_path)]

    with runner.isolation(input="65\n1296269\n") as (out, *_):
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        with pytest.raises(SystemExit) as ended:
            make_cli().main(args=args, prog_name="gw")
        text = out.getvalue().decode()
    assert ended.value.code == 0
    assert "repository_owner_id: '65'" in text
