// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IEmissionSchedule} from "../interfaces/IRewardPool.sol";
import {Ids} from "../libraries/Ids.sol";

/// @title A budget that halves every so many epochs.
contract HalvingSchedule is IEmissionSchedule {
    uint256 public immutable INITIAL;
    uint64 public immutable EPOCHS_PER_HALVING;
    /// @inheritdoc IEmissionSchedule
    uint256 public immutable total;

    /// @param initial wei an epoch at first, less than 2^128. @param epochsPerHalving at least 1.
    constructor(uint256 initial, uint64 epochsPerHalving) {
        Ids.checkBounds(initial, 0, type(uint128).max);
        Ids.checkBounds(epochsPerHalving, 1, type(uint64).max);
        INITIAL = initial;
        EPOCHS_PER_HALVING = epochsPerHalving;
        uint256 sum;
        for (uint256 k = 0; k < 128; ++k) {
            sum += initial >> k;
        }
        total = sum * epochsPerHalving;
    }

    /// @inheritdoc IEmissionSchedule
    function budget(uint64 epoch) external view returns (uint256) {
        return epoch == 0 ? 0 : INITIAL >> ((epoch - 1) / EPOCHS_PER_HALVING);
    }
}
