"""Tiles: how the tree and its entries are stored and served (https://c2sp.org/tlog-tiles).

A tile at level l holds up to 256 hashes of subtrees of 256^l leaves. An entry bundle holds up to 256 entries.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gateway.audit.leaf import MAX_LEAF
from gateway.audit.merkle import HASH_SIZE, Node, root_of, tree_root

WIDTH: Final = 256
HEIGHT: Final = 8
MAX_BUNDLE: Final = WIDTH * (2 + MAX_LEAF)
_PATH: Final = re.compile(r"tile/(entries|[0-7])/((?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile's place. `level` None means an entry bundle; `width` is 256 when full."""

    level: int | None
    number: int
    width: int = WIDTH

    def path(self) -> str:
        """`tile/0/x001/067.p/3`, relative to the log's prefix."""
        digits = f"{self.number:d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
        name = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        level = "entries" if self.level is None else str(self.level)
        return f"tile/{level}/{name}" + ("" if self.width == WIDTH else f".p/{self.width}")


def parse_path(path: str) -> Tile | None:
    """The tile of a path; None unless the path is exactly what `Tile.path` writes."""
    match = _PATH.fullmatch(path) if len(path) <= 64 else None
    if match is None:
        return None
    level = None if match[1] == "entries" else int(match[1])
    tile = Tile(level, int(match[2].replace("x", "").replace("/", "")), int(match[3] or WIDTH))
    return tile if tile.path() == path else None


def width_of(level: int, number: int, size: int) -> int:
    """How many hashes that tile has in a tree of `size` leaves; 0 when there is no such tile."""
    return max(0, min(WIDTH, (size >> HEIGHT * level) - number * WIDTH))


def tiles_of(size: int) -> Iterator[Tile]:
    """Every tile and entry bundle of a tree, bundles first."""
    for number in range(-(-size // WIDTH)):
        yield Tile(None, number, width_of(0, number, size))
    level = 0
    while size >> HEIGHT * level:
        for number in range(-(-(size >> HEIGHT * level) // WIDTH)):
            yield Tile(level, number, width_of(level, number, size))
        level += 1


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Each entry behind its length, 16 bits big-endian; ValueError for an entry that is too long."""
    if any(len(entry) > MAX_LEAF for entry in entries):
        raise ValueError(f"an entry takes at most {MAX_LEAF} bytes")
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_bundle(bundle: bytes) -> list[bytes]:
    """The entries; ValueError when the bundle is cut short or holds more than a tile's worth."""
    entries: list[bytes] = []
    offset = 0
    while offset < len(bundle):
        end = offset + 2 + int.from_bytes(bundle[offset : offset + 2], "big")
        if end > len(bundle) or offset + 2 > len(bundle) or len(entries) == WIDTH:
            raise ValueError("the entry bundle is malformed")
        entries.append(bundle[offset + 2 : end])
        offset = end
    return entries


def split_hashes(hashes: bytes) -> list[bytes]:
    """A tile as its hashes; ValueError for another length than a tile can have."""
    if len(hashes) % HASH_SIZE or not 0 < len(hashes) <= WIDTH * HASH_SIZE:
        raise ValueError("the tile is malformed")
    return [hashes[i : i + HASH_SIZE] for i in range(0, len(hashes), HASH_SIZE)]


Load = Callable[[int, int], bytes]
"""(level, number) → the tile's hashes, as wide as they are known."""


def nodes_of(load: Load) -> Node:
    """Perfect subtrees out of tiles. The node function raises ValueError when a tile is too narrow."""

    def node(level: int, index: int) -> bytes:
        tile_level, inner = divmod(level, HEIGHT)
        first = index << inner
        start = first % WIDTH * HASH_SIZE
        piece = load(tile_level, first // WIDTH)[start : start + (HASH_SIZE << inner)]
        if len(piece) != HASH_SIZE << inner:
            raise ValueError(f"tile {tile_level}/{first // WIDTH} lacks hashes")
        return _root_of_piece(piece)

    return node


@lru_cache(maxsize=256)
def _root_of_piece(piece: bytes) -> bytes:
    """A growing tree's older subtrees stay as they are: each batch asks for nearly the same ones (2 MiB at most)."""
    return root_of(split_hashes(piece))


class GrowingTree:
    """A stored tree of `size` leaves to append to; it reads only its right edge. `changed` is what to store."""

    def __init__(self, size: int, load: Load) -> None:
        self.size = size
        self.changed: dict[tuple[int, int], bytes] = {}
        self._load = load
        self._loaded: dict[tuple[int, int], bytes] = {}

    def append(self, leaf: bytes) -> None:
        """Take one leaf hash in; a tile that becomes full puts its root into the level above."""
        level, node, number = 0, leaf, self.size
        self.size += 1
        while True:
            key = (level, number // WIDTH)
            start = number % WIDTH * HASH_SIZE
            hashes = self._tile(*key)[:start] if start else b""
            if len(hashes) != start:
                raise ValueError(f"tile {key[0]}/{key[1]} lacks hashes")
            self.changed[key] = hashes = hashes + node
            if number % WIDTH != WIDTH - 1:
                return
            level, node, number = level + 1, root_of(split_hashes(hashes)), number // WIDTH

    def root(self) -> bytes:
        """The root hash at the present size; ValueError when stored tiles are too narrow."""
        return tree_root(self.size, nodes_of(self._tile))

    def _tile(self, level: int, number: int) -> bytes:
        key = (level, number)
        if (changed := self.changed.get(key)) is not None:
            return changed
        if key not in self._loaded:
            self._loaded[key] = self._load(level, number)
        return self._loaded[key]
