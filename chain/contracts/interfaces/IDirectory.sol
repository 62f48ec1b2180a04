// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title Where the contracts of one deployment find each other.
/// @notice The owner fills the entries once and seals them; from then on they never change and nobody owns them.
interface IDirectory is ICommon {
    struct Entries {
        address token;
        address epochs;
        address models;
        address providers;
        address router;
        address gateways;
        address gatewayStaking;
        address escrow;
        address settlement;
        address slashing;
        address disputes;
        address rewardPool;
    }

    event Sealed(Entries entries);

    /// @notice Writes all entries and closes the directory for good; from then on it has no owner. Owner, once.
    function seal(Entries calldata entries) external;

    /// @notice True once `seal` has been called.
    function isSealed() external view returns (bool);

    /// @notice All entries. @dev Reverts with `Wiring` before the directory is sealed.
    function entries() external view returns (Entries memory);
}

/// @title A contract that takes its neighbours from the directory.
interface IWired is ICommon {
    /// @notice Copies the neighbours' addresses from the sealed directory. Anyone, once.
    function wire() external;
}
