"""Whole pipeline runs: a job with GitHub's environment, the script of docs/ci, exchange, two servers."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.deploy_stage import REPOSITORY, DeployStage, deploy_stage

pytestmark = pytest.mark.servers


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[DeployStage]:
    with deploy_stage(tmp_path) as running:
        yield running


def test_exchange_deploy_a_broken_deploy_and_the_way_back(stage: DeployStage) -> None:
    done = stage.pipeline("deploy", "web", "--param", "version=1.0", run_id="100")
    assert "[web-2] done" in done.stdout
    (stage.home("web-2") / "broken").touch()
    broken = stage.pipeline("deploy", "web", "--param", "version=2.0", run_id="101", status=7)
    assert "web-2 (2 of 2) failed: exit status 7" in broken.stderr
    assert (stage.version("web-1"), stage.version("web-2")) == ("2.0", "1.0")
    (stage.home("web-2") / "broken").unlink()
    stage.gw("oncall", "deploy", "rollback", "web", "--to", "previous")
    assert (stage.version("web-1"), stage.version("web-2")) == ("1.0", "1.0")

    run = stage.json("oncall", "deploy", "show", stage.json("oncall", "deploy", "history")[1]["run"])
    assert (run["by_kind"], run["pipeline"]["repository"]) == ("workload", "acme/web")
    assert run["pipeline"]["ref"] == "refs/heads/main"
    types = [event["type"] for event in stage.json("auditor", "audit", "search", "--limit", "500")]
    assert {"token:exchanged", "deploy:started", "deploy:finished", "session:started", "session:ended"} <= set(types)


def test_nothing_secret_is_printed(stage: DeployStage) -> None:
    assert stage.issuer is not None
    done = stage.pipeline("fail", "web-1", "--param", "status=3", status=3)
    said = done.stdout + done.stderr
    assert stage.issuer.job_secret not in said
    assert "gwd_" not in said
    assert "eyJ" not in said


def test_another_branch_repository_or_provider_gets_a_no_that_helps(stage: DeployStage) -> None:
    words = ("deploy", "web", "--param", "version=6.6")
    for number, claims in enumerate(
        (
            {"ref": "refs/heads/feature"},
            {"repository_id": "666"},
            {"environment": "staging"},
            {"event_name": "pull_request_target"},
            {"aud": "https://elsewhere.example"},
        )
    ):
        audience = claims.pop("aud", None)
        env = {"GW_ID_TOKEN": stage.issuer.github(aud=audience)} if audience and stage.issuer else {}
        refused = stage.pipeline(*words, status=3, env=env, run_id=str(number), **claims)
        assert "next:" in refused.stderr
    assert stage.placed("web-1") == []
    assert len(stage.events("token:refused")) == 5


def test_a_job_without_identity_is_told_how_to_get_one(stage: DeployStage) -> None:
    env = {"ACTIONS_ID_TOKEN_REQUEST_URL": "", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": ""}
    assert "id-token: write" in stage.pipeline("deploy", "web", status=2, env=env).stderr


def test_gitlab_s_way_works_too(stage: DeployStage) -> None:
    assert stage.issuer is not None
    env = {"ACTIONS_ID_TOKEN_REQUEST_URL": "", "GW_ID_TOKEN": stage.issuer.github(aud=stage.url)}
    stage.pipeline("deploy", "web-1", "--param", "version=1.0", env=env)
    assert stage.version("web-1") == "1.0"
    again = stage.pipeline("deploy", "web-1", "--param", "version=1.1", env=env, status=3)  # a token is used once
    assert stage.version("web-1") == "1.0"
    assert "next:" in again.stderr


@pytest.mark.parametrize("file", ["github.yml", "gitlab.yml"])
def test_the_page_shows_the_jobs_that_are_there_to_copy(file: str) -> None:
    page = (REPOSITORY / "docs" / "deploy.md").read_text()
    job = (REPOSITORY / "docs" / "ci" / file).read_text()
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "gw-deploy.sh" in block]
    assert any(block in job for block in blocks) or any(
        all(line in job.splitlines() for line in block.splitlines()) for block in blocks
    )
