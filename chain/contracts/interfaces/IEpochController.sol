// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title The block-based clock of the network.
/// @notice Epoch 1 begins with the block that deploys this contract.
interface IEpochController is ICommon {
    event EpochLengthUpdated(uint64 previous, uint64 current, uint64 fromEpoch);
    event MinEpochsLockedUpdated(uint64 previous, uint64 current);
    event EpochRewardDelayUpdated(uint64 previous, uint64 current);
    event WindDownDelayUpdated(uint64 previous, uint64 current);

    /// @notice The epoch that the current block belongs to.
    function currentEpoch() external view returns (uint64);

    /// @notice Length, in blocks, of the current epoch.
    function epochLength() external view returns (uint64);

    /// @notice First block of `epoch`, which may lie in the future (as the lengths stand now).
    /// @dev Reverts with `OutOfBounds` for epoch 0.
    function epochStartBlock(uint64 epoch) external view returns (uint256);

    /// @notice Epochs that a stake stays locked after it was last added to.
    function minEpochsLocked() external view returns (uint64);

    /// @notice Epochs between the end of work and the claim: the challenge window.
    function epochRewardDelay() external view returns (uint64);

    /// @notice Epochs between winding a gateway down and unstaking it.
    function windDownDelay() external view returns (uint64);

    /// @notice currentEpoch − epochRewardDelay, or 0 if that is not positive.
    function claimableEpoch() external view returns (uint64);

    /// @notice Sets the length from the next epoch on; the running epoch keeps its own. Owner.
    /// @dev From half to twice the running length, within 2 … 100,000 blocks.
    function setEpochLength(uint64 length) external;

    /// @notice Owner; 1 … min(64, twice the present value).
    function setMinEpochsLocked(uint64 epochs) external;

    /// @notice Owner; 4 … min(windDownDelay, twice the present value).
    function setEpochRewardDelay(uint64 epochs) external;

    /// @notice Owner; epochRewardDelay … min(64, twice the present value).
    function setWindDownDelay(uint64 epochs) external;
}
