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
import {IProviderRegistry} from "./interfaces/IProviderRegistry.sol";
import {ISettlement} from "./interfaces/ISettlement.sol";
import {ISlashing} from "./interfaces/ISlashing.sol";
import {Ids} from "./libraries/Ids.sol";

/// @title Gateway stakes, and the lines by which they guarantee single providers' work.
contract GatewayStaking is IGatewayStaking, Stoppable {
    using SafeERC20 for IERC20;

    uint256 public constant MAX_MIN_STAKE = 1e26;

    IERC20 private _token;
    IEpochController private _epochs;
    IGatewayRegistry private _gateways;
    IProviderRegistry private _providers;
    ISettlement private _settlement;
    ISlashing private _slashing;

    /// @inheritdoc IGatewayStaking
    uint256 public minGatewayStake;
    mapping(bytes32 key => Stake) private _stakes;
    mapping(bytes32 key => mapping(bytes32 provider => Line)) private _lines;

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
        if (stake.reserved != 0) revert LinesOpen(key, stake.reserved);
        uint256 debt = _settlement.debtOf(key);
        if (debt != 0) revert GatewayInDebt(key, debt);
        delete _stakes[key];
        _token.safeTransfer(msg.sender, stake.amount);
        emit GatewayUnstaked(id, key, msg.sender, stake.amount);
    }

    /// @inheritdoc IGatewayStaking
    function fundLines(string calldata id, string[] calldata providerIds, uint256[] calldata amounts)
        external
        whenNotPaused
    {
        bytes32 key = _mine(id, msg.sender);
        if (providerIds.length != amounts.length) revert LengthMismatch();
        bytes32[] memory keys = new bytes32[](amounts.length);
        uint256 sum;
        for (uint256 i = 0; i < amounts.length; ++i) {
            if (amounts[i] == 0) revert ZeroAmount();
            keys[i] = Ids.keyOf(providerIds[i]);
            (address provider,) = _providers.ownerAndModel(keys[i]);
            if (provider == address(0)) revert UnknownProvider(keys[i]);
            sum = Math.saturatingAdd(sum, amounts[i]);
        }
        Stake storage stake = _stakes[key];
        uint256 spare = spareStakeOfKey(key);
        if (sum > spare) revert InsufficientStake(sum, spare);
        if (stake.windDownEnd != 0) revert GatewayWindingDown(key);
        stake.reserved += uint128(sum);
        for (uint256 i = 0; i < amounts.length; ++i) {
            Line storage line = _lines[key][keys[i]];
            uint128 total = line.amount + uint128(amounts[i]);
            line.amount = total;
            emit LineFunded(key, keys[i], amounts[i], total);
        }
    }

    /// @inheritdoc IGatewayStaking
    function thawLine(string calldata id, string calldata providerId, uint256 amount) external {
        bytes32 key = _mine(id, msg.sender);
        if (amount == 0) revert ZeroAmount();
        bytes32 provider = Ids.keyOf(providerId);
        Line storage line = _lines[key][provider];
        uint256 firm = line.amount - line.thawing;
        if (amount > firm) revert InsufficientBalance(amount, firm);
        // A voucher can be enforced for epochRewardDelay epochs, and a provider may learn of a thaw one epoch late.
        uint64 end = _epochs.currentEpoch() + _epochs.epochRewardDelay() + 2;
        line.thawing += uint128(amount);
        line.thawEnd = end;
        emit LineThawing(key, provider, line.thawing, end);
    }

    /// @inheritdoc IGatewayStaking
    function releaseLine(string calldata id, string calldata providerId) external returns (uint256 amount) {
        bytes32 key = _mine(id, msg.sender);
        bytes32 provider = Ids.keyOf(providerId);
        Line memory line = _lines[key][provider];
        if (line.thawing == 0) revert NothingThawing(msg.sender);
        if (_epochs.currentEpoch() < line.thawEnd) revert StillThawing(line.thawEnd);
        uint128 freed = uint128(Math.min(line.thawing, line.amount - line.held));
        if (freed == 0) revert LineHeld(key, provider);
        line.amount -= freed;
        line.thawing -= freed;
        if (line.thawing == 0) line.thawEnd = 0;
        _lines[key][provider] = line;
        _stakes[key].reserved -= freed;
        emit LineReleased(key, provider, freed);
        return freed;
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
        uint256 present = minGatewayStake;
        Ids.checkBounds(amount, Math.ceilDiv(present, 2), Math.min(2 * present, MAX_MIN_STAKE));
        emit MinGatewayStakeUpdated(present, amount);
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
    function holdLine(bytes32 gateway, bytes32 provider, uint256 amount)
        external
        only(address(_settlement))
        returns (uint256 held)
    {
        Line storage line = _lines[gateway][provider];
        held = Math.min(amount, line.amount - line.held);
        if (held != 0) line.held += uint128(held);
    }

    /// @inheritdoc IGatewayStaking
    function endHold(bytes32 gateway, bytes32 provider, uint256 amount) external only(address(_settlement)) {
        Line storage line = _lines[gateway][provider];
        // A charge in between may have taken what was held.
        line.held -= uint128(Math.min(amount, line.held));
    }

    /// @inheritdoc IGatewayStaking
    function chargeLine(bytes32 gateway, bytes32 provider, uint256 amount)
        external
        only(address(_settlement))
        returns (uint256 taken)
    {
        Line memory line = _lines[gateway][provider];
        taken = Math.min(amount, line.amount);
        if (taken == 0) return 0;
        line.amount -= uint128(taken);
        line.thawing = uint128(Math.min(line.thawing, line.amount));
        line.held = uint128(Math.min(line.held, line.amount));
        _lines[gateway][provider] = line;
        Stake storage stake = _stakes[gateway];
        stake.amount -= uint128(taken);
        stake.reserved -= uint128(taken);
        _token.safeTransfer(msg.sender, taken);
        emit LineCharged(gateway, provider, taken);
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
        return effectiveStakeOfKey(key) == 0;
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
    function lineOf(bytes32 gateway, bytes32 provider) external view returns (Line memory) {
        return _lines[gateway][provider];
    }

    /// @inheritdoc IGatewayStaking
    function guaranteed(bytes32 gateway, bytes32 provider) external view returns (uint256) {
        Line storage line = _lines[gateway][provider];
        return line.amount - line.thawing;
    }

    /// @inheritdoc IGatewayStaking
    function effectiveStakeOfKey(bytes32 key) public view returns (uint256) {
        Stake storage stake = _stakes[key];
        return stake.amount - stake.reserved;
    }

    /// @inheritdoc IGatewayStaking
    function spareStakeOfKey(bytes32 key) public view returns (uint256) {
        return Math.saturatingSub(effectiveStakeOfKey(key), minGatewayStake);
    }

    function _wire(IDirectory.Entries memory entries) internal override {
        _token = IERC20(entries.token);
        _epochs = IEpochController(entries.epochs);
        _gateways = IGatewayRegistry(entries.gateways);
        _providers = IProviderRegistry(entries.providers);
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

    function _mine(string calldata id, address caller) private view returns (bytes32 key) {
        key = Ids.keyOf(id);
        address owner_ = _gateways.ownerOf(key);
        if (owner_ == address(0)) revert UnknownGateway(key);
        if (owner_ != caller) revert NotGatewayOwner(key, caller);
    }
}
