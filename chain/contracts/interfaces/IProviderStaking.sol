// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title The pool of one model: provider stakes, per-epoch contributions and pots.
interface IProviderStaking is ICommon {
    struct Stake {
        uint128 amount;
        uint64 unlockEpoch;
    }

    /// @notice A finalised epoch: pot in wei and all units, and of both what proofs have allotted to providers.
    struct Pot {
        uint128 amount;
        uint128 totalUnits;
        uint128 allotted;
        uint128 provenUnits;
    }

    event ProviderStaked(string id, bytes32 indexed key, address indexed owner, uint256 amount, uint64 unlockEpoch);
    event ProviderUnstaked(string id, bytes32 indexed key, address indexed owner, uint256 amount);
    event ProviderClaimedRewards(string id, bytes32 indexed key, address indexed owner, uint64 from, uint64 to, uint256 amount);
    event ProviderSlashed(bytes32 indexed key, uint256 amount);
    event ContributionRecorded(bytes32 indexed key, uint64 indexed epoch, uint256 units, uint256 reward);
    event PotFunded(uint64 indexed epoch, uint256 amount, uint256 totalUnits);
    /// @notice The last unit of an epoch was proven; the rounding remainder goes into the next pot.
    event DustCarried(uint64 indexed epoch, uint256 amount);

    error NotProviderOwner(bytes32 key, address caller);
    error WrongPool(bytes32 key, uint256 modelId);
    error ModelNotEnabled(uint256 modelId);
    error AlreadyStaked(bytes32 key);
    error NotStaked(bytes32 key);
    error StakeLocked(bytes32 key, uint64 unlockEpoch);
    error StakeUnderDispute(bytes32 key);

    /// @notice Stakes what is missing to `modelStakeAmount` from the caller. Needs an allowance to this pool.
    function stakeForProvider(string calldata id) external;

    /// @notice The same, on behalf of `owner`, with tokens that the registry holds. Registry only.
    function stakeFromRegistry(string calldata id, address owner) external returns (uint256 amount);

    /// @notice Pays the whole stake back to the provider's owner.
    function unstakeProvider(string calldata id) external;

    /// @notice Pays the rewards of epochs `from … to` (both included) to the provider's owner.
    /// @dev The caller is that owner or the registry.
    function claimRewards(string calldata id, uint64 from, uint64 to) external returns (uint256 amount);

    /// @notice What `claimRewards` would pay now for contributions already proven; 0 for epochs that are not ready.
    function viewRewards(string calldata id, uint64 from, uint64 to) external view returns (uint256 amount);

    /// @notice Adds proven units of a provider and allots its part of the pot, which is funded. Settlement only.
    function recordContribution(bytes32 key, uint64 epoch, uint128 units) external;

    /// @notice Records the pot of an epoch, whose tokens have been sent. Settlement only, once an epoch.
    /// @return potAmount `amount` plus what was carried forward.
    function fundPot(uint64 epoch, uint128 amount, uint128 totalUnits) external returns (uint128 potAmount);

    /// @notice Takes up to `amount` of a provider's stake and sends it to the caller. Slashing or disputes only.
    function slash(bytes32 key, uint256 amount) external returns (uint256 taken);

    function modelId() external view returns (uint256);

    function stakeOf(string calldata id) external view returns (Stake memory);

    function stakeOfKey(bytes32 key) external view returns (uint256);

    function totalStake() external view returns (uint256);

    function pot(uint64 epoch) external view returns (Pot memory);

    /// @notice Proven units of a provider in an epoch, and the wei that wait to be claimed for them.
    function contribution(string calldata id, uint64 epoch) external view returns (uint128 units, uint128 unclaimed);

    /// @notice Wei waiting for the next pot: rounding remainders and pots without work.
    function carried() external view returns (uint128);
}
