// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IDirectory} from "./interfaces/IDirectory.sol";
import {IEpochController} from "./interfaces/IEpochController.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {IProviderRegistry} from "./interfaces/IProviderRegistry.sol";
import {IProviderStaking} from "./interfaces/IProviderStaking.sol";
import {ISlashing} from "./interfaces/ISlashing.sol";
import {Ids} from "./libraries/Ids.sol";

/// @title The pool of one model; the router clones it, and the clones share the immutables of the original.
contract ProviderStaking is IProviderStaking, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    struct Contribution {
        uint128 units;
        uint128 unclaimed;
    }

    IERC20 private immutable TOKEN;
    IEpochController private immutable EPOCHS;
    IModelRegistry private immutable MODELS;
    IProviderRegistry private immutable PROVIDERS;
    ISlashing private immutable SLASHING;
    address private immutable ROUTER;
    address private immutable SETTLEMENT;
    address private immutable DISPUTES;

    /// @inheritdoc IProviderStaking
    uint256 public modelId;
    /// @inheritdoc IProviderStaking
    uint256 public totalStake;
    /// @inheritdoc IProviderStaking
    uint128 public carried;
    mapping(bytes32 key => Stake) private _stakes;
    mapping(uint64 epoch => Pot) private _pots;
    mapping(bytes32 key => mapping(uint64 epoch => Contribution)) private _contributions;

    /// @dev The original is never a pool: its `modelId` stays at a number that no model has.
    constructor(IDirectory.Entries memory entries) {
        TOKEN = IERC20(entries.token);
        EPOCHS = IEpochController(entries.epochs);
        MODELS = IModelRegistry(entries.models);
        PROVIDERS = IProviderRegistry(entries.providers);
        SLASHING = ISlashing(entries.slashing);
        ROUTER = entries.router;
        SETTLEMENT = entries.settlement;
        DISPUTES = entries.disputes;
        modelId = type(uint256).max;
    }

    /// @notice Binds a fresh clone to its model. Router only, once.
    function initialize(uint256 modelId_) external {
        if (msg.sender != ROUTER) revert Unauthorized(msg.sender);
        if (modelId != 0) revert Wiring();
        modelId = modelId_;
    }

    /// @inheritdoc IProviderStaking
    function stakeForProvider(string calldata id) external nonReentrant {
        _notPaused();
        _stake(id, msg.sender);
    }

    /// @inheritdoc IProviderStaking
    function stakeFromRegistry(string calldata id, address owner) external nonReentrant returns (uint256 amount) {
        if (msg.sender != address(PROVIDERS)) revert Unauthorized(msg.sender);
        _notPaused();
        return _stake(id, owner);
    }

    /// @inheritdoc IProviderStaking
    function unstakeProvider(string calldata id) external nonReentrant {
        (bytes32 key, address owner) = _find(id);
        if (owner != msg.sender) revert NotProviderOwner(key, msg.sender);
        Stake memory stake = _stakes[key];
        if (stake.amount == 0) revert NotStaked(key);
        if (EPOCHS.currentEpoch() < stake.unlockEpoch) revert StakeLocked(key, stake.unlockEpoch);
        if (SLASHING.isStakeHeld(key)) revert StakeUnderDispute(key);
        delete _stakes[key];
        totalStake -= stake.amount;
        TOKEN.safeTransfer(owner, stake.amount);
        emit ProviderUnstaked(id, key, owner, stake.amount);
    }

    /// @inheritdoc IProviderStaking
    function claimRewards(string calldata id, uint64 from, uint64 to) external nonReentrant returns (uint256 amount) {
        (bytes32 key, address owner) = _find(id);
        if (msg.sender != owner && msg.sender != address(PROVIDERS)) revert NotProviderOwner(key, msg.sender);
        Ids.checkRange(from, to);
        uint64 claimable = EPOCHS.claimableEpoch();
        if (to > claimable) revert RewardsNotReady(to, claimable);

        mapping(uint64 epoch => Contribution) storage contributions = _contributions[key];
        for (uint64 epoch = from; epoch <= to; ++epoch) {
            uint128 reward = contributions[epoch].unclaimed;
            if (reward == 0) continue;
            contributions[epoch].unclaimed = 0;
            amount += reward;
        }
        if (amount == 0) revert NothingToClaim();
        TOKEN.safeTransfer(owner, amount);
        emit ProviderClaimedRewards(id, key, owner, from, to, amount);
    }

    /// @inheritdoc IProviderStaking
    function recordContribution(bytes32 key, uint64 epoch, uint128 units) external {
        if (msg.sender != SETTLEMENT) revert Unauthorized(msg.sender);
        Contribution memory own = _contributions[key][epoch];
        Pot memory pot_ = _pots[epoch];
        // A difference of floors, so that parts proven one by one add up to the floor of the whole.
        uint256 reward = Math.mulDiv(pot_.amount, own.units + units, pot_.totalUnits)
            - Math.mulDiv(pot_.amount, own.units, pot_.totalUnits);
        own.units += units;
        own.unclaimed += uint128(reward);
        pot_.allotted += uint128(reward);
        pot_.provenUnits += units;
        if (pot_.provenUnits == pot_.totalUnits && pot_.allotted < pot_.amount) {
            uint128 dust = pot_.amount - pot_.allotted;
            pot_.allotted = pot_.amount;
            carried += dust;
            emit DustCarried(epoch, dust);
        }
        _contributions[key][epoch] = own;
        _pots[epoch].allotted = pot_.allotted;
        _pots[epoch].provenUnits = pot_.provenUnits;
        emit ContributionRecorded(key, epoch, units, reward);
    }

    /// @inheritdoc IProviderStaking
    function fundPot(uint64 epoch, uint128 amount, uint128 totalUnits) external returns (uint128 potAmount) {
        if (msg.sender != SETTLEMENT) revert Unauthorized(msg.sender);
        if (totalUnits == 0) {
            carried += amount;
            return 0;
        }
        potAmount = amount + carried;
        carried = 0;
        _pots[epoch] = Pot({amount: potAmount, totalUnits: totalUnits, allotted: 0, provenUnits: 0});
        emit PotFunded(epoch, potAmount, totalUnits);
    }

    /// @inheritdoc IProviderStaking
    function slash(bytes32 key, uint256 amount) external returns (uint256 taken) {
        if (msg.sender != address(SLASHING) && msg.sender != DISPUTES) revert Unauthorized(msg.sender);
        Stake storage stake = _stakes[key];
        taken = Math.min(amount, stake.amount);
        stake.amount -= uint128(taken);
        totalStake -= taken;
        TOKEN.safeTransfer(msg.sender, taken);
        emit ProviderSlashed(key, taken);
    }

    /// @inheritdoc IProviderStaking
    function viewRewards(string calldata id, uint64 from, uint64 to) external view returns (uint256 amount) {
        (bytes32 key,) = _find(id);
        Ids.checkRange(from, to);
        uint64 claimable = EPOCHS.claimableEpoch();
        for (uint64 epoch = from; epoch <= to && epoch <= claimable; ++epoch) {
            amount += _contributions[key][epoch].unclaimed;
        }
    }

    /// @inheritdoc IProviderStaking
    function stakeOf(string calldata id) external view returns (Stake memory) {
        return _stakes[Ids.keyOf(id)];
    }

    /// @inheritdoc IProviderStaking
    function stakeOfKey(bytes32 key) external view returns (uint256) {
        return _stakes[key].amount;
    }

    /// @inheritdoc IProviderStaking
    function pot(uint64 epoch) external view returns (Pot memory) {
        return _pots[epoch];
    }

    /// @inheritdoc IProviderStaking
    function contribution(string calldata id, uint64 epoch) external view returns (uint128, uint128) {
        Contribution memory own = _contributions[Ids.keyOf(id)][epoch];
        return (own.units, own.unclaimed);
    }

    function _stake(string calldata id, address caller) private returns (uint256 amount) {
        (bytes32 key, address owner) = _find(id);
        if (owner != caller) revert NotProviderOwner(key, caller);
        if (!MODELS.isEnabled(modelId)) revert ModelNotEnabled(modelId);
        Stake storage stake = _stakes[key];
        uint128 wanted = MODELS.modelStakeAmount(modelId);
        if (stake.amount >= wanted) revert AlreadyStaked(key);
        amount = wanted - stake.amount;
        uint64 unlockEpoch = EPOCHS.currentEpoch() + EPOCHS.minEpochsLocked();
        stake.amount = wanted;
        stake.unlockEpoch = unlockEpoch;
        totalStake += amount;
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
        emit ProviderStaked(id, key, owner, amount, unlockEpoch);
    }

    function _find(string calldata id) private view returns (bytes32 key, address owner) {
        key = Ids.keyOf(id);
        uint256 provides;
        (owner, provides) = PROVIDERS.ownerAndModel(key);
        if (owner == address(0)) revert UnknownProvider(key);
        if (provides != modelId) revert WrongPool(key, modelId);
    }

    function _notPaused() private view {
        if (Pausable(ROUTER).paused()) revert Pausable.EnforcedPause();
    }
}
