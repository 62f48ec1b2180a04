// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";

/// @title Leaves and trees in the form of OpenZeppelin's StandardMerkleTree.
library Leaves {
    /// @notice Hashed twice, so that 64 bytes of an inner node can never pass for a leaf.
    function hash(bytes32 gateway, bytes32 provider, uint256 modelId, uint64 epoch, uint256 units)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(bytes.concat(keccak256(abi.encode(gateway, provider, modelId, epoch, units))));
    }

    /// @notice Root of the complete tree over `leaves`, which are in the tree's order (ascending).
    function root(bytes32[] memory leaves) internal pure returns (bytes32) {
        uint256 n = leaves.length;
        bytes32[] memory tree = new bytes32[](2 * n - 1);
        for (uint256 i = 0; i < n; ++i) {
            tree[2 * n - 2 - i] = leaves[i];
        }
        for (uint256 i = n - 1; i > 0; --i) {
            tree[i - 1] = Hashes.commutativeKeccak256(tree[2 * i - 1], tree[2 * i]);
        }
        return tree[0];
    }
}
