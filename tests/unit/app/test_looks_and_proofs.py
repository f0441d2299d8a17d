"""`@step_up("webauthn-each")` on watching and replaying: a list asks policy, uses no proof up and is no look."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.adapters.postgres_parser import PostgresParser
from gateway.adapters.sealed_secrets import SealedSecrets
from gateway.app.end_session import end_session
from gateway.app.list_access import grants, requests, sessions
from gateway.app.replay_session import replay, use_proof, watch
from gateway.app.running_statements import RunningStatements, shown_statements
from gateway.app.show_access import show_session
from gateway.core.errors import Denied, NotFound
from gateway.core.principal import User
from gateway.core.session import EndReason
from gateway.edges.http.routes_sessions import cast, replay_in_browser
from tests.unit.app.house import House
from tests.unit.app.test_main_job import READ, SHELL, granted, opened
from tests.unit.app.test_running_statements import SLOW
from tests.unit.app.test_step_up import demand

WATCH, REPLAY = '@id("auditors-and-leads-watch")', '@id("auditors-and-leads-replay")'
EACH = '@step_up("webauthn-each")'


def listed(house: House, user: User) -> list[list[object]]:
    return [list(each(house.ctx, user, all=True)) for each in (grants, requests, sessions)]


def texts(house: House, user: User) -> list[str]:
    return [told.sql for told in shown_statements(house.ctx, user, sessions(house.ctx, user, all=True)).values()]


@pytest.fixture
def running(house: House, tmp_path: Path) -> Callable[[str], str]:
    """A session of oncall in which a statement runs, under a duty for who watches; its id."""

    def begin(duty: str) -> str:
        house.ctx = replace(house.ctx, sealer=SealedSecrets(tmp_path / "tokens.key"), reader=PostgresParser())
        demand(house, tmp_path, "audit.cedar", WATCH, duty)
        session, held = opened(house, granted(house, READ))
        held.runs = SLOW
        RunningStatements().tick(house.ctx)
        return session.session.id

    return begin


def test_a_list_shows_others_with_the_proof_alone_and_leaves_it(house: House, running: Callable[[str], str]):
    session, person = running(EACH), house.proved("auditor")
    assert listed(house, house.people["auditor"]) == [[], [], []]
    for _ in range(2):
        assert [len(found) for found in listed(house, person)] == [1, 1, 1]
        assert show_session(house.ctx, person, session).id == session
    watch(house.ctx, person, session)
    assert listed(house, person) == [[], [], []]
    with pytest.raises(NotFound):
        show_session(house.ctx, person, session)
    assert all(len(found) == 1 for found in listed(house, house.people["oncall"]))  # one's own


def test_what_runs_is_no_list(house: House, running: Callable[[str], str]):
    running(EACH)
    assert texts(house, house.proved("auditor")) == [""]
    assert not house.events("statement:shown")
    assert texts(house, house.people["oncall"]) == [SLOW.sql.decode()]


def test_under_a_proof_that_lasts_what_runs_is_shown(house: House, running: Callable[[str], str]):
    running('@step_up("webauthn")')
    person = house.proved("auditor")
    assert texts(house, person) == texts(house, person) == [SLOW.sql.decode()]
    assert len(house.events("statement:shown")) == 2
    assert texts(house, house.people["auditor"]) == []


def recorded(house: House, *, is_terminal: bool) -> str:
    session = opened(house, granted(house, SHELL))[0]
    at = house.clock.now()
    if is_terminal:
        size = {"channel": 1, "term": "xterm", "columns": 80, "rows": 24}
        session.recording.append("channel", at, json.dumps(size).encode())
    session.recording.append("command", at, json.dumps({"channel": 1, "command": "ls"}).encode())
    end_session(house.ctx, session.session, session.recording, EndReason.CLIENT_CLOSED)
    return session.session.id


def test_a_page_with_the_player_leaves_the_proof_to_what_it_plays(house: House, tmp_path: Path):
    session = recorded(house, is_terminal=True)
    demand(house, tmp_path, "audit.cedar", REPLAY, EACH)
    person = house.proved("auditor")
    page = replay_in_browser(house.ctx, person, session)
    assert b"data-cast" in page.body
    assert cast(house.ctx, person, session).status_code == 200
    for again in (cast, replay_in_browser):
        with pytest.raises(Denied):
            again(house.ctx, person, session)
    with pytest.raises(Denied):
        replay_in_browser(house.ctx, house.people["auditor"], session)


def test_a_page_that_shows_what_was_recorded_uses_the_proof_up(house: House, tmp_path: Path):
    session = recorded(house, is_terminal=False)
    demand(house, tmp_path, "audit.cedar", REPLAY, EACH)
    person = house.proved("auditor")
    assert b"ls" in replay_in_browser(house.ctx, person, session).body
    with pytest.raises(Denied):
        replay_in_browser(house.ctx, person, session)


def test_a_proof_that_somebody_was_faster_to_use_shows_nothing(house: House, tmp_path: Path):
    session = recorded(house, is_terminal=False)
    demand(house, tmp_path, "audit.cedar", REPLAY, EACH)
    person = house.proved("auditor")
    found = replay(house.ctx, person, session, spends=False)
    assert replay(house.ctx, person, session).count == found.count
    with pytest.raises(Denied):
        use_proof(house.ctx, person, found.session)
