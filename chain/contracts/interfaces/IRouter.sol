// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title Finds the staking pool of a model.
interface IRouter is ICommon {
    event StakingPoolCreated(uint256 indexed modelId, address pool);

    /// @notice Deploys the pool of `modelId`. Model registry only.
    function createPool(uint256 modelId) external returns (address pool);

    /// @notice The pool of `modelId`. @dev Reverts with `UnknownModel`.
    function stakingPool(uint256 modelId) external view returns (address);
}
