"""A deploy token is no ticket: both doors refuse it, and say what it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app.exchange_token import exchange_token
from gateway.app.open_session import user_of_ticket
from gateway.app.ssh_sign_in import ticket_holder
from gateway.core.deploy_token import LONGEST_TOKEN
from gateway.core.errors import Denied, Refusal
from gateway.core.target import Kind
from gateway.edges.proxy.ssh_server import LONGEST_TICKET
from gateway.wire.postgres_machine import MAX_PASSWORD
from tests.pipelines import Pipelines, pipelines

SAID = "A deploy token can only run deploy verbs. It opens no session, no door and no route for people."


@pytest.fixture
def ci(tmp_path: Path) -> Iterator[Pipelines]:
    with pipelines(tmp_path) as made:
        yield made


@pytest.mark.parametrize("door", list(Kind))
def test_as_password_at_a_door(ci: Pipelines, door: Kind):
    ci.stage.user("oncall")
    token = exchange_token(ci.stage.ctx, ci.github.github()).token
    with pytest.raises(Denied) as no:
        user_of_ticket(ci.stage.ctx, "oncall", token, "web-1", door)
    assert (no.value.refusal.code, no.value.refusal.message) == ("deploy-token-misplaced", SAID)
    assert ("session:denied", "denied") in ci.stage.events()
    assert token not in ci.stage.dump()


def test_the_ssh_door_says_so(ci: Pipelines):
    token = exchange_token(ci.stage.ctx, ci.github.github()).token
    no = ticket_holder(ci.stage.ctx, "oncall%web-1", token, "192.0.2.7:50000")
    assert isinstance(no, Refusal)
    assert no.message == SAID


def test_the_longest_one_is_read_far_enough_to_be_told():
    assert LONGEST_TOKEN <= LONGEST_TICKET
    assert LONGEST_TOKEN + 6 <= MAX_PASSWORD  # type, length and the final zero of a PasswordMessage
