"""Every way to tamper, and the name of the first event that was touched."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audit.checkpoint import Checkpoint, sign_checkpoint
from gateway.audit.report import Fault, Report
from gateway.audit.tiles import encode_bundle
from gateway.audit.verify import Kept, verify
from tests.unit.audit.logs import FORGED, KEY, ORIGIN, PINNED, Log, event, events
from tests.vectors.make_log_vectors import WITNESS, WITNESS_NAME

NOTHING = Kept()


def checked(log: Log, kept: Kept = NOTHING) -> Report:
    return verify(log.files.get, PINNED, kept)


def seen(log: Log) -> Kept:
    report = checked(log)
    return Kept(report.note, report.entries)


def faults(report: Report) -> set[Fault]:
    return {finding.fault for finding in report.findings}


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 600])
def test_an_untouched_log_is_verified(size: int):
    report = checked(Log(events(size)))
    assert report.is_verified
    assert report.checkpoint is not None
    assert report.checkpoint.size == len(report.entries) == size


def test_a_log_that_grew_is_verified_against_all_that_was_kept():
    early, late = Log(events(300)), Log(events(700))
    kept = seen(early)
    assert checked(
        late, Kept(kept.checkpoint, kept.entries, [early.receipt(7), late.receipt(650)], [Log(events(2)).note])
    ).is_verified


def test_more_than_one_tile_of_tiles():
    entries = events(70)
    log = Log([entries[number % 70] for number in range(66_000)])
    assert checked(log).is_verified
    log.files["tile/1/001.p/1"] = bytes(32)
    first = checked(log).first
    assert first is not None
    assert (first.fault, first.index) == (Fault.TILE, 65_536)


# ---------------------------------------------------------------- with the database, without the key


@pytest.mark.parametrize("index", [0, 100, 255, 256, 599])
def test_a_changed_event_is_named(index: int):
    log = Log(events(600))
    log.serve_entries([*events(600)[:index], event(index, by="mallory"), *events(600)[index + 1 :]])
    first = checked(log).first
    assert first is not None
    assert (first.fault, first.index, first.event) == (Fault.CHANGED, index, f"evt_{index:04}")


@settings(max_examples=50)
@given(st.integers(0, 299), st.data())
def test_any_flipped_bit_of_any_entry_is_placed(index: int, data: Any):
    log = Log(events(300))
    entry = bytearray(log.entries[index])
    entry[data.draw(st.integers(0, len(entry) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    log.serve_entries([*log.entries[:index], bytes(entry), *log.entries[index + 1 :]])
    first = checked(log).first
    assert first is not None
    assert (first.fault, first.index) == (Fault.CHANGED, index)


@pytest.mark.parametrize("index", [0, 100, 254])
def test_a_removed_event_is_named_by_its_neighbour_or_by_who_knew_it(index: int):
    log = Log(events(600))
    kept = seen(log)
    bundle = log.entries[:256]
    del bundle[index]
    log.serve_entries([*bundle, b"", *log.entries[256:]])
    log.files["tile/entries/000"] = log.files["tile/entries/000"][:-2]  # that was the empty one
    first = checked(log).first
    assert first is not None
    assert (first.fault, first.index) == (Fault.REMOVED, index)
    assert index == 0 or f"evt_{index - 1:04}" in first.sentence
    named = checked(log, kept).first
    assert named is not None
    assert (named.index, named.event) == (index, f"evt_{index:04}")


def test_reordered_events_are_named():
    log = Log(events(300))
    swapped = list(log.entries)
    swapped[40], swapped[41] = swapped[41], swapped[40]
    log.serve_entries(swapped)
    first = checked(log).first
    assert first is not None
    assert (first.fault, first.index, first.event) == (Fault.REORDERED, 40, "evt_0040")


def test_reordered_across_bundles():
    log = Log(events(600))
    swapped = list(log.entries)
    swapped[10], swapped[500] = swapped[500], swapped[10]
    log.serve_entries(swapped)
    first = checked(log).first
    assert first is not None
    assert (first.fault, first.index, first.event) == (Fault.REORDERED, 10, "evt_0010")


@pytest.mark.parametrize(("at", "index"), [(10, 10), (79, 79)])
def test_a_copy_of_another_event_is_an_insertion(at: int, index: int):
    log = Log(events(79))
    entries = events(79)
    (bundle,) = (path for path in log.files if path.startswith("tile/entries/"))
    log.files[bundle] = encode_bundle([*entries[:at], entries[3], *entries[at:]])
    first = checked(log).first
    assert first is not None
    assert (first.fault, first.index) == (Fault.INSERTED, index)


def test_an_inserted_event_is_named():
    log = Log(events(600))
    log.serve_entries([*log.entries[:20], event(9000), *log.entries[20:255], *log.entries[256:], b""])
    first = checked(log).first
    assert first is not None
    assert (first.fault, first.index, first.event) == (Fault.INSERTED, 20, "evt_9000")


@pytest.mark.parametrize("length", [0, 10, 256, 299])
def test_a_tail_cut_off_the_entries_is_named(length: int):
    log = Log(events(300))
    kept = seen(log)
    log.serve_entries(log.entries[:length])
    first = checked(log).first
    assert first is not None
    assert (first.fault, first.index) == (Fault.CUT, length)
    named = checked(log, kept).first
    assert named is not None
    assert named.event == f"evt_{length:04}"


def test_a_missing_bundle():
    log = Log(events(600))
    del log.files["tile/entries/001"]
    first = checked(log).first
    assert first is not None
    assert (first.fault, first.index) == (Fault.REMOVED, 256)


def test_a_size_that_is_nothing_but_signed_is_not_counted_to():
    """Whoever has the key signs any number: the verification comes to an end, in memory that there is."""
    log = Log(events(300))
    log.files["checkpoint"] = sign_checkpoint(Checkpoint(ORIGIN, 2**62, b"\1" * 32), KEY).encode()
    asked: list[str] = []

    def fetch(path: str) -> bytes | None:
        asked.append(path)
        return log.files.get(path)

    for kept in (Kept(), seen(log)):
        report = verify(fetch, PINNED, kept)
        assert [(f.fault, f.index) for f in report.findings] == [(Fault.CUT, 256)]
    del log.files["tile/entries/000"]
    assert not verify(fetch, PINNED).is_verified
    assert len(asked) < 10_000


def test_the_newest_event_is_dated():
    assert checked(Log(events(3))).newest_at == "2026-01-31T09:30:00.000000Z"
    assert checked(Log([])).newest_at == ""


def test_a_bundle_that_cannot_be_split():
    log = Log(events(600))
    log.files["tile/entries/001"] = b"\xff\xff"
    assert {(f.fault, f.index) for f in checked(log).findings} == {(Fault.MALFORMED, 256), (Fault.REMOVED, 256)}


def test_an_entry_that_is_no_event_is_named_even_if_signed():
    first = checked(Log([*events(3), b"{}", *events(2)])).first
    assert first is not None
    assert (first.fault, first.index) == (Fault.MALFORMED, 3)


@pytest.mark.parametrize(("path", "index"), [("tile/0/000", 0), ("tile/0/002.p/88", 512), ("tile/1/000.p/2", 0)])
def test_a_replaced_tile_is_found_and_the_events_are_declared_whole(path: str, index: int):
    log = Log(events(600))
    log.files[path] = log.files[path][32:] + bytes(32)
    report = checked(log)
    assert not report.is_verified
    assert report.first is not None
    assert (report.first.fault, report.first.index) == (Fault.TILE, index)
    assert path in report.first.sentence
    del log.files[path]
    assert not checked(log).is_verified


def test_a_changed_event_with_its_tile_is_still_placed_where_other_tiles_are_whole():
    log, other = Log(events(600)), Log([*events(600)[:300], event(300, by="mallory"), *events(600)[301:]])
    for path in ("tile/entries/001", "tile/0/001"):
        log.files[path] = other.files[path]
    kept = seen(Log(events(600)))
    named = checked(log, kept).first
    assert named is not None
    assert (named.fault, named.index, named.event) == (Fault.CHANGED, 300, "evt_0300")
    report = checked(log)
    assert {f.fault for f in report.findings} == {Fault.TILE, Fault.REWRITTEN}


def test_a_changed_event_while_the_last_tile_was_altered_too():
    log, other = Log(events(600)), Log([*events(600)[:30], event(30, by="mallory"), *events(600)[31:]])
    log.files["tile/entries/000"] = other.files["tile/entries/000"]
    log.files["tile/0/002.p/88"] = bytes(88 * 32)
    first = checked(log).first
    assert first is not None
    assert (first.fault, first.index, first.event) == (Fault.CHANGED, 30, "evt_0030")


# ---------------------------------------------------------------- checkpoints


def test_a_checkpoint_by_a_forged_key():
    log = Log(events(300))
    log.files["checkpoint"] = Log(events(300), FORGED).files["checkpoint"]
    report = checked(log)
    assert not report.is_verified
    assert [f.fault for f in report.findings] == [Fault.CHECKPOINT]


@pytest.mark.parametrize("note", [None, b"", b"\xff", b"x" * 100_000])
def test_no_checkpoint_worth_the_name(note: Any):
    log = Log(events(3))
    if note is None:
        del log.files["checkpoint"]
    else:
        log.files["checkpoint"] = note
    assert [f.fault for f in checked(log).findings] == [Fault.CHECKPOINT]


def test_a_rollback_names_the_first_event_that_is_gone():
    kept = seen(Log(events(300)))
    first = checked(Log(events(120)), kept).first
    assert first is not None
    assert (first.fault, first.index, first.event) == (Fault.ROLLBACK, 120, "evt_0120")


def test_a_rollback_is_found_by_a_receipt_alone():
    first = checked(Log(events(120)), Kept(receipts=[Log(events(300)).receipt(120)])).first
    assert first is not None
    assert (first.fault, first.index, first.event) == (Fault.ROLLBACK, 120, "evt_0120")


# ---------------------------------------------------------------- with the key


def test_a_history_rewritten_and_signed_anew_is_named_by_what_was_kept():
    kept = seen(Log(events(300)))
    rewritten = Log([*events(300)[:77], event(77, by="mallory"), *events(400)[78:]])
    assert checked(rewritten).is_verified  # nobody can tell without a memory
    first = checked(rewritten, kept).first
    assert first is not None
    assert (first.fault, first.index, first.event) == (Fault.CHANGED, 77, "evt_0077")


def test_with_only_a_checkpoint_kept_a_rewritten_history_is_found_though_not_placed():
    note = Log(events(300)).note
    rewritten = Log([*events(300)[:77], event(77, by="mallory"), *events(400)[78:]])
    for kept in (Kept(note), Kept(checkpoints=[note])):
        report = checked(rewritten, kept)
        assert [f.fault for f in report.findings] == [Fault.REWRITTEN]


def test_a_rewritten_history_is_not_hidden_behind_something_smaller():
    """A tile that "stands alone", an entry that was no event before, a receipt that never was one."""
    note = Log(events(300)).note
    rewritten = Log([*events(300)[:77], event(77, by="mallory"), *events(400)[78:]])
    poisoned = Log([*rewritten.entries, b"no event"])
    assert faults(checked(poisoned, Kept(note))) == {Fault.MALFORMED, Fault.REWRITTEN}
    assert faults(checked(rewritten, Kept(note, receipts=["no receipt"]))) == {Fault.RECEIPT, Fault.REWRITTEN}
    rewritten.files["tile/0/000"] = bytes(32 * 256)
    assert faults(checked(rewritten, Kept(note))) == {Fault.TILE, Fault.REWRITTEN}


def test_two_histories_of_one_size():
    report = checked(Log(events(300)), Kept(Log([*events(299), event(5000)]).note))
    assert [f.fault for f in report.findings] == [Fault.REWRITTEN]


def test_a_receipt_names_an_event_that_was_replaced():
    receipt = Log(events(300)).receipt(77)
    rewritten = Log([*events(300)[:77], event(77, by="mallory"), *events(400)[78:]])
    first = checked(rewritten, Kept(receipts=[receipt])).first
    assert first is not None
    assert (first.fault, first.index, first.event) == (Fault.CHANGED, 77, "evt_0077")


def test_what_was_kept_is_not_believed_blindly():
    log = Log(events(30))
    forged = Log(events(30), FORGED)
    assert [f.fault for f in checked(log, Kept(forged.note)).findings] == [Fault.CHECKPOINT]
    assert [f.fault for f in checked(log, Kept(receipts=[forged.receipt(1)])).findings] == [Fault.RECEIPT]
    kept = seen(log)
    assert checked(log, Kept(kept.checkpoint, kept.entries[::-1])).is_verified  # entries that are not under it


def test_witnesses_are_named():
    from gateway.audit.checkpoint import COSIGNATURE, cosignature, open_checkpoint, verifier_of

    log = Log(events(3))
    text = open_checkpoint(log.note, PINNED)[0].text()
    log.files["checkpoint"] = (log.note + cosignature(text, WITNESS_NAME, WITNESS, 5)).encode()
    report = verify(log.files.get, PINNED, witnesses=[verifier_of(WITNESS_NAME, WITNESS, COSIGNATURE)])
    assert report.is_verified
    assert report.witnesses == ((WITNESS_NAME, 5),)
