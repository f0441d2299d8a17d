"""`gw audit` against a served API over a real log, and an operator who tampers with the database behind it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from gateway.adapters.event_log import EventLogReader, Sequencer
from gateway.adapters.signer import Signer
from gateway.app.journal import confirm_logged, record
from gateway.audit.proof import verify_receipt
from gateway.audit.report import Report
from gateway.core.decision import Action
from gateway.edges.cli.audit import _cosigned as cosigned
from gateway.edges.http.app import DoorFacts
from tests.unit.edges.cli.conftest import DOOR_KEY, Gw
from tests.unit.edges.stage import Stage

ORIGIN = "gw.test/audit"


@dataclass
class Audited:
    """The auditor's `gw`, the pinned key, and the hands of somebody with the database."""

    gw: Gw
    signer: Signer
    sequencer: Sequencer
    url: str

    @property
    def key(self) -> str:
        return self.signer.verifier(ORIGIN).text()

    def record(self, count: int) -> list[str]:
        ctx = self.gw.stage.ctx
        about = {"principal": "oncall", "target": "orders-db"}
        ids = [record(ctx, "grant:issued", data={"n": n}, **about) for n in range(count)]
        confirm_logged(ctx, *ids)
        return ids

    def tamper(self, *statements: str) -> None:
        engine = create_engine(self.url)
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()


@pytest.fixture
def audited(serve: Callable[[DoorFacts], str], stage: Stage, tmp_path: Path) -> Iterator[Audited]:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    url = f"sqlite:///{stage.database}"
    signer = Signer(keys / "log.key")
    sequencer = Sequencer(url, signer, ORIGIN, "stage")
    log = EventLogReader(url, sequencer)
    sequencer.start()
    stage.ctx = replace(stage.ctx, log=log)
    doors = DoorFacts("127.0.0.1", 2222, DOOR_KEY, "127.0.0.1", 5433, "CA\n", signer.verifier(ORIGIN).text())
    yield Audited(Gw(serve(doors), tmp_path / "home", stage).as_("auditor"), signer, sequencer, url)
    log.close()
    sequencer.stop()


def test_whoever_writes_names_commands_no_terminal(audited: Audited):
    forged = "on\x1b[2Jcall\r\n9 now grant:issued \x9b31m\u202e"
    ctx = audited.gw.stage.ctx
    event = record(ctx, "grant:issued", data={"path": forged}, principal=forged, target=f"{forged}-db")
    confirm_logged(ctx, event)
    shown = r"on\x1b[2Jcall\r\n9 now grant:issued \x9b31m\u202e"
    for args in (["search", "--type", "grant:issued"], ["show", event]):
        for as_json in ([], ["--json"]):
            output = audited.gw("audit", *args, *as_json).output
            assert set("\x1b\r\x9b\u202e").isdisjoint(output)
            assert shown in output or as_json
            assert not any(line.startswith("9 now") for line in output.splitlines())
    assert audited.gw.json("audit", "show", event)["principal"] == forged  # shown harmlessly, and kept as it is


def test_search_and_show(audited: Audited):
    ids = audited.record(3)
    found = audited.gw.json("audit", "search", "--target", "orders-db", "--since", "1h", "--limit", "2")
    assert [event["id"] for event in found] == ids[:0:-1]
    told = audited.gw("audit", "search", "--user", "oncall", "--type", "grant")
    assert all(event in told.output for event in ids)
    shown = audited.gw("audit", "show", ids[1])
    assert '{"n": 1}' in shown.output
    assert audited.gw("audit", "search", "--text", "audit:searched").output.count("audit:searched") == 4  # itself too
    assert audited.gw("audit", "show", "evt_none").exit_code == 4
    assert audited.gw("audit", "search", "--since", "yesterday").exit_code == 2
    assert "No event matches." in audited.gw("audit", "search", "--until", "2001-01-01").output


def test_nothing_is_hidden_from_a_search_of_ones_own_copy(audited: Audited, tmp_path: Path):
    """Somebody with the database makes a search miss an event, and the log verifies as before."""
    ids = audited.record(300)
    audited.tamper(f"UPDATE event SET principal = 'nobody', type = 'x', at = 0 WHERE id = '{ids[7]}'")
    export = str(tmp_path / "log")
    assert audited.gw("audit", "export", export).exit_code == 0
    query = ["audit", "search", "--user", "oncall", "--limit", "1000", "--since", "1d"]
    told = {event["id"] for event in audited.gw.json(*query)}
    proved = audited.gw.json(*query, "--log", export, "--key", audited.key)
    assert {event["id"] for event in proved} - told == {ids[7]}
    assert [event["index"] for event in proved] == sorted((event["index"] for event in proved), reverse=True)
    assert {"index", "id", "at", "type", "source", "outcome", "principal", "target", "data"} <= proved[0].keys()
    for args in (["--text", proved[5]["id"]], ["--type", "other"], ["--until", "1d"], ["--session", "ses_none"]):
        assert audited.gw.json(*query[:4], *args, "--log", export, "--key", audited.key) == [], args
    newest = audited.gw.json(
        *query[:4], "--limit", "1", "--type", proved[0]["type"].partition(":")[0], "--log", export, "--key", audited.key
    )
    assert [event["id"] for event in newest] == [proved[0]["id"]]
    assert audited.gw(*query, "--log", export).exit_code == 2, "a key is needed"
    bundle = next((tmp_path / "log" / "tile" / "entries").rglob("*.p/*"))
    bundle.write_bytes(bundle.read_bytes().replace(b'"oncall"', b'"nobody"', 1))
    assert audited.gw(*query, "--log", export, "--key", audited.key).exit_code == 1


def test_who_may_not_audit_is_told_so(audited: Audited):
    (event,) = audited.record(1)
    audited.gw.stage.forbid(Action.AUDIT)
    for args in (["search"], ["show", event], ["receipt", event], ["verify", "--key", audited.key], ["export", "log"]):
        assert audited.gw("audit", *args).exit_code == 3, args


def test_verification_needs_a_pinned_key(audited: Audited):
    told = audited.gw("audit", "verify")
    assert told.exit_code == 2
    assert "GW_AUDIT_KEY" in told.stderr
    assert audited.gw("audit", "verify", "--key", audited.key[:-8]).exit_code == 2


def test_verify_over_the_api_and_again(audited: Audited):
    audited.record(300)
    first = audited.gw.json("audit", "verify", "--key", audited.key)
    assert first["verified"]
    assert first["size"] >= 300
    audited.record(3)
    told = audited.gw("audit", "verify", GW_AUDIT_KEY=audited.key)
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("Verified: ")
    assert "The newest is of " in told.stdout
    kept = sorted((audited.gw.home / "audit").iterdir())
    assert [path.suffix for path in kept] == [".checkpoint", ".entries"]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in kept)


def test_a_key_of_somebody_else_does_not_verify(audited: Audited, tmp_path: Path):
    audited.record(1)
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    told = audited.gw.json("audit", "verify", "--key", Signer(other / "log.key").verifier(ORIGIN).text())
    assert not told["verified"]
    assert told["first"]["fault"] == "checkpoint"


def test_tampering_is_named_over_the_api(audited: Audited):
    ids = audited.record(5)
    assert audited.gw("audit", "verify", "--key", audited.key).exit_code == 0
    where = audited.gw.json("audit", "show", ids[2])["index"]
    audited.tamper(f"UPDATE event SET leaf = replace(leaf, '\"oncall\"', '\"nobody\"') WHERE id = '{ids[2]}'")
    told = audited.gw("audit", "verify", "--key", audited.key)
    assert told.exit_code == 1
    assert f"changed: Event {where} ({ids[2]})" in told.stderr
    assert "NOT verified" in told.stderr
    answer = audited.gw("audit", "verify", "--key", audited.key, "--json")
    assert answer.exit_code == 1
    assert json.loads(answer.stdout)["first"] | {"sentence": ""} == {
        "fault": "changed", "index": where, "event": ids[2], "sentence": "",
    }  # fmt: skip


def test_a_rollback_is_found_by_what_was_verified_before(audited: Audited, tmp_path: Path):
    audited.record(5)
    export = tmp_path / "log"
    assert audited.gw("audit", "export", str(export)).exit_code == 0
    assert audited.gw("audit", "verify", "--key", audited.key, "--dir", str(export)).exit_code == 0
    audited.record(5)
    assert audited.gw("audit", "verify", "--key", audited.key).exit_code == 0
    told = audited.gw.json("audit", "verify", "--key", audited.key, "--dir", str(export))
    assert not told["verified"]
    assert told["first"]["fault"] == "rollback"
    assert told["first"]["event"].startswith("evt_")
    assert audited.gw("audit", "verify", "--key", audited.key, "--dir", str(export), "--fresh").exit_code == 0


def test_what_is_no_file_in_an_export_is_no_file_of_the_log(audited: Audited, tmp_path: Path):
    """A pipe would be waited for, and whatever a device says be read."""
    audited.record(1)
    export = tmp_path / "log"
    assert audited.gw("audit", "export", str(export)).exit_code == 0
    (bundle,) = (export / "tile" / "entries").rglob("*.p/*")
    bundle.unlink()
    for make in (os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")):
        make(bundle)
        told = audited.gw("audit", "verify", "--key", audited.key, "--dir", str(export), "--fresh")
        assert told.exit_code == 1
        assert "cut: Event 0" in told.stderr
        bundle.rmdir() if bundle.is_dir() else bundle.unlink()


def test_a_damaged_memory_is_not_passed_over(audited: Audited):
    audited.record(1)
    assert audited.gw("audit", "verify", "--key", audited.key).exit_code == 0
    (entries,) = (audited.gw.home / "audit").glob("*.entries")
    entries.write_text("?\n")
    told = audited.gw("audit", "verify", "--key", audited.key)
    assert told.exit_code == 1
    assert "--fresh" in told.stderr


def test_a_witness_that_has_not_cosigned(audited: Audited):
    audited.record(1)
    witness = "w.example/w1+54178027+BIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU"
    told = audited.gw("audit", "verify", "--key", audited.key, "--witness", witness)
    assert told.exit_code == 1
    assert "w.example/w1 has not cosigned" in told.stderr


def test_a_witness_may_say_any_time():
    told = cosigned(Report((), witnesses=(("w.example/w1", 0), ("w.example/w2", 2**64 - 1))))
    assert "w.example/w1 (1970-01-01" in told
    assert "w.example/w2 (at 18446744073709551615)" in told


def test_receipts(audited: Audited, tmp_path: Path):
    (event,) = audited.record(1)
    file = tmp_path / "one.tlog-proof"
    assert audited.gw("audit", "receipt", event, "--out", str(file), "--key", audited.key).exit_code == 0
    assert verify_receipt(file.read_text(), audited.signer.verifier(ORIGIN)).event["id"] == event
    told = audited.gw.json("audit", "receipt", event, "--key", audited.key)
    assert told["verified"]
    assert verify_receipt(told["receipt"], audited.signer.verifier(ORIGIN)).event["id"] == event
    assert audited.gw("audit", "receipt", event).stdout.startswith("c2sp.org/tlog-proof@v1\n")
    assert audited.gw("audit", "verify", "--key", audited.key, "--receipt", str(file)).exit_code == 0
    assert audited.gw("audit", "receipt", "evt_none").exit_code == 4


def test_a_receipt_that_is_none_commands_no_terminal(audited: Audited, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway.edges.cli.audit._receipt", lambda _: "c2sp\n\x1b]52;c;ZXZpbA==\a\x9b2J\u2014 x\n")
    told = audited.gw("audit", "receipt", "evt_1")
    assert told.stdout == "c2sp\n\\x1b]52;c;ZXZpbA==\\x07\\x9b2J\u2014 x\n"


def test_an_auditor_with_the_folder_alone(audited: Audited, tmp_path: Path):
    audited.record(3)
    export, alone = tmp_path / "log", tmp_path / "alone"
    assert audited.gw("audit", "export", str(export)).exit_code == 0
    shutil.copytree(Path(__file__).parents[4] / "gateway" / "audit", alone / "gateway" / "audit")

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "gateway.audit", str(export), "--key", audited.key]
        return subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(alone)}, timeout=60)

    good = run()
    assert good.returncode == 0, good.stderr
    assert "verified" in good.stdout
    bundle = next((export / "tile" / "entries").rglob("*.p/*"))
    bundle.write_bytes(bundle.read_bytes().replace(b'"oncall"', b'"nobody"', 1))
    bad = run()
    assert bad.returncode == 1
    assert bad.stdout.startswith("changed: Event ")
