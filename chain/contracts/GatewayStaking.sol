// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Stoppable} from "./base/Stoppable.sol";
import {Wired} from "./base/Wired.sol";
import {IDirectory} from "./interfaces/IDirectory.sol";
import {IEpochController} from "./interfaces/IEpochController.sol";
import {IGatewayRegistry} from "./interfaces/IGatewayRegistry.sol";
import {IGatewayStaking} from "./interfaces/IGatewayStaking.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";
import {ISlashing} from "./interfaces/ISlashing.sol";
import {Ids} from "./libraries/Ids.sol";

/// @title Gateway stakes.
contract GatewayStaking is IGatewayStaking, Stoppable {
    using SafeERC20 for IERC20;

    uint256 public constant MAX_MIN_STAKE = 1e26;

    IERC20 private _token;
    IEpochController private _epochs;
    IGatewayRegistry private _gateways;
    ISettlement private _settlement;
    ISlashing private _slashing;

    /// @inheritdoc IGatewayStaking
    uint256 public minGatewayStake;
    mapping(bytes32 key => Stake) private _stakes;

    constructor(IDirectory directory, address owner_, uint256 minGatewayStake_) Wired(directory, owner_) {
        Ids.checkBounds(minGatewayStake_, 1, MAX_MIN_STAKE);
        minGatewayStake = minGatewayStake_;
    }

    /// @inheritdoc IGatewayStaking
    function stakeForGateway(string calldata id, uint256 amount) external whenNotPaused nonReentrant {
        _stake(id, msg.sender, amount);
    }

    /// @inheritdoc IGatewayStaking
    function stakeFromRegistry(string calldata id, address owner_, uint256 amount)
        external
        only(address(_gateways))
        whenNotPaused
        nonReentrant
    {
        _stake(id, owner_, amount);
    }

    /// @inheritdoc IGatewayStaking
    function windDownGateways(string[] calldata ids) external {
        if (ids.length == 0) revert ZeroAmount();
        uint64 end = _epochs.currentEpoch() + _epochs.windDownDelay();
        for (uint256 i = 0; i < ids.length; ++i) {
            bytes32 key = _mine(ids[i], msg.sender);
            Stake storage stake = _stakes[key];
            if (stake.amount == 0) revert NotStaked(key);
            if (stake.windDownEnd != 0) revert GatewayWindingDown(key);
            stake.windDownEnd = end;
            emit GatewayWoundDown(ids[i], key, end);
        }
    }

    /// @inheritdoc IGatewayStaking
    function restartGateway(string calldata id) external whenNotPaused {
        bytes32 key = _mine(id, msg.sender);
        Stake storage stake = _stakes[key];
        if (stake.windDownEnd == 0) revert GatewayNotWoundDown(key);
        stake.windDownEnd = 0;
        emit GatewayRestarted(id, key);
    }

    /// @inheritdoc IGatewayStaking
    function unstakeForGateway(string calldata id) external nonReentrant {
        bytes32 key = _mine(id, msg.sender);
        Stake memory stake = _stakes[key];
        if (stake.amount == 0) revert NotStaked(key);
        if (stake.windDownEnd == 0) revert GatewayNotWoundDown(key);
        uint64 current = _epochs.currentEpoch();
        if (current < stake.windDownEnd) revert WindDownNotOver(key, stake.windDownEnd);
        if (current < stake.unlockEpoch) revert StakeLocked(key, stake.unlockEpoch);
        if (_slashing.isGatewayJailed(key)) revert GatewayJailed(key, _slashing.gatewayJailedUntil(key));
        if (stake.reserved != 0 || _settlement.openChallengesOf(key) != 0) revert StakeUnderDispute(key);
        delete _stakes[key];
        _token.safeTransfer(msg.sender, stake.amount);
        emit GatewayUnstaked(id, key, msg.sender, stake.amount);
    }

    /// @inheritdoc IGatewayStaking
    function claimRewards(string calldata id, uint64 from, uint64 to) external nonReentrant returns (uint256 amount) {
        bytes32 key = _mine(id, msg.sender);
        Ids.checkRange(from, to);
        uint64 claimable = _epochs.claimableEpoch();
        if (to > claimable) revert RewardsNotReady(to, claimable);
        amount = _settlement.takeGatewayShares(key, from, to);
        if (amount == 0) revert NothingToClaim();
        _token.safeTransfer(msg.sender, amount);
        emit GatewayClaimedRewards(id, key, msg.sender, from, to, amount);
    }

    /// @inheritdoc IGatewayStaking
    function setMinGatewayStake(uint256 amount) external onlyOwner {
        Ids.checkBounds(amount, 1, MAX_MIN_STAKE);
        emit MinGatewayStakeUpdated(minGatewayStake, amount);
        minGatewayStake = amount;
    }

    /// @inheritdoc IGatewayStaking
    function charge(bytes32 key, uint256 amount) external only(address(_settlement)) {
        uint256 effective = effectiveStakeOfKey(key);
        if (amount > effective) revert GatewayOverdrawn(key, amount, effective);
        _stakes[key].amount -= uint128(amount);
        _token.safeTransfer(msg.sender, amount);
        emit GatewayCharged(key, amount);
    }

    /// @inheritdoc IGatewayStaking
    function reserve(bytes32 key, uint256 amount) external only(address(_settlement)) returns (uint256 held) {
        held = Math.min(amount, effectiveStakeOfKey(key));
        _setReserved(key, _stakes[key].reserved + uint128(held));
    }

    /// @inheritdoc IGatewayStaking
    function release(bytes32 key, uint256 held) external only(address(_settlement)) {
        _setReserved(key, _stakes[key].reserved - uint128(held));
    }

    /// @inheritdoc IGatewayStaking
    function viewRewards(string calldata id, uint64 from, uint64 to) external view returns (uint256 amount) {
        bytes32 key = Ids.keyOf(id);
        if (_gateways.ownerOf(key) == address(0)) revert UnknownGateway(key);
        Ids.checkRange(from, to);
        uint64 claimable = _epochs.claimableEpoch();
        for (uint64 epoch = from; epoch <= to && epoch <= claimable; ++epoch) {
            amount += _settlement.gatewayShare(key, epoch);
        }
    }

    /// @inheritdoc IGatewayStaking
    function effectiveStake(string calldata id) external view returns (uint256) {
        return effectiveStakeOfKey(Ids.keyOf(id));
    }

    /// @inheritdoc IGatewayStaking
    function isOverdrawn(bytes32 key) external view returns (bool) {
        return effectiveStakeOfKey(key) < minGatewayStake;
    }

    /// @inheritdoc IGatewayStaking
    function stakeOf(string calldata id) external view returns (Stake memory) {
        return _stakes[Ids.keyOf(id)];
    }

    /// @inheritdoc IGatewayStaking
    function stakeOfKey(bytes32 key) external view returns (Stake memory) {
        return _stakes[key];
    }

    /// @inheritdoc IGatewayStaking
    function effectiveStakeOfKey(bytes32 key) public view returns (uint256) {
        Stake storage stake = _stakes[key];
        return stake.amount - stake.reserved;
    }

    function _wire(IDirectory.Entries memory entries) internal override {
        _token = IERC20(entries.token);
        _epochs = IEpochController(entries.epochs);
        _gateways = IGatewayRegistry(entries.gateways);
        _settlement = ISettlement(entries.settlement);
        _slashing = ISlashing(entries.slashing);
    }

    function _stake(string calldata id, address caller, uint256 amount) private {
        bytes32 key = _mine(id, caller);
        if (amount == 0) revert ZeroAmount();
        Stake storage stake = _stakes[key];
        if (stake.windDownEnd != 0) revert GatewayWindingDown(key);
        uint64 unlockEpoch = _epochs.currentEpoch() + _epochs.minEpochsLocked();
        stake.amount += SafeCast.toUint128(amount);
        stake.unlockEpoch = unlockEpoch;
        _token.safeTransferFrom(msg.sender, address(this), amount);
        emit GatewayStaked(id, key, caller, amount, unlockEpoch);
    }

    function _setReserved(bytes32 key, uint128 reserved) private {
        _stakes[key].reserved = reserved;
        emit GatewayReserved(key, reserved);
    }

    function _mine(string calldata id, address caller) private view returns (bytes32 key) {
        key = Ids.keyOf(id);
        address owner_ = _gateways.ownerOf(key);
        if (owner_ == address(0)) revert UnknownGateway(key);
        if (owner_ != caller) revert NotGatewayOwner(key, caller);
    }
}
