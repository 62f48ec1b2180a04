// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ISettlementTypes} from "../interfaces/ISettlement.sol";

/// @title Leaves and sum trees: every node binds the units of both children, so no tree can prove more than its total.
library Leaves {
    /// @notice Far above any real epoch, and small enough that no product with a price overflows.
    uint256 internal constant MAX_UNITS = type(uint96).max;
    uint256 internal constant MAX_DEPTH = 64;

    /// @notice Hashed twice, so that nothing else that is hashed here can pass for a leaf.
    function hash(bytes32 gateway, bytes32 provider, uint256 modelId, uint64 epoch, uint256 units)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(bytes.concat(keccak256(abi.encode(gateway, provider, modelId, epoch, units))));
    }

    /// @notice True if the path from a leaf of `units` ends at the root with exactly `totalUnits`.
    function verify(
        ISettlementTypes.Sibling[] calldata proof,
        bytes32 root,
        uint256 totalUnits,
        bytes32 leaf,
        uint256 units
    ) internal pure returns (bool) {
        uint256 depth = proof.length;
        if (depth > MAX_DEPTH || units > MAX_UNITS) return false;
        for (uint256 i = 0; i < depth; ++i) {
            bytes32 otherHash = proof[i].hash;
            uint256 otherUnits = proof[i].units;
            if (otherUnits > MAX_UNITS - units) return false;
            leaf = parent(leaf, units, otherHash, otherUnits);
            units += otherUnits;
        }
        return leaf == root && units == totalUnits;
    }

    /// @notice Hash of the node above two others, in whichever order they are given.
    function parent(bytes32 a, uint256 aUnits, bytes32 b, uint256 bUnits) internal pure returns (bytes32 value) {
        if (b < a || (b == a && bUnits < aUnits)) (a, aUnits, b, bUnits) = (b, bUnits, a, aUnits);
        // keccak256(abi.encode(a, aUnits, b, bUnits)) without allocating.
        assembly ("memory-safe") {
            let free := mload(0x40)
            mstore(free, a)
            mstore(add(free, 0x20), aUnits)
            mstore(add(free, 0x40), b)
            mstore(add(free, 0x60), bUnits)
            value := keccak256(free, 0x80)
        }
    }
}
