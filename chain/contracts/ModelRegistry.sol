// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {Stoppable} from "./base/Stoppable.sol";
import {Wired} from "./base/Wired.sol";
import {IDirectory} from "./interfaces/IDirectory.sol";
import {IEpochController} from "./interfaces/IEpochController.sol";
import {IGatewayRegistry} from "./interfaces/IGatewayRegistry.sol";
import {IGatewayStaking} from "./interfaces/IGatewayStaking.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {IRouter} from "./interfaces/IRouter.sol";
import {Ids} from "./libraries/Ids.sol";

/// @title Models, prices, royalties, usage and ratings.
contract ModelRegistry is IModelRegistry, Stoppable {
    using Checkpoints for Checkpoints.Trace208;

    uint32 public constant MAX_BLOCKS = 4096;
    uint16 public constant MAX_ROYALTY_BPS = 5000;

    struct Rating {
        uint8 score;
        uint128 weight;
    }

    struct RatingSums {
        uint256 scoreTimesWeight;
        uint256 weight;
    }

    IEpochController private _epochs;
    IGatewayRegistry private _gateways;
    IGatewayStaking private _gatewayStaking;
    IRouter private _router;
    address private _settlement;
    address private _rewardPool;

    /// @inheritdoc IModelRegistry
    uint256 public modelCount;
    mapping(uint256 modelId => Model) private _models;
    mapping(uint256 modelId => Checkpoints.Trace208) private _prices;
    mapping(uint256 modelId => Usage) private _usage;
    mapping(uint256 modelId => RatingSums) private _sums;
    mapping(uint256 modelId => mapping(bytes32 gateway => Rating)) private _ratings;
    /// @inheritdoc IModelRegistry
    mapping(uint256 modelId => mapping(bytes32 gateway => uint256)) public spentBy;
    mapping(bytes32 nameHash => uint256 modelId) private _named;

    constructor(IDirectory directory, address owner_) Wired(directory, owner_) {}

    modifier known(uint256 modelId) {
        _known(modelId);
        _;
    }

    modifier onlyCreator(uint256 modelId) {
        _onlyCreator(modelId);
        _;
    }

    /// @inheritdoc IModelRegistry
    function createModel(
        string calldata name,
        bytes32 manifestHash,
        string calldata metadataURI,
        uint32 blocks,
        uint128 price,
        uint16 royaltyBps,
        uint128 stakeAmount
    ) external whenNotPaused returns (uint256 modelId) {
        Ids.checkId(name);
        bytes32 nameHash = Ids.keyOf(name);
        if (_named[nameHash] != 0) revert ModelNameTaken(name);
        if (manifestHash == 0) revert ZeroAmount();
        Ids.checkMetadata(metadataURI);
        Ids.checkBounds(blocks, 1, MAX_BLOCKS);
        Ids.checkBounds(royaltyBps, 0, MAX_ROYALTY_BPS);
        if (stakeAmount == 0) revert ZeroAmount();

        modelId = ++modelCount;
        _named[nameHash] = modelId;
        Model storage model_ = _models[modelId];
        model_.creator = msg.sender;
        model_.blocks = blocks;
        model_.royaltyBps = royaltyBps;
        model_.enabled = true;
        model_.modelStakeAmount = stakeAmount;
        model_.manifestHash = manifestHash;
        model_.name = name;
        model_.metadataURI = metadataURI;
        _publish(modelId, price);
    }

    /// @inheritdoc IModelRegistry
    function enable(uint256 modelId) external onlyCreator(modelId) {
        if (_models[modelId].enabled) revert ModelAlreadyEnabled(modelId);
        _models[modelId].enabled = true;
        emit ModelEnabled(modelId);
    }

    /// @inheritdoc IModelRegistry
    function disable(uint256 modelId) external onlyCreator(modelId) {
        if (!_models[modelId].enabled) revert ModelAlreadyDisabled(modelId);
        _models[modelId].enabled = false;
        emit ModelDisabled(modelId);
    }

    /// @inheritdoc IModelRegistry
    function updatePrice(uint256 modelId, uint128 price) external whenNotPaused onlyCreator(modelId) {
        // A route that is planned in one epoch may still be worked and vouched for in the next.
        uint64 from = _epochs.currentEpoch() + 2;
        _setPrice(modelId, from, price);
        emit ModelPriceUpdated(modelId, price, from);
    }

    /// @inheritdoc IModelRegistry
    function rateModel(uint256 modelId, string calldata gatewayId, uint8 score) external whenNotPaused known(modelId) {
        if (score == 0 || score > 5) revert InvalidScore(score);
        bytes32 key = Ids.keyOf(gatewayId);
        address rater = _gateways.ownerOf(key);
        if (rater == address(0)) revert UnknownGateway(key);
        if (rater != msg.sender) revert Unauthorized(msg.sender);
        uint256 weight = _weightOf(modelId, key);
        if (weight == 0) revert NoVotingStake(key);
        _setRating(modelId, key, score, weight);
    }

    /// @inheritdoc IModelRegistry
    function refreshRating(uint256 modelId, string calldata gatewayId) external known(modelId) {
        bytes32 key = Ids.keyOf(gatewayId);
        uint8 score = _ratings[modelId][key].score;
        if (score == 0) revert NotRated(modelId, key);
        _setRating(modelId, key, score, _weightOf(modelId, key));
    }

    /// @inheritdoc IModelRegistry
    function recordUsage(uint256 modelId, uint64 epoch, uint128 units, uint128 fees, uint128 burned)
        external
        only(_settlement)
    {
        Usage storage usage_ = _usage[modelId];
        usage_.units += units;
        usage_.fees += fees;
        usage_.burned += burned;
        usage_.epochs += 1;
        emit ModelUsed(modelId, epoch, units, fees, burned);
    }

    /// @inheritdoc IModelRegistry
    function recordSpend(uint256 modelId, bytes32 gateway, uint256 amount) external only(_settlement) {
        spentBy[modelId][gateway] += amount;
    }

    /// @inheritdoc IModelRegistry
    function recordBurn(uint256 modelId, uint256 amount) external only(_rewardPool) {
        _usage[modelId].burned += SafeCast.toUint128(amount);
        emit ModelBurned(modelId, amount);
    }

    /// @inheritdoc IModelRegistry
    function model(uint256 modelId) external view known(modelId) returns (Model memory) {
        return _models[modelId];
    }

    /// @inheritdoc IModelRegistry
    function exists(uint256 modelId) public view returns (bool) {
        return _models[modelId].creator != address(0);
    }

    /// @inheritdoc IModelRegistry
    function modelIdOf(string calldata name) external view returns (uint256) {
        return _named[Ids.keyOf(name)];
    }

    /// @inheritdoc IModelRegistry
    function isEnabled(uint256 modelId) external view returns (bool) {
        return _models[modelId].enabled;
    }

    /// @inheritdoc IModelRegistry
    function creatorOf(uint256 modelId) external view known(modelId) returns (address) {
        return _models[modelId].creator;
    }

    /// @inheritdoc IModelRegistry
    function royaltyBpsOf(uint256 modelId) external view known(modelId) returns (uint16) {
        return _models[modelId].royaltyBps;
    }

    /// @inheritdoc IModelRegistry
    function modelStakeAmount(uint256 modelId) external view known(modelId) returns (uint128) {
        return _models[modelId].modelStakeAmount;
    }

    /// @inheritdoc IModelRegistry
    function pricePerToken(uint256 modelId) external view known(modelId) returns (uint128) {
        return _priceAt(modelId, _epochs.currentEpoch());
    }

    /// @inheritdoc IModelRegistry
    function priceAt(uint256 modelId, uint64 epoch) external view known(modelId) returns (uint128) {
        return _priceAt(modelId, epoch);
    }

    /// @inheritdoc IModelRegistry
    function feeFor(uint256 modelId, uint64 epoch, uint256 units) external view known(modelId) returns (uint256) {
        return Math.mulDiv(units, _priceAt(modelId, epoch), _models[modelId].blocks, Math.Rounding.Ceil);
    }

    /// @inheritdoc IModelRegistry
    function unitsFor(uint256 modelId, uint64 epoch, uint256 amount) external view known(modelId) returns (uint256) {
        uint128 price = _priceAt(modelId, epoch);
        return price == 0 ? 0 : Math.mulDiv(amount, _models[modelId].blocks, price);
    }

    /// @inheritdoc IModelRegistry
    function usage(uint256 modelId) external view known(modelId) returns (Usage memory) {
        return _usage[modelId];
    }

    /// @inheritdoc IModelRegistry
    function rating(uint256 modelId) external view known(modelId) returns (uint256 scoreTimesWeight, uint256 weight) {
        RatingSums storage sums = _sums[modelId];
        return (sums.scoreTimesWeight, sums.weight);
    }

    function _wire(IDirectory.Entries memory entries) internal override {
        _epochs = IEpochController(entries.epochs);
        _gateways = IGatewayRegistry(entries.gateways);
        _gatewayStaking = IGatewayStaking(entries.gatewayStaking);
        _router = IRouter(entries.router);
        _settlement = entries.settlement;
        _rewardPool = entries.rewardPool;
    }

    /// @dev Apart from `createModel`, whose arguments fill the stack.
    function _publish(uint256 modelId, uint128 price) private {
        _setPrice(modelId, _epochs.currentEpoch(), price);
        address pool = _router.createPool(modelId);
        Model memory m = _models[modelId];
        emit ModelCreated(
            modelId,
            m.creator,
            m.name,
            m.manifestHash,
            m.metadataURI,
            m.blocks,
            price,
            m.royaltyBps,
            m.modelStakeAmount,
            pool
        );
    }

    function _setPrice(uint256 modelId, uint64 from, uint128 price) private {
        _prices[modelId].push(SafeCast.toUint48(from), price);
    }

    function _setRating(uint256 modelId, bytes32 key, uint8 score, uint256 weight) private {
        Rating storage rating_ = _ratings[modelId][key];
        RatingSums storage sums = _sums[modelId];
        sums.scoreTimesWeight =
            sums.scoreTimesWeight + uint256(score) * weight - uint256(rating_.score) * rating_.weight;
        sums.weight = sums.weight + weight - rating_.weight;
        rating_.score = score;
        rating_.weight = SafeCast.toUint128(weight);
        emit ModelRated(modelId, key, score, weight);
    }

    /// @dev Stake alone would let those rate who never paid for the model.
    function _weightOf(uint256 modelId, bytes32 key) private view returns (uint256) {
        return Math.min(_gatewayStaking.effectiveStakeOfKey(key), spentBy[modelId][key]);
    }

    function _priceAt(uint256 modelId, uint64 epoch) private view returns (uint128) {
        return uint128(_prices[modelId].upperLookupRecent(SafeCast.toUint48(epoch)));
    }

    function _known(uint256 modelId) private view {
        if (!exists(modelId)) revert UnknownModel(modelId);
    }

    function _onlyCreator(uint256 modelId) private view {
        _known(modelId);
        if (_models[modelId].creator != msg.sender) revert NotModelCreator(modelId, msg.sender);
    }
}
