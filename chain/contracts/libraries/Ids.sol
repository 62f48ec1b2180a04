// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "../interfaces/ICommon.sol";

/// @title Limits of ids, metadata and ranges, and how an id becomes a key.
library Ids {
    uint256 internal constant MAX_ID = 64;
    uint256 internal constant MAX_METADATA = 1024;
    uint64 internal constant MAX_RANGE = 512;

    function keyOf(string memory id) internal pure returns (bytes32) {
        return keccak256(bytes(id));
    }

    function checkId(string calldata id) internal pure {
        uint256 length = bytes(id).length;
        if (length == 0 || length > MAX_ID) revert ICommon.InvalidId(length);
    }

    function checkMetadata(string calldata metadata) internal pure {
        uint256 length = bytes(metadata).length;
        if (length > MAX_METADATA) revert ICommon.MetadataTooLong(length);
    }

    function checkRange(uint64 from, uint64 to) internal pure {
        if (from == 0 || from > to || to - from >= MAX_RANGE) revert ICommon.InvalidEpochRange(from, to);
    }

    function checkBounds(uint256 value, uint256 min, uint256 max) internal pure {
        if (value < min || value > max) revert ICommon.OutOfBounds(value, min, max);
    }
}
