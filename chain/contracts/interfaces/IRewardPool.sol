// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title A schedule of emission per epoch.
interface IEmissionSchedule {
    /// @notice The most that epoch `epoch` may emit, in wei.
    function budget(uint64 epoch) external view returns (uint256);

    /// @notice Upper bound of the sum of `budget` over all epochs, in wei.
    function total() external view returns (uint256);
}

/// @title Emission with a hard cap, and boosts that sponsors pay.
interface IRewardPool is ICommon {
    /// @notice `amount` wei were added to the pot and `burned` wei burned.
    event Boosted(
        uint256 indexed modelId, uint64 indexed epoch, address indexed sponsor, uint256 amount, uint256 burned
    );
    event Emitted(uint256 indexed modelId, uint64 indexed epoch, uint256 emission, uint256 boost);

    error EpochPassed(uint64 epoch, uint64 current);
    error CapTooSmall(uint256 cap, uint256 scheduled);

    /// @notice Adds `amount` wei of the caller's, less what is burned as of fees, to the pot of a current or future epoch.
    /// Needs an allowance.
    function boost(uint256 modelId, uint64 epoch, uint256 amount) external;

    /// @notice Mints the emission and sends it with the boosts to `to`. Settlement only, once a model and epoch.
    function settle(uint256 modelId, uint64 epoch, uint256 weight, uint256 totalWeight, address to)
        external
        returns (uint256 emission, uint256 boosted);

    /// @notice `totalWeight` ≤ budget ? weight : floor(budget × weight ÷ totalWeight); 0 if `totalWeight` is 0.
    function emissionFor(uint64 epoch, uint256 weight, uint256 totalWeight) external view returns (uint256);

    function boostOf(uint256 modelId, uint64 epoch) external view returns (uint256);

    function emitted() external view returns (uint256);

    function EMISSION_CAP() external view returns (uint256);

    function schedule() external view returns (IEmissionSchedule);
}
