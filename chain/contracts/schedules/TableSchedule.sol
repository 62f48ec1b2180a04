// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {IEmissionSchedule} from "../interfaces/IRewardPool.sol";
import {Ids} from "../libraries/Ids.sol";

/// @title A budget read from a table of cumulative amounts per month, such as node mining or task mining.
/// @notice The table comes from pure functions outside the chain; within a month it is followed in a straight line.
contract TableSchedule is IEmissionSchedule {
    uint64 public immutable EPOCHS_PER_MONTH;
    uint256[] private _cumulative;

    /// @param cumulative wei at the end of months 0, 1, …, n; not decreasing; n ≥ 1.
    constructor(uint256[] memory cumulative, uint64 epochsPerMonth) {
        Ids.checkBounds(cumulative.length, 2, 1024);
        Ids.checkBounds(epochsPerMonth, 1, type(uint32).max);
        for (uint256 i = 0; i < cumulative.length; ++i) {
            Ids.checkBounds(cumulative[i], i == 0 ? 0 : cumulative[i - 1], type(uint128).max);
            _cumulative.push(cumulative[i]);
        }
        EPOCHS_PER_MONTH = epochsPerMonth;
    }

    /// @inheritdoc IEmissionSchedule
    function budget(uint64 epoch) external view returns (uint256) {
        return epoch == 0 ? 0 : cumulativeAfter(epoch) - cumulativeAfter(epoch - 1);
    }

    /// @inheritdoc IEmissionSchedule
    function total() external view returns (uint256) {
        return _cumulative[_cumulative.length - 1];
    }

    /// @notice Wei scheduled for the first `epochs` epochs together.
    function cumulativeAfter(uint64 epochs) public view returns (uint256) {
        if (epochs == 0) return 0;
        uint256 month = epochs / EPOCHS_PER_MONTH;
        uint256 last = _cumulative.length - 1;
        if (month >= last) return _cumulative[last];
        uint256 start = _cumulative[month];
        return start + Math.mulDiv(_cumulative[month + 1] - start, epochs % EPOCHS_PER_MONTH, EPOCHS_PER_MONTH);
    }
}
