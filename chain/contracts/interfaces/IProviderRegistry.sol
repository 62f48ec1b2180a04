// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ICommon} from "./ICommon.sol";

/// @title Who provides which model, and where.
interface IProviderRegistry is ICommon {
    struct Provider {
        address owner;
        uint256 modelId;
        bool deactivated;
        bool whitelisted;
        string id;
        string metadata;
    }

    event ProviderRegistered(
        string id, bytes32 indexed key, address indexed owner, uint256 indexed modelId, string metadata
    );
    event ProviderRegisteredAndStaked(
        string id, bytes32 indexed key, address indexed owner, uint256 indexed modelId, string metadata, uint256 amount
    );
    event ProviderMetadataUpdated(bytes32 indexed key, string metadata);
    event ProviderDeactivated(bytes32 indexed key);
    event ProviderReactivated(bytes32 indexed key);
    event ProviderWhitelisted(bytes32 indexed key, bool whitelisted);
    event ProviderSignerUpdated(bytes32 indexed key, address signer, uint64 fromEpoch);
    event AutoWhitelistUpdated(bool enabled);
    /// @notice A cluster claim: what was paid in all, and the ids of the items that paid nothing.
    event RewardClaimedForCluster(address indexed owner, uint64 from, uint64 to, uint256 amount, string[] failed);
    /// @notice One item of a cluster claim failed, with the revert data of that item.
    event ClusterClaimFailed(string id, bytes reason);

    error ProviderIdTaken(bytes32 key);
    error NotProviderOwner(bytes32 key, address caller);
    error ModelNotEnabled(uint256 modelId);
    error AlreadyDeactivated(bytes32 key);
    error NotDeactivated(bytes32 key);
    error NoProvidersOwned(address owner);
    error TooManyProviders(address owner, uint256 max);
    /// @notice New providers start without the whitelist, so their stake would be locked for nothing.
    error AutoWhitelistOff();

    /// @notice Registers a provider of `modelId`.
    /// @param id unique, 1 … 64 bytes. @param metadata at most 1024 bytes; JSON with `url` and perhaps `name` (the client checks).
    function register(string calldata id, uint256 modelId, string calldata metadata) external;

    /// @notice `register`, then stakes the model's `modelStakeAmount` from the caller. Needs an allowance to this registry.
    function registerAndStake(string calldata id, uint256 modelId, string calldata metadata) external;

    /// @notice Claims `from … to` for every provider that the caller owns; an item that fails is reported, not fatal.
    function claimRewardsCluster(uint64 from, uint64 to) external returns (uint256 amount, string[] memory failed);

    function deactivate(string calldata id) external;

    function reactivate(string calldata id) external;

    function updateMetadata(string calldata id, string calldata metadata) external;

    /// @notice The key that signs receipts for this provider from the next epoch on. Provider's owner.
    /// @param consent the signer's own signature over
    /// `SignerConsent(bytes32 key,address owner,address signer)`; not read if the signer is the caller.
    function setSigner(string calldata id, address signer, bytes calldata consent) external;

    /// @notice Owner of the contract.
    function setWhitelisted(string calldata id, bool whitelisted) external;

    /// @notice Owner of the contract.
    function setAutoWhitelist(bool enabled) external;

    function autoWhitelist() external view returns (bool);

    function provider(string calldata id) external view returns (Provider memory);

    /// @notice Owner and model by key; a zero owner means unknown.
    function ownerAndModel(bytes32 key) external view returns (address owner, uint256 modelId);

    /// @notice Ids of at most 100 providers that `owner` registered.
    function providersOf(address owner) external view returns (string[] memory ids);

    function signerAt(bytes32 key, uint64 epoch) external view returns (address);

    /// @notice Registered, not deactivated, staked enough, whitelisted, and its model is enabled.
    function isActive(string calldata id) external view returns (bool);

    /// @notice Active and not jailed.
    function isEligible(string calldata id) external view returns (bool);

    /// @notice EIP-712 digest that `signer` signs to be a signer of `owner`'s provider.
    function hashConsent(bytes32 key, address owner, address signer) external view returns (bytes32);
}
