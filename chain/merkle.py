"""Sum trees of contributions: Merkle trees whose every node binds the units under it, so that no set of leaves that
can be proven is worth more than the total.

A node is (hash, units). A leaf is hashed twice, so that what is hashed for an inner node can never pass for one; the
leaves are sorted by hash and fill a complete binary tree from its end; a pair is ordered before it is hashed, so a
proof needs no directions.
Source: OpenZeppelin `merkle-tree` (layout); the sums are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eth_hash.auto import keccak

from chain.primitives import MAX_UINT96, Bytes32, word, word32

MAX_PROOF = 64
"""Siblings in a proof; hashing more of them for a stranger would only take time."""
MAX_UNITS = MAX_UINT96
"""No sum on the way to a root is larger."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """What one provider earned: its key and its units of work in one slot (gateway, model, epoch)."""

    provider: Bytes32
    units: int


class Sibling(NamedTuple):
    """A node beside the way from a leaf to the root: its hash and the units under it."""

    hash: Bytes32
    units: int


Proof = tuple[Sibling, ...]
"""Siblings from the leaf up."""


def leaf_hash(gateway: Bytes32, provider: Bytes32, model_id: int, epoch: int, units: int) -> Bytes32:
    """Hash of a contribution leaf: keccak256(keccak256(abi.encode(gateway, provider, modelId, epoch, units))).

    Raises:
        ValueError: a field does not fit its ABI type (bytes32, bytes32, uint256, uint64, uint256).
    """
    return keccak(keccak(word32(gateway) + word32(provider) + word(model_id) + word(epoch, 64) + word(units)))


def parent(a: Sibling, b: Sibling) -> Sibling:
    """The node above two; their order does not matter.

    Raises:
        ValueError: a number of units that is no uint256, or a hash that is not 32 bytes.
    """
    if b < a:
        a, b = b, a
    hashed = keccak(word32(a.hash) + word(a.units) + word32(b.hash) + word(b.units))
    return Sibling(hashed, a.units + b.units)


def verify(root: Bytes32, total_units: int, leaf: Bytes32, units: int, proof: Sequence[Sibling]) -> bool:
    """Whether the proof leads from the leaf (its hash and units) to the root and the total.

    No tree is deeper than `MAX_PROOF`, and no sum on the way exceeds `MAX_UNITS`; what is no proof at all is refused.
    """
    if len(proof) > MAX_PROOF or not 0 <= units <= MAX_UNITS or len(leaf) != 32:
        return False
    node = Sibling(leaf, units)
    for hashed, below in proof:
        if len(hashed) != 32 or not 0 <= below <= MAX_UNITS - node.units:
            return False
        node = parent(node, Sibling(hashed, below))
    return node == (root, total_units)


class ContributionTree:
    """The checkpoint of one slot: a provider's leaf, its proof and the total, ready to be posted."""

    __slots__ = ("_nodes", "_places", "epoch", "gateway", "leaves", "model_id", "total_units")

    def __init__(self, gateway: Bytes32, model_id: int, epoch: int, leaves: Iterable[Leaf]) -> None:
        """Raises ValueError for no leaves, two leaves of one provider, or a field out of its type's range."""
        self.gateway, self.model_id, self.epoch = gateway, model_id, epoch
        hashed = sorted(
            (leaf_hash(gateway, leaf.provider, model_id, epoch, leaf.units), leaf.provider, leaf.units)
            for leaf in leaves
        )
        self.leaves = tuple(Leaf(provider, units) for _, provider, units in hashed)
        count = len(hashed)
        self._places = {leaf.provider: 2 * count - 2 - i for i, leaf in enumerate(self.leaves)}
        if len(self._places) != count:
            raise ValueError("a provider has two leaves")
        self._nodes = _build([Sibling(leaf, units) for leaf, _, units in hashed])
        self.total_units = self._nodes[0].units

    @property
    def root(self) -> Bytes32:
        return self._nodes[0].hash

    def proof(self, provider: Bytes32) -> Proof:
        """Proof of a provider's leaf. Raises KeyError if it has none."""
        at = self._places[provider]
        path = []
        while at:
            path.append(self._nodes[at + 1 if at % 2 else at - 1])
            at = (at - 1) // 2
        return tuple(path)


def _build(leaves: Sequence[Sibling]) -> list[Sibling]:
    """All nodes, the root first: the children of place i are at 2i + 1 and 2i + 2."""
    if not leaves:
        raise ValueError("a tree needs a leaf")
    nodes = [*leaves[1:], *reversed(leaves)]  # the first half is overwritten from its end
    for i in range(len(leaves) - 2, -1, -1):
        nodes[i] = parent(nodes[2 * i + 1], nodes[2 * i + 2])
    return nodes
