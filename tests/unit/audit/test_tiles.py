import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.merkle import leaf_hash, root_of
from gateway.audit.tiles import (
    GrowingTree,
    Tile,
    decode_bundle,
    encode_bundle,
    nodes_of,
    parse_path,
    split_hashes,
    tiles_of,
    width_of,
)

LEAVES = [leaf_hash(number.to_bytes(4, "big")) for number in range(1100)]


def test_paths_of_the_specification():
    assert Tile(0, 1234067).path() == "tile/0/x001/x234/067"
    assert Tile(None, 5, 3).path() == "tile/entries/005.p/3"
    assert Tile(0, 1000, 1).path() == "tile/0/x001/000.p/1"


@given(st.none() | st.integers(0, 7), st.integers(0, 10**15), st.integers(1, 256))
def test_paths_round_trip(level: int | None, number: int, width: int):
    tile = Tile(level, number, width)
    assert parse_path(tile.path()) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "tile/0/0",
        "tile/8/000",
        "tile/0/x000/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/../000",
        "tile/0/000\n",
        "tile/entries/x1/000",
        "/tile/0/000",
        "tile/-1/000",
        "tile/0/\u0660\u0660\u0660",
    ],
)
def test_any_other_path_is_no_tile(path: str):
    assert parse_path(path) is None


def test_which_tiles_a_tree_has():
    assert [tile.path() for tile in tiles_of(0)] == []
    assert [tile.path() for tile in tiles_of(256)] == ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]
    assert width_of(1, 0, 255) == 0
    assert width_of(0, 1, 300) == 44


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_bundles_round_trip(entries: list[bytes]):
    assert decode_bundle(encode_bundle(entries)) == entries


@pytest.mark.parametrize("bundle", [b"\x00", b"\x00\x02a", b"\x00\x00" * 257, b"\x00\x01a\x00"])
def test_malformed_bundles(bundle: bytes):
    with pytest.raises(ValueError):
        decode_bundle(bundle)


def test_an_entry_that_is_too_long():
    with pytest.raises(ValueError):
        encode_bundle([b"x" * 65_536])


@pytest.mark.parametrize("hashes", [b"", b"x" * 31, b"x" * 32 * 257])
def test_malformed_tiles(hashes: bytes):
    with pytest.raises(ValueError):
        split_hashes(hashes)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=6))
def test_a_tree_grown_in_batches_has_the_root_of_its_leaves(batches: list[int]):
    stored: dict[tuple[int, int], bytes] = {}
    size = 0
    for wanted in batches:
        batch = min(wanted, len(LEAVES) - size)
        tree = GrowingTree(size, lambda level, number: stored.get((level, number), b""))
        for leaf in LEAVES[size : size + batch]:
            tree.append(leaf)
        stored.update(tree.changed)
        size += batch
        assert tree.root() == root_of(LEAVES[:size])
    for tile in tiles_of(size):
        if tile.level is not None:
            assert len(stored[tile.level, tile.number]) == tile.width * 32


def test_a_tree_does_not_grow_on_missing_tiles():
    tree = GrowingTree(3, lambda level, number: b"x" * 64)
    with pytest.raises(ValueError):
        tree.append(LEAVES[0])
    with pytest.raises(ValueError):
        nodes_of(lambda level, number: b"x" * 64)(0, 2)


def test_an_append_cuts_what_was_too_much():
    """A tile that is wider than the tree (from a batch that did not count) does not shift what follows."""
    tree = GrowingTree(1, lambda level, number: LEAVES[0] + LEAVES[7])
    tree.append(LEAVES[1])
    assert tree.root() == root_of(LEAVES[:2])
