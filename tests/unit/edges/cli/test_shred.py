"""`gw session shred` against the API, and what an export of the log proves of it afterwards."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.adapters.event_log import EventLogReader, Sequencer
from gateway.adapters.recordings import FileRecorder, StatementIndex
from gateway.adapters.signer import Signer
from gateway.core.decision import Action
from gateway.edges.http.app import DoorFacts
from tests.unit.adapters.recordings.stage import keyring
from tests.unit.app.shredding_process import ID, WHY, record
from tests.unit.edges.cli.conftest import DOOR_KEY, Gw
from tests.unit.edges.stage import Stage


@pytest.fixture
def gw(
    stage: Stage, serve: Callable[[DoorFacts], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Gw]:
    url = f"sqlite:///{stage.database}"
    signer = Signer(tmp_path / "log.key")
    monkeypatch.setenv("GW_AUDIT_KEY", signer.verifier("test/log").text())
    sequencer = Sequencer(url, signer, "test/log", "stage", stage.clock.now)
    sequencer.start()
    index = StatementIndex(tmp_path / "recordings" / "statements.sqlite")
    recorder = FileRecorder(tmp_path / "recordings", "stage", keyring(tmp_path), index=index)
    log = EventLogReader(url, sequencer)
    stage.ctx = replace(stage.ctx, recorder=recorder, log=log)
    doors = DoorFacts("127.0.0.1", 2222, DOOR_KEY, "127.0.0.1", 5433, "CA\n", "vkey")
    yield Gw(serve(doors), tmp_path / "home", stage)
    recorder.close()
    index.close()
    sequencer.stop()
    log.close()


def ended(gw: Gw) -> None:
    """A session is over, and the log knows how."""
    recorder = gw.stage.ctx.recorder
    assert isinstance(recorder, FileRecorder)
    record(gw.stage.ctx, recorder)


def test_it_is_shredded_once_and_told_with_its_event(gw: Gw):
    ended(gw)
    security, auditor = gw.as_("security"), gw.as_("auditor")
    assert security("session", "shred", ID).exit_code == 2, "a reason is needed"
    blank = security("session", "shred", ID, "--reason", " ")
    assert (blank.exit_code, "Say why" in blank.stderr) == (5, True)
    done = security.json("session", "shred", ID, "--reason", WHY)
    assert done["session"] == ID
    order = auditor.json("audit", "show", done["order"])
    assert (order["type"], order["outcome"], order["data"]["reason"]) == ("session:shredded", "attempt", WHY)
    told = auditor("session", "replay", ID)
    assert told.exit_code == 5
    assert f"was shredded by security at {order['at'][:19]}" in told.stderr
    assert f"event {order['index']}: {WHY}." in told.stderr
    again = security("session", "shred", ID, "--reason", WHY)
    assert (again.exit_code, "was shredded by security" in again.stderr) == (5, True)
    assert auditor.json("session", "replay", ID)["code"] == "recording-shredded"


def test_who_may_not_destroys_nothing(gw: Gw):
    ended(gw)
    gw.stage.forbid(Action.SHRED)
    no = gw.as_("auditor")("session", "shred", ID, "--reason", WHY)
    assert (no.exit_code, "No policy permits that" in no.stderr) == (3, True)
    assert gw.as_("auditor")("session", "shred", "ses_404", "--reason", WHY).exit_code == 4


def test_ones_own_copy_of_the_log_tells_a_shredding_from_a_loss(gw: Gw, tmp_path: Path):
    ended(gw)
    auditor, before, after = gw.as_("auditor"), str(tmp_path / "before"), str(tmp_path / "after")
    assert auditor("audit", "export", before).exit_code == 0
    assert "of your copy of the log" in auditor("session", "replay", ID, "--log", before).stderr

    key = tmp_path / "recordings" / "keys" / f"{ID}.key"
    kept = key.read_bytes()
    key.unlink()
    lost = auditor("session", "replay", ID, "--log", before)
    assert lost.exit_code == 5
    assert "its key is not there. No event of the log says that it was shredded." in lost.stderr
    assert "Your copy of the log has no event that says so." in lost.stderr

    key.write_bytes(kept)
    order = gw.as_("security").json("session", "shred", ID, "--reason", WHY)["order"]
    assert "Your copy of the log has no event that says so." in auditor("session", "replay", ID, "--log", before).stderr
    assert auditor("audit", "export", after).exit_code == 0
    place = auditor.json("audit", "show", order)["index"]
    told = auditor("session", "replay", ID, "--log", after)
    assert told.exit_code == 5
    assert f"event {place}: {WHY}. That is what your copy of the log says." in told.stderr
