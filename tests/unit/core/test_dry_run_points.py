"""Dry-run: what a ROLLBACK TO undoes is said, whatever savepoints are called."""

import pytest

from gateway.core import dry_run_points
from gateway.core.dry_run import Ledger
from tests.unit.core.test_dry_run import text

INSERT = "INSERT INTO t VALUES (1)"
UNKNOWN = "undoes what is not known here"


def undone(*rounds: str, failed: str = "") -> list[str]:
    ledger = Ledger()
    for each in ("BEGIN", *rounds):
        ledger.query(text(each))
        ledger.ready(b"T", has_failed=each == failed)
        ledger.told(())
    return [w.sql[1:].partition(")")[0] for w in ledger.written.shown if "ROLLBACK TO" in w.sql]


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        (["SAVEPOINT s", INSERT, "ROLLBACK TO s"], ["undoes 1 to 1"]),
        ([INSERT, "SAVEPOINT s", INSERT, INSERT, 'ROLLBACK TO "s"'], ["undoes 2 to 3"]),
        (["SAVEPOINT s", INSERT, "SAVEPOINT s", "ROLLBACK TO s"], ["undoes nothing"]),
        (["SAVEPOINT s", INSERT, "SAVEPOINT s", "RELEASE s", "ROLLBACK TO s"], ["undoes 1 to 1"]),
        (
            ["SAVEPOINT s", INSERT, "SAVEPOINT b", INSERT, "ROLLBACK TO b", "ROLLBACK TO s"],
            ["undoes 2 to 2", "undoes 1 to 3"],
        ),
        (["SAVEPOINT a", "SAVEPOINT b", INSERT, "RELEASE a", "ROLLBACK TO b"], [UNKNOWN]),
        ([f"SAVEPOINT s; {INSERT}; ROLLBACK TO s"], ["undoes 1 to 1"]),
        ([INSERT, "ROLLBACK AND CHAIN", INSERT, "ROLLBACK TO s"], [UNKNOWN]),
    ],
)
def test_what_is_undone(rounds: list[str], said: list[str]) -> None:
    assert undone(*rounds) == said


def test_of_a_round_that_failed_nobody_knows() -> None:
    both = f"SAVEPOINT s; {INSERT}"
    assert undone("SAVEPOINT s", both, "ROLLBACK TO s", failed=both) == [UNKNOWN]
    assert undone("SAVEPOINT s", INSERT, "ROLLBACK TO s", failed=INSERT) == ["undoes 1 to 1"]


def test_of_a_name_that_may_be_either_nobody_knows() -> None:
    ledger = Ledger()
    ledger.query(text(f"BEGIN; {INSERT}"))
    ledger.run([text("SAVEPOINT s"), text("RELEASE s")])
    ledger.run([text("ROLLBACK TO s")])
    ledger.ready(b"T", has_failed=False)
    assert ledger.written.shown[-1].sql == f"({UNKNOWN}) ROLLBACK TO s"


def test_savepoints_without_end_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run_points, "_MOST", 3)
    assert undone(*["SAVEPOINT s"] * 3, INSERT, "ROLLBACK TO s") == ["undoes 1 to 1"]
    assert undone(*["SAVEPOINT s"] * 4, INSERT, "ROLLBACK TO s") == [UNKNOWN]
