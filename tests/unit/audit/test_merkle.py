from functools import cache
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.merkle import (
    EMPTY_ROOT,
    CompactRange,
    consistency_proof,
    inclusion_proof,
    is_consistent,
    is_included,
    leaf_hash,
    node_hash,
    root_of,
    tree_root,
)

LEAVES = [leaf_hash(str(number).encode()) for number in range(140)]


@cache
def mth(low: int, high: int) -> bytes:
    """RFC 6962 §2.1, word by word."""
    size = high - low
    if size == 0:
        return EMPTY_ROOT
    if size == 1:
        return LEAVES[low]
    k = 1
    while k * 2 < size:
        k *= 2
    return node_hash(mth(low, low + k), mth(low + k, high))


def node(level: int, index: int) -> bytes:
    return mth(index << level, (index + 1) << level)


def flipped(hash: bytes, bit: int) -> bytes:
    return bytes([hash[0] ^ (1 << bit)]) + hash[1:]


def test_roots_are_those_of_the_rfc():
    edge = CompactRange()
    assert edge.root() == EMPTY_ROOT == tree_root(0, node)
    for size in range(1, len(LEAVES) + 1):
        edge.append(LEAVES[size - 1])
        assert edge.root() == mth(0, size) == tree_root(size, node)


def test_known_answers():
    # test tree of certificate-transparency-go: d0 = "", d1 = 0x00
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert root_of([leaf_hash(b""), leaf_hash(b"\x00")]).hex() == (
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
    )


def test_every_leaf_of_every_small_tree_is_proved():
    for size in range(1, 70):
        for index in range(size):
            assert is_included(LEAVES[index], index, size, inclusion_proof(index, size, node), mth(0, size))


def test_every_pair_of_small_trees_is_consistent():
    for new in range(70):
        for old in range(new + 1):
            assert is_consistent(old, new, mth(0, old), mth(0, new), consistency_proof(old, new, node))


@given(st.data())
def test_no_altered_inclusion_proof_holds(data: Any):
    size = data.draw(st.integers(2, 140))
    index = data.draw(st.integers(0, size - 1))
    proof, root, leaf = inclusion_proof(index, size, node), mth(0, size), LEAVES[index]
    bit = data.draw(st.integers(0, 7))
    place = data.draw(st.integers(0, len(proof) - 1))
    other = data.draw(st.integers(0, size - 1).filter(lambda n: n != index))
    assert not is_included(flipped(leaf, bit), index, size, proof, root)
    assert not is_included(leaf, index, size, proof, flipped(root, bit))
    assert not is_included(leaf, index, size, [*proof[:place], flipped(proof[place], bit), *proof[place + 1 :]], root)
    assert not is_included(leaf, index, size, proof[:place] + proof[place + 1 :], root)
    assert not is_included(leaf, index, size, [*proof, root], root)
    assert not is_included(leaf, other, size, proof, root)
    assert not is_included(leaf, size, size, proof, root)
    assert not is_included(leaf, -1, size, proof, root)


@given(st.data())
def test_no_altered_consistency_proof_holds(data: Any):
    new = data.draw(st.integers(2, 140))
    old = data.draw(st.integers(1, new - 1))
    proof, old_root, new_root = consistency_proof(old, new, node), mth(0, old), mth(0, new)
    bit = data.draw(st.integers(0, 7))
    place = data.draw(st.integers(0, len(proof) - 1))
    changed = [*proof[:place], flipped(proof[place], bit), *proof[place + 1 :]]
    assert not is_consistent(old, new, old_root, new_root, changed)
    assert not is_consistent(old, new, flipped(old_root, bit), new_root, proof)
    assert not is_consistent(old, new, old_root, flipped(new_root, bit), proof)
    assert not is_consistent(old, new, old_root, new_root, proof[:-1])
    assert not is_consistent(old, new, old_root, new_root, [*proof, new_root])
    assert not is_consistent(new, old, new_root, old_root, proof)


def test_trivial_consistency():
    assert not is_consistent(0, 3, mth(0, 1), mth(0, 3), [])
    assert not is_consistent(3, 3, mth(0, 3), mth(0, 3), [mth(0, 1)])
    assert not is_consistent(3, 3, mth(0, 3), mth(0, 2), [])
    assert not is_consistent(3, 5, mth(0, 3), mth(0, 5), [])
