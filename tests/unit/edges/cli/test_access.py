import json
from threading import Thread

import pytest

from gateway.core.decision import Action
from gateway.core.obligation import Obligations
from tests.unit.edges.cli.conftest import Gw

ASK = (
    "request",
    "orders-db",
    "--level",
    "read",
    "--incident",
    "INC-1042",
    "--reason",
    "p99 of search 8 s",
    "--for",
    "1h",
)


def test_a_grant_is_explained_and_the_next_command_named(gw: Gw) -> None:
    told = gw.as_("oncall")(*ASK)
    assert told.exit_code == 0, told.output
    assert "Granted: read on orders-db until " in told.output
    assert "decided by: told-yes" in told.output
    assert "fact: on call for orders until " in told.output
    assert "(rota.yaml, fresh)" in told.output
    assert "fact: incident INC-1042 of orders is open" in told.output
    assert "connect: gw psql orders-db --level read" in told.output


def test_scripts_get_one_value(gw: Gw) -> None:
    oncall = gw.as_("oncall")
    told = oncall.json(*ASK)
    assert told["state"] == "granted"
    assert told["connect"] == "gw psql orders-db --level read"
    grants = oncall.json("grants")
    assert [g["id"] for g in grants] == [told["grant"]["id"]]
    assert {"id", "target", "level", "not_after", "state"} <= set(grants[0])


def test_the_end_of_a_revoked_grant_is_its_revocation(gw: Gw) -> None:
    oncall = gw.as_("oncall")
    grant = oncall.json(*ASK)["grant"]["id"]
    assert "(in " in oncall("grants").output
    assert oncall("revoke", grant).exit_code == 0
    assert "ago)" in oncall("grants").output or "in 0 s" in oncall("grants").output
    assert "min)" not in oncall("grants").output


def test_a_no_says_why_and_what_next(gw: Gw) -> None:
    gw.stage.forbid(Action.CONNECT)
    developer = gw.as_("developer")
    told = developer(*ASK)
    assert told.exit_code == 3
    assert told.stderr.splitlines() == [
        "gw: No policy permits that.",
        "  missing: a permit",
        "  next: Ask the operators.",
    ]
    refused = developer(*ASK, "--json")
    assert refused.exit_code == 3
    assert json.loads(refused.stdout)["code"] == "no-policy"


def test_waiting_for_an_approval(gw: Gw) -> None:
    gw.stage.policy.obligations = Obligations(approvals=1)
    oncall, lead = gw.as_("oncall"), gw.as_("lead")
    asked = oncall(*ASK)
    assert asked.exit_code == 5
    assert "needs 1 approval(s)" in asked.output
    request = oncall.json("requests")[0]["id"]
    assert f"gw approve {request}" in asked.output
    assert oncall("approve", request).exit_code == 3
    assert request in lead("requests", "--pending").output
    done = lead("approve", request, "--note", "go on")
    assert done.exit_code == 0
    assert "Approved: oncall has read on orders-db" in done.output
    assert lead("approve", request).exit_code == 5
    assert lead("approve", "req_none").exit_code == 4


def test_waiting_in_place_until_the_answer(gw: Gw) -> None:
    gw.stage.policy.obligations = Obligations(approvals=1)
    oncall, lead = gw.as_("oncall"), gw.as_("lead")

    def approve_soon() -> None:
        for _ in range(200):
            waiting = lead.json("requests", "--pending")
            if waiting:
                lead("approve", waiting[0]["id"])
                return

    helper = Thread(target=approve_soon)
    told: list[int] = []
    waiter = Thread(target=lambda: told.append(_subprocess(oncall, *ASK, "--wait")))
    waiter.start()
    helper.start()  # CliRunner swaps standard streams, so only one of the two may use it
    helper.join(60)
    waiter.join(60)
    assert told == [0]


def _subprocess(gw: Gw, *args: str) -> int:
    import os
    import subprocess
    import sys

    env = {**os.environ, **{k: v for k, v in gw.env().items() if v}}
    code = "from gateway.edges.cli.main import make_cli; make_cli()()"
    return subprocess.run([sys.executable, "-c", code, *args], env=env, capture_output=True, timeout=60).returncode


def test_a_rejection_is_told(gw: Gw) -> None:
    gw.stage.policy.obligations = Obligations(approvals=1)
    oncall, lead = gw.as_("oncall"), gw.as_("lead")
    oncall(*ASK)
    request = oncall.json("requests")[0]["id"]
    assert lead("reject", request, "--note", "not now").exit_code == 0
    assert oncall.json("requests")[0]["state"] == "rejected"


def test_break_glass_and_its_review(gw: Gw) -> None:
    gw.stage.policy.obligations = Obligations(review=True)
    oncall, lead = gw.as_("oncall"), gw.as_("lead")
    told = oncall("break-glass", "orders-db", "--level", "admin", "--incident", "INC-1042", "--reason", "disk full")
    assert told.exit_code == 0
    assert "somebody else must review" in told.output
    grant = lead.json("review")[0]["grant"]
    assert lead("review", grant).exit_code == 2
    assert oncall("review", grant, "--verdict", "justified", "--note", "mine").exit_code == 3
    signed = lead("review", grant, "--verdict", "justified", "--note", "Read the recording.")
    assert "was justified" in signed.output
    assert "No review is owed." in lead("review").output


def test_revoking(gw: Gw) -> None:
    oncall = gw.as_("oncall")
    grant = oncall.json(*ASK)["grant"]["id"]
    assert "Revoked: read on orders-db of oncall." in oncall("revoke", grant).output
    assert oncall("revoke", grant).exit_code == 5
    assert oncall("revoke", "grt_none").exit_code == 4


def test_extending(gw: Gw) -> None:
    oncall = gw.as_("oncall")
    grant = oncall.json("request", "web-1", "--level", "shell", "--reason", "slow")["grant"]["id"]
    assert "Extended: shell on web-1 until" in oncall("extend", grant, "--for", "2h").output
    assert oncall.json("extend", grant, "--for", "3h")["id"] == grant
    assert oncall("extend", grant, "--for", "1h").exit_code == 3
    assert oncall("extend", "grt_none").exit_code == 4


def test_targets_say_why_not(gw: Gw) -> None:
    gw.stage.policy.permits = lambda q: q.facts.level == "read"
    lines = gw.as_("developer")("targets").output.splitlines()
    assert lines[0].split("\t") == ["TARGET", "KIND", "ENVIRONMENT", "LEVEL", "NOW", "WHY NOT"]
    assert "orders-db\tpostgres\tproduction\tread\tyes\t" in lines
    assert "orders-db\tpostgres\tproduction\tadmin\tno\tNo policy permits that." in lines


def test_text_of_others_cannot_draw_on_the_terminal(gw: Gw, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "\x1b[2Jgone\r\nGRANT\tlead\u202e"
    oncall = gw.as_("oncall")
    told = oncall.json(*ASK)
    shown = [oncall("request", "no\x1b[2Jsuch", "--level", "read", "--reason", "x").output]
    rows = [{**told["request"], "requester": evil, "reason": evil}]
    monkeypatch.setattr("gateway.edges.cli.client.Api.get", lambda *_, **__: rows)
    shown.append(oncall("requests").output)
    assert len(shown[1].splitlines()) == 2
    for text in shown:
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "\\x1b[2J" in text


def test_wrong_use_is_two(gw: Gw) -> None:
    oncall = gw.as_("oncall")
    for args in (
        ("request",), ("request", "orders-db"), ("request", "orders-db", "--level", "read", "--reason", "x", "--for", "soon"),
        ("nonsense",), ("revoke", ".."), ("approve",), ("completion", "tcsh"),
    ):  # fmt: skip
        assert oncall(*args).exit_code == 2, args


def test_paths_cannot_be_left_by_an_id(gw: Gw) -> None:
    for sly in ("../whoami", "a/../../whoami", "a?x=1", "a#b", "%2e%2e"):
        assert gw.as_("oncall")("revoke", sly).exit_code == 4


def test_a_log_that_is_down_is_one(gw: Gw) -> None:
    gw.stage.log.is_down = True
    told = gw.as_("oncall")(*ASK)
    assert told.exit_code == 1
    assert "nothing is released without it" in told.stderr
