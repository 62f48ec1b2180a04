"""Checkpoint trees as anybody may post them: several leaves of one provider too."""

from __future__ import annotations

from collections.abc import Iterable

from chain.merkle import Leaf, Proof, Sibling, leaf_hash, parent
from chain.primitives import Bytes32


class AnyTree:
    """A sum tree of these leaves."""

    def __init__(self, gateway: Bytes32, model_id: int, epoch: int, leaves: Iterable[tuple[Bytes32, int]]) -> None:
        hashed = sorted(
            (leaf_hash(gateway, provider, model_id, epoch, units), provider, units) for provider, units in leaves
        )
        self.leaves = tuple(Leaf(provider, units) for _, provider, units in hashed)
        count = len(hashed)
        ends = [Sibling(each, units) for each, _, units in hashed]
        self._nodes = [*ends[1:], *reversed(ends)]
        for at in range(count - 2, -1, -1):
            self._nodes[at] = parent(self._nodes[2 * at + 1], self._nodes[2 * at + 2])
        self.root, self.total_units = self._nodes[0]

    @property
    def is_plain(self) -> bool:
        """Whether it can be published: gateways tell their leaves by provider."""
        return len({leaf.provider for leaf in self.leaves}) == len(self.leaves)

    def units(self, provider: Bytes32) -> int:
        """Of the largest leaf of a provider; 0 where it has none."""
        return max((leaf.units for leaf in self.leaves if leaf.provider == provider), default=0)

    def proof(self, provider: Bytes32, units: int) -> Proof:
        """Of a leaf. Raises ValueError where there is none."""
        at = 2 * len(self.leaves) - 2 - self.leaves.index(Leaf(provider, units))
        path = []
        while at:
            path.append(self._nodes[at + 1 if at % 2 else at - 1])
            at = (at - 1) // 2
        return tuple(path)
