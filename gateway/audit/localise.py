"""Where a log was tampered with: entries that do not give the signed root, held against hashes that are certain.

Certain are level-0 tiles that give the signed root, or those of them that a proved level-1 tile names; and what the
auditor kept from before or proved by receipts.
"""

from collections.abc import Callable, Mapping, Sequence

from gateway.audit.checkpoint import Checkpoint
from gateway.audit.merkle import root_of, tree_root
from gateway.audit.report import Fault, Finding, Seen
from gateway.audit.tiles import HEIGHT, WIDTH, width_of

Bundles = Sequence[Sequence[Seen]]
ReadTile = Callable[[int, int], Sequence[bytes]]
"""(level, number) → the hashes served for that tile; none when it is missing or of a wrong width."""

_SAID = {
    Fault.CHANGED: "was changed",
    Fault.REMOVED: "was removed",
    Fault.REORDERED: "is not in its place: events were reordered",
    Fault.INSERTED: "was inserted",
    Fault.CUT: "and all after it were cut off the tail",
}


def locate(checkpoint: Checkpoint, bundles: Bundles, read_tile: ReadTile, known: Mapping[int, Seen]) -> list[Finding]:
    """The first event that is wrong, as exactly as the certain hashes allow. Never empty."""
    certain, findings = _certain_hashes(checkpoint, bundles, read_tile)
    for index, entry in known.items():
        if index < checkpoint.size:
            certain[index] = entry.hash
    everywhere = {entry.hash: entry for bundle in bundles for entry in bundle}
    for number, bundle in enumerate(bundles):
        first = number * WIDTH
        wanted = [certain.get(first + place) for place in range(width_of(0, number, checkpoint.size))]
        place = _first_difference(wanted, bundle)
        if place is not None:
            is_tail = not any(bundles[number + 1 :])
            fault = _fault(wanted, bundle, place, everywhere, is_tail=is_tail)
            missing = wanted[place] if place < len(wanted) else None  # a bundle may be longer than it should be
            was = known.get(first + place) or _moved(missing, everywhere)
            return [*findings, _named(fault, first, place, bundle, was)]
    sentence = "The events do not give the signed root, and no hash that is certain says which of them was altered."
    return [*findings, Finding(Fault.REWRITTEN, sentence)]


def _certain_hashes(
    checkpoint: Checkpoint, bundles: Bundles, read_tile: ReadTile
) -> tuple[dict[int, bytes], list[Finding]]:
    """Leaf hashes under the signed root, by index; and a finding when tiles were altered too."""
    if len(bundles) * WIDTH < checkpoint.size:
        return {}, []  # so much is missing that it was not read to its end, and no tile gives the signed root
    tiles = [read_tile(0, number) for number in range(len(bundles))]
    leaves = [leaf for tile in tiles for leaf in tile]
    if len(leaves) == checkpoint.size and root_of(leaves) == checkpoint.root:
        return dict(enumerate(leaves)), []
    certain: dict[int, bytes] = {}
    full, rest = divmod(checkpoint.size, WIDTH)
    above = [node for number in range(-(-full // WIDTH)) for node in read_tile(1, number)]
    # Either the tail's tile or its entries may be the ones that are whole.
    tails = (tiles[full], [entry.hash for entry in bundles[full]]) if rest else ([],)
    tail = next((tail for tail in tails if _is_root(checkpoint, above, tail)), None)
    if tail is not None:
        certain |= enumerate(tail, full * WIDTH)
        for number in range(full):
            if len(tiles[number]) == WIDTH and root_of(tiles[number]) == above[number]:
                certain |= enumerate(tiles[number], number * WIDTH)
    return certain, [Finding(Fault.TILE, "Tiles of hashes were altered as well, so less can be said about events.")]


def _is_root(checkpoint: Checkpoint, above: Sequence[bytes], tail: Sequence[bytes]) -> bool:
    """Do the roots of the full tiles and the leaves of the last one give the signed root?"""
    full, rest = divmod(checkpoint.size, WIDTH)
    if len(above) != full or len(tail) != rest:
        return False

    def node(level: int, index: int) -> bytes:
        first = index << level
        if level >= HEIGHT:
            return root_of(above[first // WIDTH : (first + (1 << level)) // WIDTH])
        start = first - full * WIDTH
        return root_of(tail[start : start + (1 << level)])

    return tree_root(checkpoint.size, node) == checkpoint.root


def _first_difference(wanted: Sequence[bytes | None], bundle: Sequence[Seen]) -> int | None:
    for place, certain in enumerate(wanted):
        if place >= len(bundle) or (certain is not None and bundle[place].hash != certain):
            return place
    return None if len(bundle) == len(wanted) else len(wanted)


def _fault(
    wanted: Sequence[bytes | None],
    bundle: Sequence[Seen],
    place: int,
    everywhere: Mapping[bytes, Seen],
    *,
    is_tail: bool,
) -> Fault:
    if place >= len(bundle):
        return Fault.CUT if is_tail else Fault.REMOVED
    if place >= len(wanted):
        return Fault.INSERTED
    here, missing = bundle[place].hash, wanted[place]
    if missing in everywhere:
        is_shifted = place + 1 < len(bundle) and bundle[place + 1].hash == missing
        is_new = here not in wanted or len(bundle) > len(wanted)  # a copy of another event is an insertion, too
        return Fault.INSERTED if is_shifted and is_new else Fault.REORDERED
    following = wanted[place + 1] if place + 1 < len(wanted) else None
    return Fault.REMOVED if here == following else Fault.CHANGED


def _moved(missing: bytes | None, everywhere: Mapping[bytes, Seen]) -> Seen | None:
    return None if missing is None else everywhere.get(missing)


def _named(fault: Fault, first: int, place: int, bundle: Sequence[Seen], was: Seen | None) -> Finding:
    """A removed event's id is known only to who kept it: so the one before it is named too."""
    here = bundle[place] if place < len(bundle) else None
    if here and (fault is Fault.INSERTED or (fault is Fault.CHANGED and was is None)):
        was = here
    event = was.id if was else ""
    before = f", the one after {bundle[place - 1].id}," if 0 < place <= len(bundle) else ""
    name = f" ({event})" if event else ""
    return Finding(fault, f"Event {first + place}{name}{before} {_SAID[fault]}.", first + place, event)
