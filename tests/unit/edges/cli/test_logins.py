import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from gateway.edges.cli import client
from tests.unit.edges.cli.conftest import Gw
from tests.unit.edges.device import DEVICE

LONG_AGO = "2020-01-01T00:00:00+00:00"


@pytest.fixture
def stored(gw: Gw, monkeypatch: pytest.MonkeyPatch) -> Gw:
    """Signed in with a token in the file, an hour ago."""
    token = gw.as_("oncall").token
    for name, value in gw.env().items():
        if value is not None:
            monkeypatch.setenv(name, value)
    client.store_token(gw.url, token, "2030-01-01T00:00:00+00:00", DEVICE)
    age(gw)
    return gw


def state_of(gw: Gw) -> dict[str, str]:
    return dict(json.loads((gw.home / "credentials.json").read_text()))


def age(gw: Gw) -> None:
    (gw.home / "credentials.json").write_text(json.dumps({**state_of(gw), "rotate_at": LONG_AGO}))


def test_a_token_is_renewed_in_passing(stored: Gw) -> None:
    before = state_of(stored)["token"]
    assert stored("whoami").exit_code == 0
    after = state_of(stored)
    assert after["token"] != before
    assert after["rotate_at"] > LONG_AGO
    assert stored("whoami").exit_code == 0
    assert state_of(stored)["token"] == after["token"]  # not at every command


def test_commands_side_by_side_do_not_take_each_other_for_thieves(stored: Gw) -> None:
    def renewed(_: int) -> str:
        return client.renewed_token(stored.url, client.stored_token(stored.url))

    with ThreadPoolExecutor(8) as threads:
        tokens = set(threads.map(renewed, range(16)))
    assert len(tokens) == 1
    assert stored("whoami").exit_code == 0


def test_a_token_of_the_environment_is_the_scripts_own(stored: Gw) -> None:
    script = replace(stored, token=stored.as_("oncall").token)  # of the same device
    assert script("whoami").exit_code == 0
    assert state_of(stored)["rotate_at"] == LONG_AGO


def test_what_cannot_be_renewed_now_is_used_as_it_is(stored: Gw) -> None:
    assert client.renewed_token("http://127.0.0.1:9", "gwc_old") == "gwc_old"


def test_sign_ins_are_listed_and_ended(gw: Gw) -> None:
    mine, other = gw.as_("oncall"), gw.as_("oncall")
    assert [each["current"] for each in mine.json("logins")].count(True) == 1
    assert "this one" in mine("logins").output
    there = next(each["id"] for each in mine.json("logins") if not each["current"])
    assert mine("logins", "revoke", there).output == f"{there} is over.\n"
    assert other("whoami").exit_code == 3
    assert mine.json("logins", "revoke", there)["code"] == "unknown-sign-in"


def test_tokens_for_machines(gw: Gw) -> None:
    lead = gw.as_("lead")
    made = lead("token", "create", "siem", "--scope", "audit:read", "--expires", "90d")
    assert made.exit_code == 0
    assert made.stdout.startswith("gwa_")
    assert made.stdout.count("\n") == 1  # the secret alone, for a file
    assert "siem" in lead("token", "list").output
    assert made.stdout.strip() not in lead("token", "list").output
    assert lead.json("token", "list")[0]["scopes"] == ["audit:read"]
    assert lead("token", "create", "siem", "--scope", "audit:read", "--expires", "90d").exit_code == 5
    assert lead("token", "create", "other", "--scope", "audit:read", "--expires", "91d").exit_code == 3
    assert lead("token", "create", "other", "--scope", "audit:read").exit_code == 2
    assert lead("token", "revoke", "siem").output == "siem is revoked.\n"
    assert lead.json("token", "revoke", "siem")["code"] == "unknown-token"
