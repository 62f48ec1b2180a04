"""Merkle trees: every proof holds, nothing else does, and the layout is OpenZeppelin's."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.merkle import ContributionTree, Leaf, MerkleTree, hash_pair, leaf_hash, ordered_root, verify, verify_multi
from chain.primitives import keccak256, word

hashes = st.binary(min_size=32, max_size=32)
trees = st.sets(hashes, min_size=1, max_size=40)


@given(trees)
def test_every_leaf_is_proven_by_its_own_proof_only(leaves: set[bytes]) -> None:
    tree = MerkleTree(leaves)
    proofs = {leaf: tree.proof(leaf) for leaf in leaves}
    for leaf, proof in proofs.items():
        assert verify(tree.root, leaf, proof)
        assert not any(verify(tree.root, other, proof) for other in leaves - {leaf} if len(proof) > 1)
        assert not verify(tree.root, leaf, (*proof, bytes(32)))
        assert not proof or not verify(tree.root, leaf, proof[:-1])


@given(trees, st.data())
def test_any_set_of_leaves_is_proven_by_one_multiproof(leaves: set[bytes], data: st.DataObject) -> None:
    tree = MerkleTree(leaves)
    chosen = data.draw(st.sets(st.sampled_from(sorted(leaves)), max_size=len(leaves)))
    proof = tree.multiproof(chosen)
    assert proof.leaves == tuple(sorted(chosen))
    assert verify_multi(tree.root, proof.leaves, proof.proof, proof.flags)
    if proof.flags and proof.leaves:
        assert not verify_multi(tree.root, proof.leaves, proof.proof, tuple(not flag for flag in proof.flags))


@given(hashes, st.lists(hashes, max_size=6), st.lists(hashes, max_size=6), st.lists(st.booleans(), max_size=8))
def test_a_made_up_multiproof_is_refused_and_never_an_exception(
    root: bytes, leaves: list[bytes], proof: list[bytes], flags: list[bool]
) -> None:
    assert not verify_multi(root, leaves, proof, flags) or root in (*leaves, *proof)


def test_the_layout_is_that_of_the_standard_merkle_tree() -> None:
    a, b, c = sorted(keccak256(word(i)) for i in range(3))
    # Three leaves fill places 4, 3 and 2 of five: c and the pair of b and a are the root's children.
    assert MerkleTree([c, a, b]).root == hash_pair(hash_pair(a, b), c)
    assert MerkleTree([a]).root == a
    assert ordered_root([a, b, c]) == MerkleTree([a, b, c]).root != ordered_root([c, b, a])


def test_a_leaf_is_hashed_twice_over_its_abi_words() -> None:
    inner = keccak256(b"\x01" * 32 + b"\x02" * 32 + word(3) + word(4) + word(5))
    assert leaf_hash(b"\x01" * 32, b"\x02" * 32, 3, 4, 5) == keccak256(inner)


def test_an_inner_node_never_passes_for_a_leaf() -> None:
    tree = ContributionTree(b"\x01" * 32, 1, 1, [Leaf(bytes([i]) * 32, i) for i in range(1, 9)])
    leaves = tree.multiproof(bytes([i]) * 32 for i in range(1, 9))[1].leaves
    node = hash_pair(leaves[0], leaves[1])
    assert verify(tree.root, node, tree.proof(tree.leaves[0].provider)[1:])  # a node is proven as what it is …
    assert keccak256(node) != node and node not in leaves  # … and no leaf's double hash


@pytest.mark.parametrize(
    "fields",
    [(b"", bytes(32), 1, 1, 1), (bytes(32), bytes(33), 1, 1, 1), (bytes(32), bytes(32), 1, 2**64, 1)],
)
def test_a_field_that_does_not_fit_its_type_is_refused(fields: tuple[bytes, bytes, int, int, int]) -> None:
    with pytest.raises(ValueError):
        leaf_hash(*fields)
    with pytest.raises(ValueError):
        leaf_hash(bytes(32), bytes(32), -1, 1, 1)


def test_a_tree_without_leaves_or_with_two_of_one_provider_is_refused() -> None:
    with pytest.raises(ValueError):
        MerkleTree([])
    with pytest.raises(ValueError):
        ContributionTree(bytes(32), 1, 1, [Leaf(bytes(32), 1), Leaf(bytes(32), 2)])
    with pytest.raises(KeyError):
        ContributionTree(bytes(32), 1, 1, [Leaf(bytes(32), 1)]).proof(b"\x01" * 32)


@given(st.dictionaries(hashes, st.integers(0, 2**96 - 1), min_size=1, max_size=12))
def test_a_contribution_tree_proves_each_provider_and_some_together(units: dict[bytes, int]) -> None:
    gateway = b"\x07" * 32
    tree = ContributionTree(gateway, 3, 4, (Leaf(provider, own) for provider, own in units.items()))
    assert tree.total_units == sum(units.values())
    for provider, own in units.items():
        assert verify(tree.root, leaf_hash(gateway, provider, 3, 4, own), tree.proof(provider))
        assert not verify(tree.root, leaf_hash(gateway, provider, 3, 4, own + 1), tree.proof(provider))
    chosen, together = tree.multiproof(units)
    assert tuple(leaf_hash(gateway, leaf.provider, 3, 4, leaf.units) for leaf in chosen) == together.leaves
    assert ordered_root(together.leaves) == tree.root


def test_a_hundred_thousand_leaves_take_seconds() -> None:
    started = time.perf_counter()
    tree = ContributionTree(bytes(32), 1, 1, (Leaf(word(i), i) for i in range(100_000)))
    took = time.perf_counter() - started
    assert verify(tree.root, leaf_hash(bytes(32), word(777), 1, 1, 777), tree.proof(word(777)))
    assert len(tree.proof(word(777))) in (16, 17)
    assert took < 30  # about 3 s on an idle core; the bound is for a crowded machine
