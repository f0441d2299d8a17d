import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.edges.cli.main import make_cli

POLICIES = Path(__file__).parents[2] / "policies"


def gw(*args: str) -> Result:
    result = CliRunner().invoke(make_cli(), ["policy", *args], prog_name="gw")
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    shutil.copytree(POLICIES, tmp_path / "policies")
    return tmp_path / "policies"


def test_check_says_how_many_and_which_set(directory: Path):
    told = gw("check", "--dir", str(directory))
    assert told.exit_code == 0, told.output
    assert "30 policies would load" in told.output
    answer = json.loads(gw("check", "--dir", str(directory), "--json").stdout)
    assert answer["ok"]
    assert "oncall-look" in answer["policies"]
    assert len(answer["digest"]) == 64


def test_check_names_every_fault_with_its_place(directory: Path):
    (directory / "bad.cedar").write_text(
        "permit (principal, action, resource);\n\n"
        '@id("bad") forbid (principal, action, resource) when { context.approvals * 2 > 1 };\n'
    )
    told = gw("check", "--dir", str(directory))
    assert told.exit_code == 1
    assert "bad.cedar:1: every policy needs an @id" in told.stderr
    assert "bad.cedar:3: arithmetic (mul) can overflow" in told.stderr
    answer = json.loads(gw("check", "--dir", str(directory), "--json").stdout)
    assert answer["code"] == "policy-invalid"


def test_test_passes_on_our_own(directory: Path):
    told = gw("test", "--dir", str(directory))
    assert told.exit_code == 0, told.output
    assert "answers as expected" in told.output
    assert json.loads(gw("test", "--dir", str(directory), "--json").stdout)["ok"]


def test_test_names_what_failed_and_what_nothing_decides(directory: Path):
    path = directory / "oncall.cedar"
    path.write_text(path.read_text().replace('@max_duration("4h")', '@max_duration("5h")'))
    (directory / "idle.cedar").write_text('@id("idle") permit (principal in Role::"ghost", action, resource);')
    told = gw("test", "--dir", str(directory))
    assert told.exit_code == 1
    assert "production.yaml:3: the engineer on call reads production under an open incident" in told.output
    assert "expected max_duration 4:00:00, got 5:00:00" in told.output
    assert "No question is decided by the policy idle." in told.output
    assert json.loads(gw("test", "--dir", str(directory), "--json").stdout)["undecided_policies"] == ["idle"]


def test_missing_things_are_told(tmp_path: Path, directory: Path):
    assert gw("check", "--dir", str(tmp_path / "none")).exit_code == 2
    assert gw("check", "--dir", str(tmp_path)).exit_code == 1
    shutil.rmtree(directory / "tests")
    assert "tests: No such file" in gw("test", "--dir", str(directory)).stderr
    (directory / "tests").mkdir()
    assert "There are no tests" in gw("test", "--dir", str(directory)).stderr
