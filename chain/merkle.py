"""Merkle trees of contributions, in the form of OpenZeppelin's StandardMerkleTree.

A leaf is hashed twice, so that the 64 bytes of an inner node can never pass for one; the hashed leaves are sorted and
fill a complete binary tree from its end; a pair is sorted before it is hashed, so a proof needs no directions.
Source: OpenZeppelin `merkle-tree` (layout) and `MerkleProof.sol` (verification, single and multiple).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eth_hash.auto import keccak

from chain.primitives import ZERO_HASH, Bytes32, word, word32

MAX_PROOF = 64
"""Siblings in a proof; hashing more of them for a stranger would only take time."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """What one provider earned: its key and its units of work in one slot (gateway, model, epoch)."""

    provider: Bytes32
    units: int


@dataclass(frozen=True, slots=True)
class MultiProof:
    """Some leaves' hashes, ascending, with what proves them together. `flags[i]`: step i pairs two known nodes."""

    leaves: tuple[Bytes32, ...]
    proof: tuple[Bytes32, ...]
    flags: tuple[bool, ...]


def leaf_hash(gateway: Bytes32, provider: Bytes32, model_id: int, epoch: int, units: int) -> Bytes32:
    """Hash of a contribution leaf: keccak256(keccak256(abi.encode(gateway, provider, modelId, epoch, units))).

    Raises:
        ValueError: a field does not fit its ABI type (bytes32, bytes32, uint256, uint64, uint256).
    """
    return keccak(keccak(word32(gateway) + word32(provider) + word(model_id) + word(epoch, 64) + word(units)))


def hash_pair(a: Bytes32, b: Bytes32) -> Bytes32:
    """Hash of an inner node; the order of the children does not matter."""
    return keccak(a + b if a < b else b + a)


def ordered_root(leaves: Sequence[Bytes32]) -> Bytes32:
    """Root of the tree over hashed leaves taken in the given order.

    Raises:
        ValueError: no leaves.
    """
    return _build(leaves)[0]


class MerkleTree:
    """A tree over hashed leaves, sorted here; building costs 2n − 1 hashes of memory and n − 1 of time."""

    __slots__ = ("_nodes", "_sorted")

    def __init__(self, leaves: Iterable[Bytes32]) -> None:
        """Raises ValueError if there are no leaves."""
        self._sorted: list[Bytes32] = sorted(leaves)
        self._nodes = _build(self._sorted)

    def __len__(self) -> int:
        return len(self._sorted)

    @property
    def root(self) -> Bytes32:
        return self._nodes[0]

    @property
    def leaves(self) -> tuple[Bytes32, ...]:
        """The hashed leaves in the tree's order."""
        return tuple(self._sorted)

    def proof(self, leaf: Bytes32) -> tuple[Bytes32, ...]:
        """Siblings from the leaf up. Raises KeyError if the leaf is not in the tree."""
        at, path = self._index(leaf), []
        while at:
            path.append(self._nodes[_sibling(at)])
            at = (at - 1) // 2
        return tuple(path)

    def multiproof(self, leaves: Iterable[Bytes32]) -> MultiProof:
        """One proof for several different leaves. Raises KeyError if one is not in the tree."""
        indices = sorted({self._index(leaf) for leaf in leaves}, reverse=True)
        if not indices:
            return MultiProof((), (self.root,), ())
        queue, head = list(indices), 0
        proof: list[Bytes32] = []
        flags: list[bool] = []
        while head < len(queue) and queue[head] > 0:
            at, head = queue[head], head + 1
            paired = head < len(queue) and queue[head] == _sibling(at)
            flags.append(paired)
            if paired:
                head += 1
            else:
                proof.append(self._nodes[_sibling(at)])
            queue.append((at - 1) // 2)
        return MultiProof(tuple(self._nodes[i] for i in indices), tuple(proof), tuple(flags))

    def _index(self, leaf: Bytes32) -> int:
        place = bisect_left(self._sorted, leaf)
        if place == len(self._sorted) or self._sorted[place] != leaf:
            raise KeyError(leaf.hex())
        return len(self._nodes) - 1 - place


def verify(root: Bytes32, leaf: Bytes32, proof: Sequence[Bytes32]) -> bool:
    """Whether the proof leads from the hashed leaf to the root. No tree is deeper than `MAX_PROOF`."""
    if len(proof) > MAX_PROOF:
        return False
    node = leaf
    for sibling in proof:
        node = hash_pair(node, sibling)
    return node == root


def verify_multi(root: Bytes32, leaves: Sequence[Bytes32], proof: Sequence[Bytes32], flags: Sequence[bool]) -> bool:
    """Whether the multiproof leads from all the leaves to the root; a malformed one is simply false."""
    if len(leaves) + len(proof) != len(flags) + 1:
        return False
    if not flags:
        return (leaves[0] if leaves else proof[0]) == root
    hashes = [ZERO_HASH] * len(flags)
    known, computed, given = 0, 0, 0
    for i, paired in enumerate(flags):
        pair: list[Bytes32] = []
        for take_known in (True, paired):
            if not take_known:
                if given == len(proof):
                    return False
                pair.append(proof[given])
                given += 1
            elif known < len(leaves):
                pair.append(leaves[known])
                known += 1
            elif computed == len(flags):
                return False
            else:
                # A node that has not been computed yet reads as zero, as it does on the chain.
                pair.append(hashes[computed])
                computed += 1
        hashes[i] = hash_pair(pair[0], pair[1])
    return given == len(proof) and hashes[-1] == root


class ContributionTree:
    """The checkpoint of one slot: a provider's leaf, its proof and the total, ready to be posted."""

    __slots__ = ("_hashes", "_tree", "epoch", "gateway", "leaves", "model_id", "total_units")

    def __init__(self, gateway: Bytes32, model_id: int, epoch: int, leaves: Iterable[Leaf]) -> None:
        """Raises ValueError for no leaves, two leaves of one provider, or a field out of its type's range."""
        self.gateway, self.model_id, self.epoch = gateway, model_id, epoch
        given = tuple(leaves)
        self._hashes = {leaf.provider: leaf_hash(gateway, leaf.provider, model_id, epoch, leaf.units) for leaf in given}
        if len(self._hashes) != len(given):
            raise ValueError("a provider has two leaves")
        self._tree = MerkleTree(self._hashes.values())
        self.leaves = tuple(sorted(given, key=lambda leaf: self._hashes[leaf.provider]))
        self.total_units = sum(leaf.units for leaf in given)

    @property
    def root(self) -> Bytes32:
        return self._tree.root

    def proof(self, provider: Bytes32) -> tuple[Bytes32, ...]:
        """Proof of a provider's leaf. Raises KeyError if it has none."""
        return self._tree.proof(self._hashes[provider])

    def multiproof(self, providers: Iterable[Bytes32]) -> tuple[tuple[Leaf, ...], MultiProof]:
        """The leaves of some providers, in the tree's order, and their proof. Raises KeyError if one has none."""
        wanted = set(providers)
        missing = wanted - self._hashes.keys()
        if missing:
            raise KeyError(min(missing).hex())
        chosen = tuple(leaf for leaf in self.leaves if leaf.provider in wanted)
        return chosen, self._tree.multiproof(self._hashes[provider] for provider in wanted)


def _build(leaves: Sequence[Bytes32]) -> list[Bytes32]:
    count = len(leaves)
    if not count:
        raise ValueError("a tree needs a leaf")
    nodes = [ZERO_HASH] * (count - 1) + list(reversed(leaves))
    for i in range(count - 2, -1, -1):
        left, right = nodes[2 * i + 1], nodes[2 * i + 2]
        nodes[i] = keccak(left + right if left < right else right + left)
    return nodes


def _sibling(at: int) -> int:
    return at + 1 if at % 2 else at - 1
