from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from gateway.edges.http.kept_krl import KEPT_FOR
from gateway.edges.http.routes_sessions import MOST_CHARACTERS, _first_lines
from gateway.edges.web.player import MOST_LINES
from tests.unit.edges.stage import Stage


def test_the_revocation_list_is_made_every_few_seconds_whoever_asks(client: TestClient, stage: Stage) -> None:
    first = client.get("/api/ssh/krl").content
    assert first.startswith(b"SSHKRL")
    stage.clock.advance(KEPT_FOR - timedelta(seconds=1))
    assert client.get("/api/ssh/krl").content == first
    stage.clock.advance(timedelta(seconds=1))
    assert client.get("/api/ssh/krl").content != first


@pytest.mark.parametrize("length", [MOST_CHARACTERS // 3, MOST_CHARACTERS * 2])
def test_a_page_holds_so_many_characters(length: int) -> None:
    shown = _first_lines(iter(["x" * length] * 1000), "ses_1")
    assert sum(map(len, shown[:-1])) == MOST_CHARACTERS
    assert shown[-1] == "… there is more: gw session replay ses_1"


def test_a_page_that_fits_is_whole() -> None:
    lines = ["x" * (MOST_CHARACTERS // 2)] * 2
    assert _first_lines(iter(lines), "ses_1") == lines
    assert len(_first_lines(iter(["x"] * 9999), "ses_1")) == MOST_LINES + 1
