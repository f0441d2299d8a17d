"""`gw session commit`: what is held is shown before anything is answered."""

from datetime import timedelta

import pytest
from click.testing import CliRunner, Result

from gateway.app.commit_ports import Asking
from gateway.app.hold_commit import ask_commit
from gateway.core.dry_run import Confirm
from gateway.core.session import Protocol, Session
from gateway.core.session_settings import OTHERS
from gateway.core.written import Under, Write
from gateway.edges.cli.main import make_cli
from tests.unit.edges.cli.conftest import Gw

SQL = "UPDATE orders -- all\x0b\r\n\n\n\n  SET note = 'a  b\x1b[2J \n\n\\x1b'\rWHERE x"
WRITES = (Write(SQL, "d1", "UPDATE 7"), Write("SELECT f()", "d2", ""))
UNDER = (
    Under(1, (("current_user", "orders_write"), ("search_path", "public"))),
    Under(3, (("current_user", "orders_write"), ("search_path", "a\x1b[2J,\n b"))),
    Under(
        4, (("app.tenant", "(unset)"), ("app.who", " it's\\n  "), ("search_path", "unset"), (OTHERS, "are not known"))
    ),
)
ASKING = Asking(1, "m1", Confirm.APPROVER, 3, 7, WRITES, UNDER, 5)


@pytest.fixture
def held(gw: Gw) -> Gw:
    """Session ses_1 of oncall, whose COMMIT waits."""
    asked = gw.as_("oncall").json("request", "orders-db", "--level", "read", "--reason", "slow")
    stage = gw.stage
    with stage.ctx.store.begin() as uow:
        grant = uow.grants.get(asked["grant"]["id"])
        assert grant is not None
        session = Session(
            "ses_1", grant.id, grant.holder, "oncall", "orders-db", "read", Protocol.POSTGRES, "127.0.0.1:1", "stage",
            stage.clock.now(), stage.clock.now() + timedelta(hours=1),
        )  # fmt: skip
        uow.sessions.add(session)
    ask_commit(stage.ctx, session, ASKING)
    return gw


def typed(gw: Gw, said: str, *args: str) -> Result:
    return CliRunner().invoke(make_cli(), ["session", "commit", "ses_1", *args], env=gw.env(), input=said)


def test_it_is_shown_and_then_asked(held: Gw) -> None:
    lead = held.as_("lead")
    no = typed(lead, "n\n")
    assert no.exit_code == 1
    assert "Nothing was answered." in no.output
    assert lead.json("session", "commit", "ses_1")["state"] == "waiting"
    yes = typed(lead, "y\n", "--reason", "looked")
    assert yes.exit_code == 0, yes.output
    assert "ses_1, oncall on orders-db (read)" in yes.stdout
    assert "3 statements, 7 rows" in yes.stdout
    assert (
        "UPDATE 7\tUPDATE orders -- all\\x0b\\r\\n\n"
        "| 3 times\t\n"
        "|\t  SET note = 'a \\x20b\\x1b[2J\\x20\n"
        "|\t\n"
        "|\t\\\\x1b'\\r\n"
        "|\tWHERE x\n"
    ) in yes.stdout
    assert "?\tSELECT f()" in yes.stdout
    assert "1\tcurrent_user\t'orders_write'\n1\tsearch_path\t'public'\n" in yes.stdout
    assert "3\tsearch_path\t'a\\x1b[2J,\\n b'\n" in yes.stdout
    assert (
        "COMMIT\t(others)\tare not known\n"
        "COMMIT\tapp.tenant\t'(unset)'\n"
        "COMMIT\tapp.who\t' it\\'s\\\\n\\x20\\x20'\n"
        "COMMIT\tcurrent_user\tunset\n"
        "COMMIT\tsearch_path\t'unset'\n"
    ) in yes.stdout
    assert "they changed 2 more times, which is in the recording" in yes.stdout
    assert "and 1 more" in yes.stdout
    assert "the next COMMIT in the session goes through" in yes.stdout
    told = lead.json("session", "commit", "ses_1")
    assert (told["state"], told["decided_by"], told["reason"]) == ("confirmed", "lead", "looked")


def test_a_yes_says_which_other_gateway_has_to_carry_it_out(held: Gw) -> None:
    stage = held.stage
    lead = held.as_("lead")
    assert lead.json("session", "commit", "ses_1")["heard_seconds_ago"] is None
    object.__setattr__(stage.ctx, "gateway", "this")
    with stage.ctx.store.begin() as uow:
        uow.gateways.beat("stage", stage.clock.now() - timedelta(seconds=4))
    assert lead.json("session", "commit", "ses_1")["gateway"] == "stage"
    yes = lead("session", "commit", "ses_1", "--mark", "m1")
    assert "Confirmed: it waits for gateway stage, last heard 4 s ago; COMMIT goes through there." in yes.stdout


def test_an_answer_without_a_question_needs_the_mark(held: Gw) -> None:
    lead = held.as_("lead")
    assert held.as_("oncall")("session", "commit", "ses_1", "--mark", "m1").exit_code == 3
    assert lead("session", "commit", "ses_1", "--mark", "m0").exit_code == 5
    assert lead("session", "commit", "ses_none", "--mark", "m1").exit_code == 4
    told = lead.json("session", "commit", "ses_1", "--mark", "m1", "--reason", "ok")
    assert told["state"] == "confirmed"


def test_a_no(held: Gw) -> None:
    no = typed(held.as_("oncall"), "y\n", "--refuse", "--reason", "wrong rows")
    assert "only ROLLBACK is left" in no.stdout
    again = typed(held.as_("lead"), "y\n")
    assert again.exit_code == 1
    assert "oncall has refused it already" in again.output
