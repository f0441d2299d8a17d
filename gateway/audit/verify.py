"""Offline verification: everything is derived again from the entries and held against one pinned key.

Nothing that the log's operator serves is believed except under the pinned signature. What the auditor kept from an
earlier time (a checkpoint, the entries then seen, receipts) also finds a history that the operator himself rewrote.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.audit.checkpoint import BadNoteError, Checkpoint, VerifierKey, open_checkpoint
from gateway.audit.leaf import decode_event
from gateway.audit.localise import locate
from gateway.audit.merkle import EMPTY_ROOT, CompactRange, leaf_hash, root_of
from gateway.audit.proof import BadReceiptError, verify_receipt
from gateway.audit.report import Fault, Finding, Report, Seen
from gateway.audit.tiles import HEIGHT, MAX_BUNDLE, WIDTH, Tile, decode_bundle, split_hashes, tiles_of, width_of

Fetch = Callable[[str], bytes | None]
"""Path relative to the log's prefix (`checkpoint`, `tile/…`) → bytes, or None when there is no such file."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the auditor kept from before: a signed note, all entries then seen, receipts, more notes. All optional."""

    checkpoint: str = ""
    entries: Sequence[Seen] = ()
    receipts: Sequence[str] = ()
    checkpoints: Sequence[str] = ()


_NOTHING: Final = Kept()
_BESIDE: Final = (Fault.MALFORMED, Fault.TILE, Fault.RECEIPT, Fault.CHECKPOINT)  # may be true of a whole history
MOST_ABSENT: Final = 1024  # bundles in a row; a size is but a number, and may be any


def verify(fetch: Fetch, key: VerifierKey, kept: Kept = _NOTHING, witnesses: Sequence[VerifierKey] = ()) -> Report:
    """Verify a whole log. Raises nothing but what `fetch` raises."""
    raw = fetch("checkpoint")
    if raw is None:
        return Report((Finding(Fault.CHECKPOINT, "There is no checkpoint."),))
    try:
        note = raw.decode()
        checkpoint, opened = open_checkpoint(note, key, witnesses)
    except ValueError as error:
        return Report((Finding(Fault.CHECKPOINT, f"The checkpoint is not to be trusted: {error}."),))
    run = _Run(fetch, checkpoint, key)
    run.take(kept)
    seen = run.check()
    return Report(tuple(sorted(run.findings, key=_place)), checkpoint, note, opened.times, seen, run.newest_at)


class _Run:
    def __init__(self, fetch: Fetch, checkpoint: Checkpoint, key: VerifierKey) -> None:
        self.findings: list[Finding] = []
        self.newest_at = ""
        self._fetch = fetch
        self._checkpoint = checkpoint
        self._key = key
        self._known: dict[int, Seen] = {}  # what is proved to have stood at an index
        self._signed: dict[int, bytes] = {0: EMPTY_ROOT, checkpoint.size: checkpoint.root}  # roots by size

    def check(self) -> tuple[Seen, ...]:
        """Read everything, compare; the entries as seen."""
        size, root = self._checkpoint.size, self._checkpoint.root
        bundles = list(self._bundles())
        seen = tuple(entry for bundle in bundles for entry in bundle)
        is_full = all(len(bundle) == width_of(0, number, size) for number, bundle in enumerate(bundles))
        roots = _roots_at([entry.hash for entry in seen], self._signed)
        if is_full and roots.get(size) == root:
            self._compare_known(seen)
            self._check_tiles([entry.hash for entry in seen])
        else:
            self.findings += locate(self._checkpoint, bundles, self._read_tile, self._known)
        self._compare_roots(roots)
        return seen

    def _add(self, fault: Fault, sentence: str, index: int | None = None, event: str = "") -> None:
        self.findings.append(Finding(fault, sentence, index, event))

    # ------------------------------------------------------------ what was kept from before

    def take(self, kept: Kept) -> None:
        """Verify what was kept and learn from it."""
        if kept.checkpoint:
            self._take_checkpoint(kept.checkpoint, kept.entries)
        for note in kept.checkpoints:
            self._take_checkpoint(note, ())
        for text in kept.receipts:
            try:
                proved = verify_receipt(text, self._key)
            except BadReceiptError as error:
                self._add(Fault.RECEIPT, f"A receipt proves nothing: {error}.")
                continue
            event = str(proved.event["id"])
            self._known[proved.index] = Seen(leaf_hash(proved.leaf), event)
            self._require_growth(proved.checkpoint, f"the receipt of {event}")

    def _take_checkpoint(self, note: str, entries: Sequence[Seen]) -> None:
        try:
            earlier, _ = open_checkpoint(note, self._key)
        except BadNoteError as error:
            self._add(Fault.CHECKPOINT, f"The checkpoint kept from before is unusable: {error}.")
            return
        entries = entries[: earlier.size]  # those kept may be newer than the checkpoint
        if len(entries) == earlier.size and root_of(entry.hash for entry in entries) == earlier.root:
            self._known.update(enumerate(entries))
        self._require_growth(earlier, "the checkpoint kept from before")

    def _require_growth(self, earlier: Checkpoint, what: str) -> None:
        size = self._checkpoint.size
        if earlier.size > size:
            lost = self._known.get(size)
            sentence = (
                f"The log went back: it has {size} events, {what} covers {earlier.size}. The first lost is {size}"
            )
            self._add(Fault.ROLLBACK, f"{sentence}{f' ({lost.id})' if lost else ''}.", size, lost.id if lost else "")
        elif self._signed.setdefault(earlier.size, earlier.root) != earlier.root:
            self._add(Fault.REWRITTEN, f"The log has signed two different histories of {earlier.size} events.")

    def _compare_known(self, seen: Sequence[Seen]) -> None:
        """The entries are those of the signed checkpoint; were they always?"""
        for index, was in sorted(self._known.items()):
            if index < len(seen) and seen[index].hash != was.hash:
                sentence = (
                    f"Event {index} ({was.id}) was replaced and the log signed anew: its operator rewrote history."
                )
                self._add(Fault.CHANGED, sentence, index, was.id)
                return

    def _compare_roots(self, roots: Mapping[int, bytes]) -> None:
        if any(finding.fault not in _BESIDE for finding in self.findings):
            return  # said already, and more exactly
        for size, root in sorted(self._signed.items()):
            if roots.get(size) != root:
                self._add(Fault.REWRITTEN, f"The first {size} events are not the ones that were signed before.")
                return

    # ------------------------------------------------------------ entries and tiles

    def _bundles(self) -> Iterator[list[Seen]]:
        """All of them, to the end or to a hole so large that nothing is to be expected behind it."""
        size, absent = self._checkpoint.size, 0
        for number in range(-(-size // WIDTH)):
            bundle = self._fetch(Tile(None, number, width_of(0, number, size)).path())
            absent = 0 if bundle else absent + 1
            if absent > MOST_ABSENT:
                return
            yield self._split(number * WIDTH, bundle or b"")

    def _split(self, first: int, bundle: bytes) -> list[Seen]:
        try:
            entries = decode_bundle(bundle) if len(bundle) <= MAX_BUNDLE else []
        except ValueError:
            self._add(Fault.MALFORMED, f"The bundle of events from {first} on cannot be split into entries.", first)
            return []
        return [self._seen(first + place, entry) for place, entry in enumerate(entries)]

    def _seen(self, index: int, entry: bytes) -> Seen:
        try:
            event = decode_event(entry)
            self.newest_at = str(event["at"])
            return Seen(leaf_hash(entry), str(event["id"]))
        except ValueError as error:
            self._add(Fault.MALFORMED, f"Entry {index} is not an event: {error}.", index)
            return Seen(leaf_hash(entry), "")

    def _read_tile(self, level: int, number: int) -> Sequence[bytes]:
        width = width_of(level, number, self._checkpoint.size)
        try:
            hashes = split_hashes(self._fetch(Tile(level, number, width).path()) or b"")
        except ValueError:
            return ()
        return hashes if len(hashes) == width else ()

    def _check_tiles(self, hashes: list[bytes]) -> None:
        """The entries are right; are the tiles, from which others take their proofs?"""
        level = 0
        for tile in tiles_of(len(hashes)):
            if tile.level is None:
                continue
            if tile.level != level:
                hashes = [root_of(hashes[i : i + WIDTH]) for i in range(0, len(hashes) - WIDTH + 1, WIDTH)]
                level = tile.level
            expected = b"".join(hashes[tile.number * WIDTH : tile.number * WIDTH + tile.width])
            if self._fetch(tile.path()) != expected:
                first = tile.number * WIDTH << HEIGHT * tile.level
                self._add(Fault.TILE, f"{tile.path()} is not the tile of the events, which are as signed.", first)
                return


def _roots_at(leaves: Sequence[bytes], sizes: Mapping[int, bytes]) -> dict[int, bytes]:
    """The root over the first n leaves for every n in `sizes`."""
    edge = CompactRange()
    roots = {0: EMPTY_ROOT}
    for leaf in leaves:
        edge.append(leaf)
        if edge.size in sizes:
            roots[edge.size] = edge.root()
    return roots


def _place(finding: Finding) -> tuple[bool, int, bool]:
    return finding.index is None, finding.index or 0, finding.fault is Fault.MALFORMED
