// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title Models, what they cost, what their creators earn, and how they are rated.
interface IModelRegistry is ICommon {
    struct Model {
        address creator;
        uint32 blocks;
        uint16 royaltyBps;
        bool enabled;
        uint128 modelStakeAmount;
        bytes32 manifestHash;
        string name;
        string metadataURI;
    }

    /// @notice Sums over finalised epochs: units of work, fees in wei, wei that this traffic and boosts burned for good,
    /// and the number of epochs with work.
    struct Usage {
        uint128 units;
        uint128 fees;
        uint128 burned;
        uint64 epochs;
    }

    event ModelCreated(
        uint256 indexed modelId,
        address indexed creator,
        string name,
        bytes32 manifestHash,
        string metadataURI,
        uint32 blocks,
        uint128 pricePerToken,
        uint16 royaltyBps,
        uint128 modelStakeAmount,
        address stakingPool
    );
    event ModelEnabled(uint256 indexed modelId);
    event ModelDisabled(uint256 indexed modelId);
    event ModelPriceUpdated(uint256 indexed modelId, uint128 pricePerToken, uint64 fromEpoch);
    event ModelRated(uint256 indexed modelId, bytes32 indexed rater, uint8 score, uint256 weight);
    event ModelUsed(uint256 indexed modelId, uint64 indexed epoch, uint256 units, uint256 fees, uint256 burned);
    /// @notice A boost burned `amount` wei.
    event ModelBurned(uint256 indexed modelId, uint256 amount);

    error NotModelCreator(uint256 modelId, address caller);
    error ModelNameTaken(string name);
    error ModelAlreadyEnabled(uint256 modelId);
    error ModelAlreadyDisabled(uint256 modelId);
    error InvalidScore(uint8 score);
    error NoVotingStake(bytes32 rater);
    error NotRated(uint256 modelId, bytes32 rater);

    /// @notice Publishes a model, enabled, and creates its staking pool.
    /// @param name unique, 1 … 64 bytes.
    /// @param manifestHash sha256 of the weights' manifest, not zero.
    /// @param metadataURI at most 1024 bytes.
    /// @param blocks decoder layers, 1 … 4096.
    /// @param pricePerToken wei for one weighted token through all blocks; may be 0.
    /// @param royaltyBps the creator's part of every fee, at most 5000; fixed for good.
    /// @param modelStakeAmount wei that each provider stakes, positive; fixed for good.
    /// @return modelId 1, 2, 3, …
    function createModel(
        string calldata name,
        bytes32 manifestHash,
        string calldata metadataURI,
        uint32 blocks,
        uint128 pricePerToken,
        uint16 royaltyBps,
        uint128 modelStakeAmount
    ) external returns (uint256 modelId);

    function enable(uint256 modelId) external;

    function disable(uint256 modelId) external;

    /// @notice A new price, in force from the epoch after the next on. Creator.
    function updatePrice(uint256 modelId, uint128 pricePerToken) external;

    /// @notice Rates a model 1 … 5 as a gateway that the caller owns; a later rating replaces it.
    /// @dev Weight: the gateway's effective stake now, at most what its fees for this model burned for good.
    function rateModel(uint256 modelId, string calldata gatewayId, uint8 score) external;

    /// @notice Brings a rating's weight in line with the gateway's present stake and spending. Anyone.
    function refreshRating(uint256 modelId, string calldata gatewayId) external;

    /// @notice Adds to the usage counters. Settlement only.
    function recordUsage(uint256 modelId, uint64 epoch, uint128 units, uint128 fees, uint128 burned) external;

    /// @notice Adds to what a gateway's fees for this model burned for good. Settlement only.
    function recordSpend(uint256 modelId, bytes32 gateway, uint256 amount) external;

    /// @notice Adds what a boost burned to the usage counters. Reward pool only.
    function recordBurn(uint256 modelId, uint256 amount) external;

    function modelCount() external view returns (uint256);

    function model(uint256 modelId) external view returns (Model memory);

    function exists(uint256 modelId) external view returns (bool);

    /// @notice The model of this name; 0 if there is none.
    function modelIdOf(string calldata name) external view returns (uint256);

    function isEnabled(uint256 modelId) external view returns (bool);

    function creatorOf(uint256 modelId) external view returns (address);

    function royaltyBpsOf(uint256 modelId) external view returns (uint16);

    function modelStakeAmount(uint256 modelId) external view returns (uint128);

    /// @notice The price in force now, wei for one weighted token.
    function pricePerToken(uint256 modelId) external view returns (uint128);

    /// @notice The price in force in `epoch`.
    function priceAt(uint256 modelId, uint64 epoch) external view returns (uint128);

    /// @notice ceil(units × priceAt(epoch) ÷ blocks): what `units` of work cost.
    function feeFor(uint256 modelId, uint64 epoch, uint256 units) external view returns (uint256);

    /// @notice floor(amount × blocks ÷ priceAt(epoch)): the work that `amount` wei pay for; 0 if it is free.
    function unitsFor(uint256 modelId, uint64 epoch, uint256 amount) external view returns (uint256);

    function usage(uint256 modelId) external view returns (Usage memory);

    /// @notice Wei that the gateway's posted fees burned for this model and that no emission can give back.
    function spentBy(uint256 modelId, bytes32 gateway) external view returns (uint256);

    /// @notice Sum of score × weight, and sum of weights; their quotient is the stake-weighted rating.
    function rating(uint256 modelId) external view returns (uint256 scoreTimesWeight, uint256 weight);
}
