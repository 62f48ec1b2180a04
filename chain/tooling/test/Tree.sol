// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ISettlementTypes} from "contracts/interfaces/ISettlement.sol";

/// @title The sum tree, as the off-chain side builds it; written without the contracts' library, to check it.
library Tree {
    function sorted(ISettlementTypes.Sibling[] memory leaves)
        internal
        pure
        returns (ISettlementTypes.Sibling[] memory copy)
    {
        copy = new ISettlementTypes.Sibling[](leaves.length);
        for (uint256 i = 0; i < leaves.length; ++i) {
            uint256 j = i;
            for (; j > 0 && copy[j - 1].hash > leaves[i].hash; --j) {
                copy[j] = copy[j - 1];
            }
            copy[j] = leaves[i];
        }
    }

    function nodes(ISettlementTypes.Sibling[] memory leaves)
        internal
        pure
        returns (ISettlementTypes.Sibling[] memory tree)
    {
        ISettlementTypes.Sibling[] memory order = sorted(leaves);
        uint256 n = order.length;
        tree = new ISettlementTypes.Sibling[](2 * n - 1);
        for (uint256 i = 0; i < n; ++i) {
            tree[2 * n - 2 - i] = order[i];
        }
        for (uint256 i = n - 1; i > 0; --i) {
            tree[i - 1] = parent(tree[2 * i - 1], tree[2 * i]);
        }
    }

    /// @dev Units wrap here, as a cheating gateway may let them.
    function parent(ISettlementTypes.Sibling memory a, ISettlementTypes.Sibling memory b)
        internal
        pure
        returns (ISettlementTypes.Sibling memory)
    {
        if (a.hash > b.hash || (a.hash == b.hash && a.units > b.units)) (a, b) = (b, a);
        unchecked {
            return ISettlementTypes.Sibling(keccak256(abi.encode(a.hash, a.units, b.hash, b.units)), a.units + b.units);
        }
    }

    function root(ISettlementTypes.Sibling[] memory leaves) internal pure returns (bytes32) {
        return nodes(leaves)[0].hash;
    }

    function proof(ISettlementTypes.Sibling[] memory leaves, ISettlementTypes.Sibling memory leaf)
        internal
        pure
        returns (ISettlementTypes.Sibling[] memory path)
    {
        ISettlementTypes.Sibling[] memory tree = nodes(leaves);
        uint256 place = tree.length;
        for (uint256 i = leaves.length - 1; i < tree.length; ++i) {
            if (tree[i].hash == leaf.hash) place = i;
        }
        require(place < tree.length, "not a leaf");
        uint256 depth;
        for (uint256 i = place; i > 0; i = (i - 1) / 2) {
            ++depth;
        }
        path = new ISettlementTypes.Sibling[](depth);
        for (uint256 k = 0; place > 0; place = (place - 1) / 2) {
            path[k++] = tree[place % 2 == 1 ? place + 1 : place - 1];
        }
    }
}
