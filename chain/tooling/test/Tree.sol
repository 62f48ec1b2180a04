// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";

/// @title OpenZeppelin's StandardMerkleTree, as the off-chain side builds it.
library Tree {
    function sorted(bytes32[] memory leaves) internal pure returns (bytes32[] memory copy) {
        copy = new bytes32[](leaves.length);
        for (uint256 i = 0; i < leaves.length; ++i) {
            uint256 j = i;
            for (; j > 0 && copy[j - 1] > leaves[i]; --j) copy[j] = copy[j - 1];
            copy[j] = leaves[i];
        }
    }

    function nodes(bytes32[] memory leaves) internal pure returns (bytes32[] memory tree) {
        bytes32[] memory order = sorted(leaves);
        uint256 n = order.length;
        tree = new bytes32[](2 * n - 1);
        for (uint256 i = 0; i < n; ++i) tree[2 * n - 2 - i] = order[i];
        for (uint256 i = n - 1; i > 0; --i) {
            tree[i - 1] = Hashes.commutativeKeccak256(tree[2 * i - 1], tree[2 * i]);
        }
    }

    function root(bytes32[] memory leaves) internal pure returns (bytes32) {
        return nodes(leaves)[0];
    }

    function proof(bytes32[] memory leaves, bytes32 leaf) internal pure returns (bytes32[] memory path) {
        bytes32[] memory tree = nodes(leaves);
        uint256 place = tree.length;
        for (uint256 i = leaves.length - 1; i < tree.length; ++i) if (tree[i] == leaf) place = i;
        require(place < tree.length, "not a leaf");
        uint256 depth;
        for (uint256 i = place; i > 0; i = (i - 1) / 2) ++depth;
        path = new bytes32[](depth);
        for (uint256 k = 0; place > 0; place = (place - 1) / 2) path[k++] = tree[place % 2 == 1 ? place + 1 : place - 1];
    }
}
