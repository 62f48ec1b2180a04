// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Stoppable} from "./base/Stoppable.sol";
import {Wired} from "./base/Wired.sol";
import {IDirectory} from "./interfaces/IDirectory.sol";
import {IEpochController} from "./interfaces/IEpochController.sol";
import {IFuncToken} from "./interfaces/IFuncToken.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {IEmissionSchedule, IRewardPool} from "./interfaces/IRewardPool.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";

/// @title Emission with a hard cap, and boosts.
contract RewardPool is IRewardPool, Stoppable {
    using SafeERC20 for IFuncToken;

    uint256 private constant BPS = 10_000;

    /// @inheritdoc IRewardPool
    uint256 public immutable EMISSION_CAP;
    IEmissionSchedule private immutable SCHEDULE;

    IFuncToken private _token;
    IEpochController private _epochs;
    IModelRegistry private _models;
    ISettlement private _settlement;

    /// @inheritdoc IRewardPool
    uint256 public emitted;
    /// @inheritdoc IRewardPool
    mapping(uint256 modelId => mapping(uint64 epoch => uint256)) public boostOf;

    constructor(IDirectory directory, address owner_, uint256 cap, IEmissionSchedule schedule_)
        Wired(directory, owner_)
    {
        uint256 scheduled = schedule_.total();
        if (scheduled > cap) revert CapTooSmall(cap, scheduled);
        EMISSION_CAP = cap;
        SCHEDULE = schedule_;
    }

    /// @inheritdoc IRewardPool
    function boost(uint256 modelId, uint64 epoch, uint256 amount) external whenNotPaused nonReentrant {
        if (!_models.exists(modelId)) revert UnknownModel(modelId);
        if (amount == 0) revert ZeroAmount();
        uint64 current = _epochs.currentEpoch();
        if (epoch < current) revert EpochPassed(epoch, current);
        uint256 burned = Math.mulDiv(amount, _settlement.parameters().burnBps, BPS);
        uint256 added = amount - burned;
        boostOf[modelId][epoch] += added;
        _token.safeTransferFrom(msg.sender, address(this), amount);
        _token.burn(burned);
        _models.recordBurn(modelId, burned);
        emit Boosted(modelId, epoch, msg.sender, added, burned);
    }

    /// @inheritdoc IRewardPool
    function settle(uint256 modelId, uint64 epoch, uint256 weight, uint256 totalWeight, address to)
        external
        only(address(_settlement))
        returns (uint256 emission, uint256 boosted)
    {
        emission = Math.min(emissionFor(epoch, weight, totalWeight), EMISSION_CAP - emitted);
        emitted += emission;
        boosted = boostOf[modelId][epoch];
        boostOf[modelId][epoch] = 0;
        if (emission != 0) _token.mint(to, emission);
        if (boosted != 0) _token.safeTransfer(to, boosted);
        emit Emitted(modelId, epoch, emission, boosted);
    }

    /// @inheritdoc IRewardPool
    function emissionFor(uint64 epoch, uint256 weight, uint256 totalWeight) public view returns (uint256) {
        uint256 budget = SCHEDULE.budget(epoch);
        return totalWeight <= budget ? weight : Math.mulDiv(budget, weight, totalWeight);
    }

    /// @inheritdoc IRewardPool
    function schedule() external view returns (IEmissionSchedule) {
        return SCHEDULE;
    }

    function _wire(IDirectory.Entries memory entries) internal override {
        _token = IFuncToken(entries.token);
        _epochs = IEpochController(entries.epochs);
        _models = IModelRegistry(entries.models);
        _settlement = ISettlement(entries.settlement);
    }
}
