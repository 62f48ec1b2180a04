"""Sum trees: every leaf is proven, and no set of leaves that can be proven is worth more than the total."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.merkle import MAX_PROOF, MAX_UNITS, ContributionTree, Leaf, Proof, Sibling, leaf_hash, parent, verify
from chain.primitives import MAX_UINT256, keccak256, word

GATEWAY = b"\x07" * 32
SLOT = (GATEWAY, 3, 4)
keys = st.binary(min_size=32, max_size=32)
amounts = st.one_of(st.integers(0, 50), st.integers(0, 2**92))
shares = st.dictionaries(keys, amounts, min_size=1, max_size=24)


def tree_of(units: dict[bytes, int]) -> ContributionTree:
    return ContributionTree(*SLOT, (Leaf(provider, own) for provider, own in units.items()))


def proven(root: bytes, total: int, provider: bytes, units: int, proof: Sequence[Sibling]) -> bool:
    return verify(root, total, leaf_hash(GATEWAY, provider, 3, 4, units), units, proof)


@given(shares, st.data())
def test_every_leaf_is_proven_by_its_own_proof_and_by_no_other(units: dict[bytes, int], data: st.DataObject) -> None:
    tree = tree_of(units)
    assert tree.total_units == sum(units.values())
    assert {leaf.provider: leaf.units for leaf in tree.leaves} == units
    provider, other = (data.draw(st.sampled_from(sorted(units))) for _ in range(2))
    proof = tree.proof(provider)
    assert proven(tree.root, tree.total_units, provider, units[provider], proof)
    assert not proven(tree.root, tree.total_units, provider, units[provider] + 1, proof)
    assert not proven(tree.root, tree.total_units, provider, units[provider], (*proof, Sibling(bytes(32), 0)))
    assert not proof or not proven(tree.root, tree.total_units, provider, units[provider], proof[:-1])
    assert other == provider or not proven(tree.root, tree.total_units, other, units[other], proof)


@given(shares, st.data())
def test_a_proof_with_any_sum_or_hash_forged_is_refused(units: dict[bytes, int], data: st.DataObject) -> None:
    tree = tree_of(units)
    provider = data.draw(st.sampled_from(sorted(units)))
    proof, own = tree.proof(provider), units[provider]
    total = data.draw(st.integers(0, MAX_UINT256).filter(lambda other: other != tree.total_units))
    assert not proven(tree.root, total, provider, own, proof)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        forged = data.draw(st.tuples(keys, amounts).filter(lambda pair: pair != proof[at]))
        for sibling in (Sibling(*forged), Sibling(proof[at].hash, forged[1]), Sibling(forged[0], proof[at].units)):
            changed = (*proof[:at], sibling, *proof[at + 1 :])
            assert sibling == proof[at] or not proven(tree.root, tree.total_units, provider, own, changed)


@given(shares, st.data())
def test_sums_moved_from_one_sibling_to_another_are_refused(units: dict[bytes, int], data: st.DataObject) -> None:
    """The total stays right, and each hash is one of the tree's."""
    tree = tree_of(units)
    provider = data.draw(st.sampled_from(sorted(units)))
    proof = list(tree.proof(provider))
    if len(proof) > 1:
        i, j = data.draw(st.permutations(range(len(proof))))[:2]
        moved = data.draw(st.integers(1, 2**90))
        shifted = [*proof]
        shifted[i] = Sibling(proof[i].hash, proof[i].units + moved)
        shifted[j] = Sibling(proof[j].hash, proof[j].units - moved)
        swapped = [*proof]
        swapped[i], swapped[j] = (Sibling(proof[a].hash, proof[b].units) for a, b in ((i, j), (j, i)))
        for forged in (shifted, swapped):
            assert forged == proof or not proven(tree.root, tree.total_units, provider, units[provider], forged)


Node = tuple[Sibling, dict[int, tuple[Leaf, Proof]]]
"""What somebody made up, and the leaves under it by number, with the proofs that he can give."""


@st.composite
def forged_trees(draw: st.DrawFn) -> Node:
    """A tree of any shape whose author lies about the units of some nodes, to prove more than the total."""
    sizes = draw(st.lists(st.integers(0, 2**95), min_size=2, max_size=12))
    nodes: list[Node] = []
    for number, units in enumerate(sizes):
        leaf = Leaf(word(draw(st.integers(0, 3))), units)
        nodes.append((Sibling(leaf_hash(GATEWAY, leaf.provider, 3, 4, units), units), {number: (leaf, ())}))
    while len(nodes) > 1:
        left, right = (nodes.pop(draw(st.integers(0, len(nodes) - 1))) for _ in range(2))
        # The author may name other units than a child has.
        options = [(node, [node.units, 0, node.units // 2, node.units + 1]) for node, _ in (left, right)]
        named = [Sibling(node.hash, draw(st.sampled_from(units))) for node, units in options]
        below = {}
        for (_, leaves), beside in ((left, named[1]), (right, named[0])):
            below |= {number: (leaf, (*proof, beside)) for number, (leaf, proof) in leaves.items()}
        nodes.append((parent(*named), below))
    return nodes[0]


@given(forged_trees(), st.data())
def test_no_set_of_leaves_that_can_be_proven_is_worth_more_than_the_total(node: Node, data: st.DataObject) -> None:
    (root, honest), leaves = node
    total = data.draw(st.sampled_from([honest, honest // 2, MAX_UNITS]))
    worth = sum(leaf.units for leaf, proof in leaves.values() if proven(root, total, leaf.provider, leaf.units, proof))
    assert worth <= total


@pytest.mark.parametrize(
    ("units", "beside", "holds"),
    [
        (1, MAX_UNITS - 1, True),
        (1, MAX_UNITS, False),
        (MAX_UNITS, 1, False),
        (MAX_UNITS, 0, True),
        (MAX_UNITS + 1, 0, False),
        (1, 2**256 - 1, False),
        (1, -1, False),
    ],
)
def test_no_sum_on_the_way_passes_the_largest_number_of_units(units: int, beside: int, holds: bool) -> None:
    """Otherwise 2^256 − 1 units beside two would be a total of one."""
    leaf = leaf_hash(GATEWAY, bytes(32), 3, 4, units)
    sibling = Sibling(b"\x05" * 32, beside)
    ordered = sorted((Sibling(leaf, units), sibling))
    root = keccak256(b"".join(each + (count % 2**256).to_bytes(32) for each, count in ordered))
    assert verify(root, (units + beside) % 2**256, leaf, units, [sibling]) is holds


def test_a_proof_has_at_most_sixty_four_siblings() -> None:
    node = Sibling(leaf_hash(GATEWAY, bytes(32), 3, 4, 1), 1)
    root, proof = node, []
    for i in range(MAX_PROOF + 1):
        proof.append(Sibling(word(i), i))
        root = parent(root, proof[-1])
        assert verify(*root, node.hash, 1, proof) is (i < MAX_PROOF)


@given(
    keys, st.integers(0, MAX_UINT256), keys, st.integers(), st.lists(st.tuples(st.binary(max_size=40), st.integers()))
)
def test_a_made_up_proof_is_refused_and_never_an_exception(
    root: bytes, total: int, leaf: bytes, units: int, proof: list[tuple[bytes, int]]
) -> None:
    assert not verify(root, total, leaf, units, [Sibling(*pair) for pair in proof]) or (root, total) == (leaf, units)


def test_the_layout_is_that_of_the_standard_merkle_tree() -> None:
    tree = tree_of({word(i): i for i in range(3)})
    a, b, c = (Sibling(leaf_hash(GATEWAY, leaf.provider, 3, 4, leaf.units), leaf.units) for leaf in tree.leaves)
    assert a.hash < b.hash < c.hash
    # Three leaves fill places 4, 3 and 2 of five: c and the pair of b and a are the root's children.
    assert (tree.root, tree.total_units) == parent(parent(a, b), c)
    assert tree.proof(tree.leaves[2].provider) == (parent(b, a),)
    only = tree_of({word(1): 5})
    assert (only.root, only.proof(word(1))) == (leaf_hash(GATEWAY, word(1), 3, 4, 5), ())


def test_a_pair_is_ordered_by_hash_and_then_by_units() -> None:
    low, high = Sibling(b"\x01" * 32, 9), Sibling(b"\x02" * 32, 1)
    expected = keccak256(low.hash + word(9) + high.hash + word(1))
    assert parent(low, high) == parent(high, low) == (expected, 10)
    twin = Sibling(low.hash, 4)
    assert parent(low, twin).hash == parent(twin, low).hash == keccak256(low.hash + word(4) + low.hash + word(9))


def test_a_leaf_is_hashed_twice_over_its_abi_words() -> None:
    inner = keccak256(b"\x01" * 32 + b"\x02" * 32 + word(3) + word(4) + word(5))
    assert leaf_hash(b"\x01" * 32, b"\x02" * 32, 3, 4, 5) == keccak256(inner)


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
        ContributionTree(bytes(32), 1, 1, [])
    with pytest.raises(ValueError):
        ContributionTree(bytes(32), 1, 1, [Leaf(bytes(32), 1), Leaf(bytes(32), 2)])
    with pytest.raises(KeyError):
        ContributionTree(bytes(32), 1, 1, [Leaf(bytes(32), 1)]).proof(b"\x01" * 32)


def test_a_hundred_thousand_leaves_take_seconds() -> None:
    started = time.perf_counter()
    tree = ContributionTree(bytes(32), 1, 1, (Leaf(word(i), i) for i in range(100_000)))
    took = time.perf_counter() - started
    leaf = leaf_hash(bytes(32), word(777), 1, 1, 777)
    assert verify(tree.root, tree.total_units, leaf, 777, tree.proof(word(777)))
    assert len(tree.proof(word(777))) in (16, 17)
    assert took < 30  # about 3 s on an idle core; the bound is for a crowded machine


def test_an_inner_node_never_passes_for_a_leaf() -> None:
    tree = tree_of({word(i): i for i in range(1, 9)})
    first, second = (leaf_hash(GATEWAY, leaf.provider, 3, 4, leaf.units) for leaf in tree.leaves[:2])
    below = tree.proof(tree.leaves[0].provider)
    node = parent(Sibling(first, tree.leaves[0].units), below[0])
    assert verify(tree.root, tree.total_units, *node, below[1:])  # a node is proven as what it is …
    # … which is one hash of 128 bytes; a leaf is the hash of a hash, so no provider's fields make one.
    data = sorted((Sibling(first, tree.leaves[0].units), below[0]))
    assert node.hash == keccak256(b"".join(each + word(units) for each, units in data))
    assert node.hash not in (first, second, keccak256(first), keccak256(node.hash))
