"""A mistake of ours in a level's rules or masks, as a real client hears of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gateway.core.session import EndReason
from gateway.core.target import Target
from tests.e2e.masked_stage import MaskedStage, masked_database
from tests.e2e.postgres_stage import door_tls, leased, running_door
from tests.servers import PostgresServer

SAYS = EndReason.GATEWAY_FAULT.sentence()


def mistaken(*_: object) -> Any:
    raise IndexError("hunter2")


@pytest.fixture(scope="module")
def target(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with masked_database(postgres_server, tmp_path_factory.mktemp("target")) as made:
        yield made


@pytest.fixture
def stage(target: Target, tmp_path: Path) -> Iterator[MaskedStage]:
    context, ca = door_tls(tmp_path / "tls")
    with leased(target) as login, running_door(MaskedStage(target, login, ca), context) as running:
        assert isinstance(running, MaskedStage)
        yield running


@pytest.mark.parametrize("place", ["postgres_guarded.judge", "postgres_masked.judge_masked"])
def test_while_a_statement_is_judged(stage: MaskedStage, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage.connect() as session:
        session.execute("SELECT 1")
        monkeypatch.setattr(f"gateway.edges.proxy.{place}", mistaken)
        with pytest.raises(psycopg.errors.SystemError, match=SAYS) as no:
            session.execute("SELECT city FROM customers")
        assert "hunter2" not in str(no.value)
        assert session.closed
    assert stage.end_of() is EndReason.GATEWAY_FAULT


def test_while_an_answer_is_masked(stage: MaskedStage, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage.connect() as session:
        monkeypatch.setattr("gateway.core.masking.Relation.mask_of", mistaken)
        with pytest.raises(psycopg.errors.SystemError, match=SAYS):
            session.execute("SELECT email FROM customers")
    assert stage.end_of() is EndReason.GATEWAY_FAULT


def test_before_a_session_begins(stage: MaskedStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.edges.proxy.postgres.learn", mistaken)
    with pytest.raises(psycopg.OperationalError, match=SAYS):
        stage.connect()
    assert stage.end_of() is EndReason.GATEWAY_FAULT
