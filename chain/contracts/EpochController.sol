// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IEpochController} from "./interfaces/IEpochController.sol";
import {Ids} from "./libraries/Ids.sol";

/// @title The block-based clock.
contract EpochController is IEpochController, Ownable2Step {
    uint64 public constant MIN_LENGTH = 2;
    uint64 public constant MAX_LENGTH = 100_000;
    uint64 public constant MIN_REWARD_DELAY = 4;
    uint64 public constant MAX_EPOCHS = 64;

    /// @dev From block `start` on, which begins `epoch`, epochs last `length` blocks.
    struct Segment {
        uint64 epoch;
        uint64 start;
        uint64 length;
    }

    Segment[] private _segments;

    /// @inheritdoc IEpochController
    uint64 public minEpochsLocked;
    /// @inheritdoc IEpochController
    uint64 public epochRewardDelay;
    /// @inheritdoc IEpochController
    uint64 public windDownDelay;

    constructor(address owner_, uint64 length, uint64 minEpochsLocked_, uint64 epochRewardDelay_, uint64 windDownDelay_)
        Ownable(owner_)
    {
        Ids.checkBounds(length, MIN_LENGTH, MAX_LENGTH);
        Ids.checkBounds(minEpochsLocked_, 1, MAX_EPOCHS);
        Ids.checkBounds(windDownDelay_, MIN_REWARD_DELAY, MAX_EPOCHS);
        Ids.checkBounds(epochRewardDelay_, MIN_REWARD_DELAY, windDownDelay_);
        _segments.push(Segment({epoch: 1, start: SafeCast.toUint64(block.number), length: length}));
        minEpochsLocked = minEpochsLocked_;
        epochRewardDelay = epochRewardDelay_;
        windDownDelay = windDownDelay_;
    }

    /// @inheritdoc IEpochController
    function setEpochLength(uint64 length) external onlyOwner {
        Segment memory now_ = _running();
        uint256 least = Math.max(MIN_LENGTH, Math.ceilDiv(now_.length, 2));
        Ids.checkBounds(length, least, _atMostTwice(now_.length, MAX_LENGTH));
        uint64 next = _epochIn(now_) + 1;
        uint64 start = now_.start + (next - now_.epoch) * now_.length;
        Segment storage last = _segments[_segments.length - 1];
        if (last.start > block.number) {
            last.length = length;
        } else {
            _segments.push(Segment({epoch: next, start: start, length: length}));
        }
        emit EpochLengthUpdated(now_.length, length, next);
    }

    /// @inheritdoc IEpochController
    function setMinEpochsLocked(uint64 epochs) external onlyOwner {
        Ids.checkBounds(epochs, 1, _atMostTwice(minEpochsLocked, MAX_EPOCHS));
        emit MinEpochsLockedUpdated(minEpochsLocked, epochs);
        minEpochsLocked = epochs;
    }

    /// @inheritdoc IEpochController
    function setEpochRewardDelay(uint64 epochs) external onlyOwner {
        Ids.checkBounds(epochs, MIN_REWARD_DELAY, _atMostTwice(epochRewardDelay, windDownDelay));
        emit EpochRewardDelayUpdated(epochRewardDelay, epochs);
        epochRewardDelay = epochs;
    }

    /// @inheritdoc IEpochController
    function setWindDownDelay(uint64 epochs) external onlyOwner {
        Ids.checkBounds(epochs, epochRewardDelay, _atMostTwice(windDownDelay, MAX_EPOCHS));
        emit WindDownDelayUpdated(windDownDelay, epochs);
        windDownDelay = epochs;
    }

    /// @inheritdoc IEpochController
    function currentEpoch() public view returns (uint64) {
        return _epochIn(_running());
    }

    /// @inheritdoc IEpochController
    function epochLength() external view returns (uint64) {
        return _running().length;
    }

    /// @inheritdoc IEpochController
    function epochStartBlock(uint64 epoch) external view returns (uint256) {
        Ids.checkBounds(epoch, 1, type(uint64).max);
        uint256 i = _segments.length - 1;
        while (_segments[i].epoch > epoch) --i;
        Segment memory segment = _segments[i];
        return segment.start + uint256(epoch - segment.epoch) * segment.length;
    }

    /// @inheritdoc IEpochController
    function claimableEpoch() external view returns (uint64) {
        uint64 current = currentEpoch();
        return current > epochRewardDelay ? current - epochRewardDelay : 0;
    }

    /// @dev No single change of a parameter more than doubles what those who are locked in must wait for.
    function _atMostTwice(uint256 present, uint256 max) private pure returns (uint256) {
        return Math.min(2 * present, max);
    }

    function _running() private view returns (Segment memory segment) {
        uint256 last = _segments.length - 1;
        segment = _segments[last];
        // Only the newest segment can lie in the future, because setting again replaces it.
        if (segment.start > block.number) segment = _segments[last - 1];
    }

    function _epochIn(Segment memory segment) private view returns (uint64) {
        return segment.epoch + (uint64(block.number) - segment.start) / segment.length;
    }
}
