"""Pipelines and the engineer on call run verbs on two real servers, by the command line, through a running gateway."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.deploy_token import Caveat, Tag, attenuate, parameters_digest
from tests.e2e.deploy_stage import DeployStage, deploy_stage
from tests.e2e.stage import wait_for

pytestmark = pytest.mark.servers


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[DeployStage]:
    with deploy_stage(tmp_path) as running:
        yield running


def test_a_pipeline_deploys_and_whoever_is_on_call_rolls_back(stage: DeployStage) -> None:
    for number, version in enumerate(("1.0", "1.1")):
        done = stage.gw(stage.job(run=f"{number}.1"), "deploy", "deploy", "web", "--param", f"version={version}")
        assert f"[web-1] deploying {version}" in done.stdout
        assert "web-2 (2 of 2) succeeded" in done.stderr
    assert (stage.version("web-1"), stage.version("web-2")) == ("1.1", "1.1")

    refused = stage.gw("developer", "deploy", "rollback", "web", "--to", "previous", status=3)
    assert "oncall" in refused.stderr

    back = stage.json("oncall", "deploy", "rollback", "web", "--to", "previous")
    assert back["state"] == "succeeded"
    assert (stage.version("web-1"), stage.version("web-2")) == ("1.0", "1.0")
    status = {each["target"]: each for each in stage.json("oncall", "deploy", "status", "web")}
    assert [(status[t]["version"], status[t]["by"]) for t in ("web-1", "web-2")] == [("1.0", "oncall")] * 2
    nowhere = stage.gw("oncall", "deploy", "rollback", "web", "--to", "previous", status=5)
    assert "before" in nowhere.stderr

    # Everything is in the log, replayable, and the log verifies.
    finished = stage.events("deploy:finished")
    assert [e["data"]["state"] for e in finished] == ["succeeded"] * 3
    session = back["steps"][0]["session"]
    assert "deploying 1.0" in stage.gw("lead", "session", "replay", session).stdout
    stage.gw("developer", "session", "replay", session, status=3)


def test_a_failing_deploy_stops_rolling_and_its_exit_status_is_passed_on(stage: DeployStage) -> None:
    stage.gw(stage.job(run="1.1"), "deploy", "deploy", "web", "--param", "version=1.0")
    (stage.home("web-1") / "broken").touch()
    done = stage.gw(stage.job(run="2.1"), "deploy", "deploy", "web", "--param", "version=2.0", status=7)
    assert "[web-1] cannot place 2.0" in done.stderr
    assert "web-2 (2 of 2) not-run" in done.stderr
    assert stage.placed("web-2") == ["1.0"]
    status = {each["target"]: each for each in stage.json("oncall", "deploy", "status")}
    assert (status["web-1"]["certain"], status["web-1"]["attempted"]) == (False, "2.0")
    assert status["web-2"]["version"] == "1.0"

    # The way back touches only the server that the broken run had reached.
    (stage.home("web-1") / "broken").unlink()
    back = stage.json("oncall", "deploy", "rollback", "web", "--to", "previous")
    assert [step["target"] for step in back["steps"]] == ["web-1"]
    assert stage.placed("web-2") == ["1.0"]


@pytest.mark.parametrize("expected", [0, 1, 42, 255])
def test_exit_statuses(stage: DeployStage, expected: int) -> None:
    stage.gw(stage.job(), "deploy", "fail", "web-1", "--param", f"status={expected}", status=expected)


def test_the_same_job_asking_again_gets_the_first_outcome(stage: DeployStage) -> None:
    (stage.home("web-1") / "broken").touch()
    words = ("deploy", "deploy", "web-1", "--param", "version=3.0")
    first = stage.json(stage.job(run="7.1"), *words, status=7)
    (stage.home("web-1") / "broken").unlink()
    again = stage.json(stage.job(run="7.1"), *words, status=7)
    assert again["run"] == first["run"]
    assert stage.placed("web-1") == []
    rerun = stage.json(stage.job(run="7.2"), *words)
    assert rerun["run"] != first["run"]
    assert stage.placed("web-1") == ["3.0"]


def test_one_run_per_target_and_the_second_is_told_whose_it_is(stage: DeployStage) -> None:
    slow = stage.begin(stage.job(run="1.1"), "deploy", "slow", "web-1", "--param", "seconds=60")
    wait_for("the command to begin", (stage.home("web-1") / "slow").exists)
    refused = stage.gw(stage.job(run="2.1"), "deploy", "restart", "web", status=5)
    assert "web-1 is locked by github:octo/shop" in refused.stderr
    stage.gw(stage.job(run="3.1"), "deploy", "restart", "web-2")
    run = stage.json("oncall", "deploy", "history", "--target", "web-1")[0]
    stage.gw("developer", "deploy", "cancel", run["run"], status=3)
    stage.gw("lead", "deploy", "cancel", run["run"])
    _, err = slow.communicate(timeout=30)
    assert slow.returncode == 1
    assert "cancelled by lead" in err
    assert not (stage.home("web-1") / "slept").exists()
    stage.gw(stage.job(run="4.1"), "deploy", "restart", "web")


def test_a_caller_who_goes_away_leaves_the_run_unless_the_verb_says_otherwise(stage: DeployStage) -> None:
    for verb, expected in (("slow", "succeeded"), ("tied", "cancelled")):
        (stage.home("web-1") / "slow").unlink(missing_ok=True)
        caller = stage.begin(stage.job(run=f"{verb}.1"), "deploy", verb, "web-1", "--param", "seconds=3")
        wait_for("the command to begin", (stage.home("web-1") / "slow").exists)
        caller.kill()
        caller.communicate()
        wait_for(
            f"{verb} to be {expected}",
            lambda e=expected: stage.json("oncall", "deploy", "history")[0]["state"] == e,  # type: ignore[misc]
        )


def test_a_gateway_that_dies_leaves_a_run_interrupted_and_no_lock(stage: DeployStage) -> None:
    stage.gw(stage.job(run="1.1"), "deploy", "deploy", "web", "--param", "version=1.0")
    caller = stage.begin(stage.job(run="2.1"), "deploy", "slow", "web", "--param", "seconds=60")
    wait_for("the command to begin", (stage.home("web-1") / "slow").exists)
    session = stage.events("session:started")[0]["session"]
    wait_for(
        "evidence of its first output",
        lambda: any(e["session"] == session and e["data"]["records"] >= 3 for e in stage.events("session:evidence")),
    )
    stage.stop(signal.SIGKILL)
    _, err = caller.communicate(timeout=30)
    assert "gw deploy show run_" in err
    stage.start()
    run = stage.json("oncall", "deploy", "history")[0]
    shown = stage.json("oncall", "deploy", "show", run["run"])
    assert shown["state"] == "interrupted"
    assert [step["state"] for step in shown["steps"]] == ["interrupted", "not-run"]
    assert stage.events("deploy:finished")[0]["data"]["state"] == "interrupted"
    stage.gw(stage.job(run="3.1"), "deploy", "restart", "web")  # no lock is left
    # What was recorded until then is sealed, and can be proved.
    replayed = stage.gw("lead", "session", "replay", shown["steps"][0]["session"])
    assert "begun" in replayed.stdout


def test_a_gateway_that_is_stopped_ends_its_runs_and_says_so(stage: DeployStage) -> None:
    caller = stage.begin(stage.job(), "deploy", "slow", "web", "--param", "seconds=60")
    wait_for("the command to begin", (stage.home("web-1") / "slow").exists)
    session = stage.events("session:started")[0]["session"]
    watcher = stage.begin("lead", "session", "watch", session)
    assert watcher.stdout is not None
    assert any("begun" in line for line in watcher.stdout)
    stage.stop(signal.SIGTERM)
    _, err = caller.communicate(timeout=30)
    watcher.communicate(timeout=30)
    assert "the gateway is stopping" in err
    stage.start()
    run = stage.json("oncall", "deploy", "history")[0]
    assert (run["state"], "stopping" in run["detail"]) == ("cancelled", True)
    stage.gw(stage.job(run="2.1"), "deploy", "restart", "web")


def test_a_freeze_refuses_with_who_and_until_and_only_a_person_on_call_overrides(stage: DeployStage) -> None:
    stage.gw(stage.job(run="1.1"), "deploy", "deploy", "web", "--param", "version=1.0")
    stage.freeze()
    wait_for("the freeze", lambda: any(v["freezes"] for v in stage.json("oncall", "deploy", "list")))
    words = ("deploy", "deploy", "web", "--param", "version=2.0")
    refused = stage.gw(stage.job(run="2.1"), *words, status=3)
    assert "the release managers" in refused.stderr
    assert "until" in refused.stderr
    stage.gw(stage.job(run="3.1"), *words, "--override", "--incident", "INC-1", "--reason", "now", status=3)
    stage.gw("developer", *words, "--override", "--incident", "INC-1", "--reason", "now", status=3)
    stage.gw("oncall", *words, "--override", "--incident", "INC-1", status=3)  # no reason
    stage.gw("oncall", *words, "--override", "--reason", "now", status=3)  # no incident
    stage.gw("oncall", *words, status=3)
    assert stage.version("web-1") == "1.0"

    done = stage.json("oncall", *words, "--override", "--incident", "INC-1", "--reason", "the fix cannot wait")
    assert done["state"] == "succeeded"
    assert stage.version("web-2") == "2.0"
    owed = stage.json("lead", "review")
    assert [review["holder"] for review in owed] == ["oncall"]
    grant = stage.json("oncall", "grants")[0]
    assert grant["level"] == "verb:deploy"
    shut = stage.gw("oncall", "ssh", "web-1", "--", "id", status=254)  # the grant of an override opens no session
    assert "no active grant" in shut.stderr
    stage.gw("lead", "review", grant["id"], "--verdict", "justified", "--note", "seen")


HOSTILE = (
    "1.0; touch /tmp/owned", "1.0 1.1", "1.0\n1.1", "-rf", "--version", "$(id)", "`id`", "${IFS}", "a|b", "1.0\u2028", "\uff0drf",
    "\u0661.0", "v1\u200b", "\u0430", "../x", "'", '"', "*", "~", "", "v" * 65,
)  # fmt: skip


@pytest.mark.servers
def test_parameters_never_become_anything_else_than_one_word(stage: DeployStage) -> None:
    for number, value in enumerate(HOSTILE):
        done = stage.gw(
            stage.job(run=f"{number}.1"), "deploy", "deploy", "web-1", "--param", f"version={value}", status=3
        )
        assert "The parameter version is not allowed" in done.stderr
    assert not stage.placed("web-1")
    # Where the type allows more, the account's shell sees one word all the same.
    for number, value in enumerate(
        ("a b", "$(id)", "`id`", "a;id", "'", '"; id; "', "\\", "* ?", "!x", "a && id", "#", "~", "{text}")
    ):
        done = stage.gw(stage.job(run=f"t{number}.1"), "deploy", "echo", "web-1", "--param", f"text={value}")
        assert done.stdout == f"[web-1] {value}|end|\n"
    for value in ("-n", "\u00e9", "a\nb"):
        stage.gw(stage.job(run=f"u{value!r}.1"), "deploy", "echo", "web-1", "--param", f"text={value}", status=3)
    denied = stage.events("deploy:denied")
    assert denied
    assert "owned" not in json.dumps(denied)


def test_a_token_does_what_it_names_and_no_more(stage: DeployStage) -> None:
    narrow = stage.job(targets=("web-1",), verbs=("deploy",))
    stage.gw(narrow, "deploy", "restart", "web-1", status=3)  # another verb
    stage.gw(narrow, "deploy", "deploy", "web-2", "--param", "version=1.0", status=3)  # another target
    stage.gw(narrow, "deploy", "deploy", "web", "--param", "version=1.0", status=3)  # a group with another target
    digest = parameters_digest("deploy", {"version": "1.0"})
    pinned = attenuate(stage.job(), Caveat(Tag.PARAMETERS, frozenset({digest})))
    stage.gw(pinned, "deploy", "deploy", "web-1", "--param", "version=6.6", status=3)
    assert not stage.placed("web-1")
    stage.gw(pinned, "deploy", "deploy", "web-1", "--param", "version=1.0")
    stage.gw(narrow[:-4] + "AAAA", "deploy", "deploy", "web-1", "--param", "version=1.1", status=3)


def test_a_deploy_token_opens_nothing_else(stage: DeployStage) -> None:
    token = stage.job()
    for words in (("targets",), ("grants",), ("sessions",), ("audit", "search"), ("whoami",), ("connect", "web-1")):
        stage.gw(token, *words, status=3)
    stage.gw(token, "request", "web-1", "--level", "shell", "--reason", "let me in", status=3)


@pytest.mark.parametrize("names", [("nowhere",), ("web-1", "nowhere")])
def test_unknown_targets_and_verbs_are_told(stage: DeployStage, names: tuple[str, ...]) -> None:
    stage.gw(stage.job(), "deploy", "restart", *names, status=4)
    refused = stage.gw(stage.job(), "deploy", "format", "web-1", status=4)
    assert "Its verbs:" in refused.stderr


def test_people_do_not_deploy_by_hand(stage: DeployStage) -> None:
    stage.gw(stage.job(run="1.1"), "deploy", "deploy", "web", "--param", "version=1.0")
    for who in ("oncall", "developer", "lead", "auditor"):
        refused = stage.gw(who, "deploy", "deploy", "web", "--param", "version=9.9", status=3)
        assert "pipeline" in refused.stderr or "on call" in refused.stderr
    stage.gw("oncall", "deploy", "rollback", "web", "--param", "version=0.1", status=3)  # not the previous one
    why = ("policy", "why", "--target", "web-1", "--verb")
    assert "No (" in stage.gw("oncall", *why, "deploy").stdout
    assert "Yes, by" in stage.gw("oncall", *why, "deploy", "--pipeline").stdout
    assert "Yes, by" in stage.gw("oncall", *why, "rollback", "--to", "previous").stdout
    assert stage.version("web-1") == "1.0"
